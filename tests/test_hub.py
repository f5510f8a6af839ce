"""Files of the Hugging Face hub: cache, revisions, tokens, no network, errors."""

import contextlib
import hashlib
import http.server
import os
import subprocess
import sys
import threading

import pytest

import fake_hub
from big_vision import download, hub, lookup

CONTENT = b"piece\n" * 1000


@pytest.fixture
def server(tmp_path, monkeypatch):
  with fake_hub.serve(tmp_path, monkeypatch) as server:
    put(server, "org/repo/main/v.txt", CONTENT)
    yield server


def put(server, path, content):
  path = server.folder / path
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def read(path):
  with open(path, "rb") as f:
    return f.read()


@pytest.mark.parametrize(
  "uri, want",
  [
    ("hf://org/repo/v.txt", ("model", "org/repo", "main", "v.txt")),
    ("hf://org/repo@v1/a/b c.txt", ("model", "org/repo", "v1", "a/b c.txt")),
    ("hf://o/r@refs%2Fpr%2F1/v", ("model", "o/r", "refs/pr/1", "v")),
    ("hf://datasets/o/r/v.txt", ("dataset", "o/r", "main", "v.txt")),
    ("hf://spaces/o/r@x/v", ("space", "o/r", "x", "v")),
    ("hf://models/o/r/v", ("model", "o/r", "main", "v")),
  ],
)
def test_parse(uri, want):
  assert hub.parse(uri) == want


@pytest.mark.parametrize("uri", ["hf://repo/v.txt", "hf://org/repo", "hf://"])
def test_other_forms_are_refused(uri):
  with pytest.raises(lookup.ConfigError, match="hf://org/repo@revision/file"):
    download.fetch(uri)


def test_cache(server, tmp_path):
  path = download.fetch("hf://org/repo/v.txt")
  assert read(path) == CONTENT
  assert [m for m, _, _ in server.requests] == ["HEAD", "GET"]
  # The layout that transformers and the program `hf` look for.
  snapshots = tmp_path / "hub_cache" / "models--org--repo" / "snapshots"
  assert os.path.relpath(path, snapshots).split("/")[1:] == ["v.txt"]
  assert download.fetch("hf://org/repo/v.txt") == path
  assert [m for m, _, _ in server.requests] == ["HEAD", "GET", "HEAD"]
  # A branch that has moved on is another file.
  put(server, "org/repo/main/v.txt", b"new")
  put(server, "org/repo/v1/v.txt", b"old")
  put(server, "datasets/org/repo/main/a/v.txt", b"data")
  assert read(download.fetch("hf://org/repo@v1/v.txt")) == b"old"
  assert read(download.fetch("hf://datasets/org/repo/a/v.txt")) == b"data"


def test_offline(server, tmp_path, monkeypatch):
  path = download.fetch("hf://org/repo/v.txt")
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  del server.requests[:]
  assert download.fetch("hf://org/repo/v.txt") == path
  with pytest.raises(lookup.ConfigError) as e:
    download.fetch("hf://org/repo@v2/w.txt")
  assert str(e.value) == (
    "Cannot download hf://org/repo@v2/w.txt: HF_HUB_OFFLINE is set, and "
    f"{tmp_path}/hub_cache does not have the file. Fetch it where there is a "
    "network (`hf download org/repo w.txt --revision v2`), or give the path of a "
    "local copy."
  )
  assert not server.requests


