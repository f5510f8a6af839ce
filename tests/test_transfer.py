"""Downloads go on where they broke off, happen once, and have limits."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time

import pytest

from big_vision import download, lookup, transfer

CONTENT = bytes(range(256)) * 400
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves CONTENT, in parts if asked for; breaks off, dawdles on demand."""

  def do_GET(self):
    options = self.server.options
    asked = self.headers.get("Range")
    self.server.requests.append(asked)
    start = 0
    same = self.headers.get("If-Range") == options["etag"]
    if asked and same and options["ranges"]:
      start = int(asked.removeprefix("bytes=").rstrip("-"))
      self.send_response(206)
      end = len(CONTENT)
      self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
    else:
      self.send_response(200)
    if options["ranges"]:
      self.send_header("Accept-Ranges", "bytes")
      self.send_header("ETag", options["etag"])
    if options["length"]:
      self.send_header("Content-Length", str(len(CONTENT) - start))
    self.end_headers()
    body = CONTENT[start:]
    if options["cuts"]:
      options["cuts"] -= 1
      body = body[:30_000]
    time.sleep(options["sleep"])
    if options["dawdle"]:
      for i in range(len(body)):
        self.wfile.write(body[i : i + 1])
        self.wfile.flush()
        time.sleep(options["dawdle"])
    self.wfile.write(body)

  def log_message(self, *args):
    pass


@pytest.fixture
def server():
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
    httpd.requests = []
    httpd.options = dict(
      etag='"1"', ranges=True, length=True, cuts=0, sleep=0, dawdle=0
    )
    httpd.url = f"http://127.0.0.1:{httpd.server_address[1]}/x.bin"
    httpd.daemon_threads, httpd.block_on_close = True, False
    httpd.handle_error = lambda *_: None  # Clients hang up here.
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("BV_CACHE_DIR", str(tmp_path / "cache"))
  return tmp_path / "cache" / "vocab"


def _read(path):
  with open(path, "rb") as f:
    return f.read()


def _extensions(folder):
  return sorted(n.partition("-x.bin")[2] for n in os.listdir(folder))


def test_one_call_goes_on_after_breaks(server, cache):
  server.options["cuts"] = 3
  path = download.fetch(f"{server.url}#sha256={SHA}")
  assert _read(path) == CONTENT
  assert server.requests == [
    None,
    "bytes=30000-",
    "bytes=60000-",
    "bytes=90000-",
  ]
  assert _extensions(cache) == ["", ".sha256"]


@pytest.mark.parametrize("changed", [False, True])
def test_the_next_call_goes_on(server, cache, changed):
  """As after a crash; unless the file on the server is another one by now."""
  server.options["cuts"] = 1
  with pytest.MonkeyPatch.context() as m:
    m.setattr(transfer, "_TRIES", 1)
    with pytest.raises(ValueError, match="30000 of 102400 bytes"):
      download.fetch(server.url)
  assert _extensions(cache) == [".part", ".part-of"]
  if changed:
    server.options["etag"] = '"2"'
  assert _read(download.fetch(server.url)) == CONTENT
  assert server.requests == [None, "bytes=30000-"]
  assert _extensions(cache) == ["", ".sha256"]


def test_servers_that_cannot_go_on(server, cache, tmp_path):
  server.options.update(cuts=1, ranges=False)
  with pytest.raises(ValueError, match="30000 of 102400 bytes"):
    download.fetch(server.url)
  assert os.listdir(cache) == []
  # What an earlier process has left without saying where it is from.
  dest = tmp_path / "shards"
  dest.mkdir()
  name = hashlib.md5(server.url.encode()).hexdigest()
  (dest / f"{name}.part").write_bytes(b"rubbish")
  assert _read(download.cached_download(server.url, str(dest))) == CONTENT
  assert os.listdir(dest) == [name]
  assert server.requests == [None, None]


def test_processes_and_threads_share_one_download(server, cache):
  server.options["sleep"] = 1
  code = (
    "import sys; from big_vision import download as d; d.fetch(sys.argv[1])"
  )
  command = [sys.executable, "-c", code, server.url]
  processes = [subprocess.Popen(command) for _ in range(2)]
  threads = [
    threading.Thread(target=download.fetch, args=[server.url]) for _ in range(4)
  ]
  while not server.requests:  # The processes wait for each other meanwhile.
    assert all(p.poll() in (None, 0) for p in processes)
    time.sleep(0.01)
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert [p.wait() for p in processes] == [0, 0]
  assert server.requests == [None]
  assert _extensions(cache) == ["", ".sha256"]


@pytest.mark.parametrize("length", [True, False])
def test_limit_of_size(server, cache, monkeypatch, length):
  server.options["length"] = length
  monkeypatch.setenv("BV_DOWNLOAD_MAX_BYTES", "50e3")
  with pytest.raises(lookup.ConfigError, match="50000.*BV_DOWNLOAD_MAX_BYTES"):
    download.fetch(server.url)
  assert os.listdir(cache) == []
  monkeypatch.setenv("BV_DOWNLOAD_MAX_BYTES", str(len(CONTENT)))
  assert _read(download.fetch(server.url)) == CONTENT
  monkeypatch.setenv("BV_DOWNLOAD_MAX_BYTES", "much")
  with pytest.raises(lookup.ConfigError, match="BV_DOWNLOAD_MAX_BYTES='much'"):
    download.fetch(f"{server.url}?2")


def test_full_disk(server, cache, monkeypatch):
  usage = transfer.shutil.disk_usage("/")._replace(free=1000)
  monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: usage)
  with pytest.raises(lookup.ConfigError, match="102400 bytes.*1000 free"):
    download.fetch(server.url)
  assert os.listdir(cache) == []


def test_limits_of_time(server, monkeypatch):
  """A server that sends a byte now and then does not hold us for ever."""
  server.options["dawdle"] = 0.02
  with monkeypatch.context() as m:
    m.setattr(transfer, "_TIMEOUT", 0.2)
    m.setattr(transfer, "_TRIES", 1)
    with pytest.raises(ValueError, match="only [0-9]+ bytes in 0.2 seconds"):
      download.fetch(server.url)
  monkeypatch.setenv("BV_DOWNLOAD_MAX_SECONDS", "1")
  with pytest.raises(lookup.ConfigError, match="BV_DOWNLOAD_MAX_SECONDS"):
    download.fetch(server.url)
  # What has arrived by then is kept.
  server.options["dawdle"] = 0
  before = len(server.requests)
  assert _read(download.fetch(server.url)) == CONTENT
  assert server.requests[before].startswith("bytes=")


def test_what_older_versions_left_behind(server, cache):
  cache.mkdir(parents=True, exist_ok=True)
  names = ["tmpab12_xyz.part", "tmpcd34_xyz.part", "own.part"]
  for name in names:
    (cache / name).touch()
    if name != names[1]:  # Which may still be written to.
      os.utime(cache / name, (1e9, 1e9))
  path = download.fetch(server.url)
  left = sorted(set(os.listdir(cache)) & set(names))
  assert left == sorted(names[1:]) and os.path.exists(path)
