"""Files by path or URL: downloads from a real server, cache, checksums."""

import functools
import hashlib
import http.server
import os
import threading

import pytest

from big_vision import download

CONTENT = b"piece\n" * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


class Handler(http.server.SimpleHTTPRequestHandler):
  """Serves a folder; remembers requests; redirects and cuts off on demand."""

  requests = []

  def do_GET(self):
    self.requests.append((self.path, self.headers.get("Authorization")))
    if self.path.startswith("/redirect/"):
      self.send_response(302)
      # Another host name, as the hub's storage has.
      port = self.server.server_address[1]
      target = self.path.removeprefix("/redirect")
      self.send_header("Location", f"http://localhost:{port}{target}")
      self.end_headers()
    elif self.path == "/cut":
      self.send_response(200)
      self.send_header("Content-Length", "1000")
      self.end_headers()
      self.wfile.write(b"x" * 10)
    else:
      super().do_GET()

  def log_message(self, *args):
    pass


@pytest.fixture
def server(tmp_path):
  """URL of a server of the folder tmp_path/remote."""
  (tmp_path / "remote").mkdir()
  (tmp_path / "remote" / "v.txt").write_bytes(CONTENT)
  Handler.requests = []
  handler = functools.partial(Handler, directory=str(tmp_path / "remote"))
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("BV_CACHE_DIR", str(tmp_path / "cache"))
  monkeypatch.delenv("HF_ENDPOINT", raising=False)
  monkeypatch.delenv("HF_TOKEN", raising=False)
  return tmp_path / "cache" / "vocab"


def read(path):
  with open(path, "rb") as f:
    return f.read()


def test_local_paths_are_used_as_they_are(tmp_path, cache):
  path = tmp_path / "v.txt"
  path.write_bytes(CONTENT)
  assert download.fetch(str(path)) == str(path)
  assert download.fetch(f"{path}#sha256={SHA.upper()}") == str(path)
  assert not cache.exists()
  with pytest.raises(ValueError, match=f"v.txt has the sha256 {SHA}.*pin"):
    download.fetch(f"{path}#sha256={OTHER}")
  with pytest.raises(ValueError, match="no file '.*nope"):
    download.fetch(str(tmp_path / "nope"))
  with pytest.raises(ValueError, match="64 hexadecimal digits, not 'abc'"):
    download.fetch(f"{path}#sha256=abc")


def test_downloads_once(server, cache):
  url = f"{server}/v.txt"
  path = download.fetch(url)
  assert read(path) == CONTENT
  assert os.path.dirname(path) == str(cache) and path.endswith("-v.txt")
  assert download.fetch(url) == path
  assert download.fetch(f"{url}#sha256={SHA}") == path
  assert len(Handler.requests) == 1
  assert sorted(os.listdir(cache)) == sorted(
    [os.path.basename(path), os.path.basename(path) + ".sha256"]
  )
  # In the format of sha256sum.
  assert read(path + ".sha256").decode() == (
    f"{SHA}  {os.path.basename(path)}\n"
  )
  # Another URL with the same name of file is another file.
  assert download.fetch(f"{url}?x=1") != path


def test_default_folder(monkeypatch):
  monkeypatch.delenv("BV_CACHE_DIR")
  home = os.path.expanduser("~")
  assert download.cache_dir("vocab") == f"{home}/.cache/big_vision/vocab"


def test_pin_of_a_download(server, cache):
  url = f"{server}/v.txt"
  with pytest.raises(
    ValueError, match=f"v.txt has the sha256 {SHA}, but {OTHER}"
  ):
    download.fetch(f"{url}#sha256={OTHER}")
  assert os.listdir(cache) == []  # Nothing wrong is kept.
  path = download.fetch(f"{url}#sha256={SHA}")
  assert read(path) == CONTENT
  with pytest.raises(ValueError, match="delete the copy; otherwise.*pin"):
    download.fetch(f"{url}#sha256={OTHER}")


def test_damage_is_noticed(server, cache):
  url = f"{server}/v.txt"
  path = download.fetch(url)
  with open(path, "ab") as f:
    f.write(b"!")
  with pytest.raises(ValueError, match=r"-v.txt has the sha256 .*: delete it"):
    download.fetch(url)
  os.remove(path)
  assert read(download.fetch(url)) == CONTENT
  # Without its checksum a file does not count.
  os.remove(path + ".sha256")
  assert read(download.fetch(url)) == CONTENT
  assert len(Handler.requests) == 3


@pytest.mark.parametrize(
  "name, match", [("nope", "404"), ("cut", "10 of 1000 bytes")]
)
def test_failed_downloads_leave_nothing(server, cache, name, match):
  with pytest.raises(
    ValueError, match=f"Cannot download {server}/{name}.*{match}"
  ):
    download.fetch(f"{server}/{name}")
  assert os.listdir(cache) == []


def test_no_server(cache):
  with pytest.raises(ValueError, match="Cannot download http://127.0.0.1:1/x"):
    download.fetch("http://127.0.0.1:1/x")


def test_threads_share_a_download(server):
  paths = []
  fetch = lambda: paths.append(download.fetch(f"{server}/v.txt"))
  threads = [threading.Thread(target=fetch) for _ in range(8)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert len(paths) == 8 and len(set(paths)) == 1
  assert read(paths[0]) == CONTENT


def test_token_is_for_the_hub_only(server, monkeypatch):
  """URLs of the hub get it, too; the servers that it redirects to do not."""
  monkeypatch.setenv("HF_ENDPOINT", f"{server}/redirect")
  monkeypatch.setenv("HF_TOKEN", "secret")
  assert read(download.fetch(f"{server}/redirect/v.txt")) == CONTENT
  download.fetch(f"{server}/v.txt")
  assert Handler.requests == [
    ("/redirect/v.txt", "Bearer secret"),
    ("/v.txt", None),
    ("/v.txt", None),
  ]


def test_google_storage_is_read_by_fs(tmp_path, monkeypatch):
  (tmp_path / "remote").write_bytes(CONTENT)
  opened = []

  def open_remote(path, mode):
    opened.append((path, mode))
    return open(tmp_path / "remote", mode)

  monkeypatch.setattr(download.fs, "open", open_remote)
  for _ in range(2):
    assert read(download.fetch("gs://bucket/a/v.txt")) == CONTENT
  assert opened == [("gs://bucket/a/v.txt", "rb")]