def test_environment_of_a_process(server, tmp_path):
  """HF_HOME and HF_HUB_OFFLINE, in a process that has not begun yet."""
  code = "import sys; from big_vision import hub; print(hub.fetch(sys.argv[1]))"
  env = {k: v for k, v in os.environ.items() if k != "HF_HUB_CACHE"}
  env["HF_HOME"] = str(tmp_path / "home")
  fetch = lambda **kw: subprocess.run(
    [sys.executable, "-c", code, "hf://org/repo/v.txt"],
    env=env | kw, check=True, capture_output=True, text=True,
  ).stdout  # fmt: skip
  path = fetch()
  assert path.startswith(f"{tmp_path}/home/hub/models--org--repo/")
  assert fetch(HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:1") == path


def test_without_a_network_the_cache_serves(server, monkeypatch):
  path = download.fetch("hf://org/repo/v.txt")
  monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
  assert download.fetch("hf://org/repo/v.txt") == path


@pytest.mark.parametrize(
  "uri, want",
  [
    ("hf://org/nope/v.txt", "the hub has no model 'org/nope', or it is private.*"
     "hf auth login"),
    ("hf://datasets/org/repo/v.txt", "the hub has no dataset 'org/repo'"),
    ("hf://org/repo/nope.txt", "the model org/repo has no file 'nope.txt' at "
     "revision 'main'"),
    ("hf://org/repo@v9/v.txt", "the model org/repo has no revision 'v9'"),
    ("hf://org/gated/v.txt", "the owners of the model org/gated grant access.*"
     "terms.*hf auth login.*HF_TOKEN"),
    ("hf://org/re--po/v.txt", "Cannot have -- or ..|re--po"),
  ],
)  # fmt: skip
def test_errors(server, uri, want):
  put(server, "org/gated/main/v.txt", b"mine")
  with pytest.raises(lookup.ConfigError, match=want) as e:
    download.fetch(uri)
  assert str(e.value).startswith(f"Cannot download {uri}: ")
  assert "\n" not in str(e.value) and str(e.value).endswith(".")


def test_token(server, tmp_path, monkeypatch):
  """By variable or login; servers that large files are on do not get it."""
  put(server, "org/gated/main/v.txt", b"mine")
  put(server, "org/gated/main/large.bin", CONTENT)
  monkeypatch.setenv("HF_TOKEN", "wrong")
  with pytest.raises(lookup.ConfigError, match="grant access"):
    download.fetch("hf://org/gated/v.txt")
  monkeypatch.setenv("HF_TOKEN", "secret")
  assert read(download.fetch("hf://org/gated/v.txt")) == b"mine"
  monkeypatch.delenv("HF_TOKEN")
  (tmp_path / "token").write_text("secret")  # As `hf auth login` leaves it.
  del server.requests[:]
  assert read(download.fetch("hf://org/gated/large.bin")) == CONTENT
  sent = {path.split("/")[1]: token for _, path, token in server.requests}
  assert sent == {"org": "Bearer secret", "cdn": None}


def test_download_goes_on_after_a_break(server, monkeypatch):
  monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
  server.cut = 1
  # Early releases of the library go on in the next call only.
  with contextlib.suppress(lookup.ConfigError):
    download.fetch("hf://org/repo/v.txt")
  assert read(download.fetch("hf://org/repo/v.txt")) == CONTENT
  assert server.ranges == [None, "bytes=3000-"]


def test_pin(server):
  sha = hashlib.sha256(CONTENT).hexdigest()
  uri = "hf://org/repo/v.txt#sha256="
  assert read(download.fetch(uri + sha)) == CONTENT
  with pytest.raises(
    ValueError, match=f"has the sha256 {sha}.*name a revision"
  ):
    download.fetch(uri + "0" * 64)


def test_copies_of_earlier_versions_are_used(server, tmp_path):
  """They are in the folder of this package, with a checksum."""
  uri = "hf://org/repo/v.txt"
  path = tmp_path / "cache" / "vocab" / download._cached_name(uri)
  path.parent.mkdir(parents=True)
  path.write_bytes(CONTENT)
  digest = hashlib.sha256(CONTENT).hexdigest()
  path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
  assert download.fetch(uri) == str(path)
  assert not server.requests


class Plain(http.server.BaseHTTPRequestHandler):
  """Answers everything, but without what the hub says in its headers."""

  def do_HEAD(self):
    self.send_response(200)
    self.end_headers()

  def log_message(self, *args):
    pass


def test_other_servers_are_no_hub(server, monkeypatch):
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain) as other:
    thread = threading.Thread(target=other.serve_forever, args=[0.05])
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{other.server_port}")
    with pytest.raises(
      lookup.ConfigError, match="Correct HF_ENDPOINT, or give"
    ):
      download.fetch("hf://org/repo/v.txt")
    other.shutdown()
    thread.join()


def test_without_the_library(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(ImportError, match=r"pip install 'big_vision\[hub\]'"):
    download.fetch("hf://org/repo/v.txt")
