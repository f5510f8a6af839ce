"""A Hugging Face hub on this machine, for tests.

It serves `<folder>/[datasets/]<org>/<repo>/<revision>/<file>`, and answers what is
missing as the hub does. Repositories called "gated" ask for the token "secret".
Files ending in `.bin` come from another server name, as large ones do. Who has that
token may upload.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import pathlib
import re
import threading
import urllib.parse

_URL = re.compile(
  r"/(?P<repo>(?:datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)"
)


class Hub(http.server.ThreadingHTTPServer):
  """The server.

  Attributes:
    folder: pathlib.Path of what is served.
    url: str, for HF_ENDPOINT.
    requests: list of (method, path, value of `Authorization`).
    ranges: list of the headers `Range` of downloads, None where there was none.
    cut: int, how many downloads break off in the middle.
  """

  def __init__(self, folder):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.folder = folder
    self.url = f"http://127.0.0.1:{self.server_address[1]}"
    self.requests = []
    self.ranges = []
    self.cut = 0

  def handle_error(self, request, client_address):
    pass  # Clients hang up.


@contextlib.contextmanager
def serve(tmp_path: pathlib.Path, monkeypatch):
  """Runs a hub, which is empty, with a cache of its own.

  Args:
    tmp_path: for what is served and for the cache.
    monkeypatch: fixture of pytest.

  Yields:
    `Hub`.
  """
  (tmp_path / "hub").mkdir()
  # The library reads the environment once, when it is imported.
  constants = "huggingface_hub.constants."
  monkeypatch.setattr(f"{constants}HF_HUB_CACHE", str(tmp_path / "hub_cache"))
  monkeypatch.setattr(f"{constants}HF_TOKEN_PATH", str(tmp_path / "token"))
  monkeypatch.setattr(f"{constants}HF_HUB_OFFLINE", False)
  monkeypatch.setenv("BV_CACHE_DIR", str(tmp_path / "cache"))
  monkeypatch.delenv("HF_TOKEN", raising=False)
  with Hub(tmp_path / "hub") as hub:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    thread = threading.Thread(target=hub.serve_forever, args=[0.05])
    thread.start()
    yield hub
    hub.shutdown()
    thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
  server: Hub

  def do_HEAD(self):
    self._answer(with_body=False)

  def do_GET(self):
    self._answer(with_body=True)

  def do_POST(self):
    """Makes repositories, and takes commits; all files are small ones."""
    token = self.headers.get("Authorization")
    self.server.requests.append(("POST", self.path, token))
    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    if token != "Bearer secret":
      return self._refuse(401, "RepoNotFound")
    if self.path == "/api/repos/create":
      wanted = json.loads(body)
      name = f"{wanted['organization']}/{wanted['name']}"
      (self.server.folder / name / "main").mkdir(parents=True, exist_ok=True)
      return self._json({"url": f"{self.server.url}/{name}"})
    if self.path == "/api/validate-yaml":
      return self._json({"errors": [], "warnings": []})
    if "/preupload/" in self.path:
      files = [
        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
        for f in json.loads(body)["files"]
      ]
      return self._json({"files": files})
    match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path)
    if not match:
      return self._refuse(404, "")
    for line in map(json.loads, body.splitlines()):
      if line["key"] == "file":
        path = self.server.folder / match[1] / "main" / line["value"]["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(line["value"]["content"]))
    url = f"{self.server.url}/{match[1]}/commit/1"
    self._json({"commitUrl": url, "commitOid": "1", "pullRequestUrl": None})

  def _json(self, content):
    content = json.dumps(content).encode()
    self.send_response(200)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def _answer(self, with_body):
    token = self.headers.get("Authorization")
    self.server.requests.append((self.command, self.path, token))
    if self.path.startswith("/cdn/"):
      path = self.server.folder / urllib.parse.unquote(self.path[5:])
      return self._send(path, "", with_body)
    match = _URL.fullmatch(self.path)
    if not match:
      return self._refuse(404, "")
    repo, revision, file = map(urllib.parse.unquote, match.groups())
    folder = self.server.folder / repo
    if not folder.exists():
      return self._refuse(404, "RepoNotFound")
    if folder.name == "gated" and token != "Bearer secret":
      return self._refuse(403 if token else 401, "GatedRepo")
    # Asked for by the commit, it is the revision with that commit.
    revisions = {_commit(p.name): p.name for p in folder.iterdir()}
    revision = revisions.get(revision, revision)
    if revision not in revisions.values():
      return self._refuse(404, "RevisionNotFound")
    path = folder / revision / file
    if not path.is_file():
      return self._refuse(404, "EntryNotFound", _commit(revision))
    if file.endswith(".bin"):
      self.send_response(302)
      self.send_header("X-Repo-Commit", _commit(revision))
      self.send_header("X-Linked-Etag", f'"{_digest(path)}"')
      self.send_header("X-Linked-Size", str(path.stat().st_size))
      where = urllib.parse.quote(str(path.relative_to(self.server.folder)))
      port = self.server.server_address[1]
      self.send_header("Location", f"http://localhost:{port}/cdn/{where}")
      self.send_header("Content-Length", "0")
      return self.end_headers()
    self._send(path, _commit(revision), with_body)

  def _send(self, path, commit, with_body):
    content = path.read_bytes()
    asked = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
    start = int(asked[1]) if asked else 0
    self.send_response(206 if asked else 200)
    if asked:
      end = f"{len(content) - 1}/{len(content)}"
      self.send_header("Content-Range", f"bytes {start}-{end}")
    self.send_header("Content-Length", str(len(content) - start))
    self.send_header("ETag", f'"{_digest(path)}"')
    if commit:
      self.send_header("X-Repo-Commit", commit)
    self.end_headers()
    if with_body:
      self.server.ranges.append(self.headers.get("Range"))
      body = content[start:]
      if self.server.cut:
        self.server.cut -= 1
        body = body[: len(body) // 2]
      self.wfile.write(body)

  def _refuse(self, status, code, commit=""):
    self.send_response(status)
    if code:
      self.send_header("X-Error-Code", code)
    if commit:
      self.send_header("X-Repo-Commit", commit)
    self.send_header("Content-Length", "0")
    self.end_headers()

  def log_message(self, *args):
    pass


def _commit(revision):
  return hashlib.sha1(revision.encode()).hexdigest()


def _digest(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()
