"""Serves the page of the demo, and JSON for it.

  GET /                  the page: page.html, page.css, page.js, questions.js
  GET /api/model         name, loss, titles of examples, first prompts, limits
  GET /api/example/3     image file of an example
  POST /api/similarity   JSON, see `similarity.Demo.similarity`; or of a classifier
  POST /api/classes      JSON, see `classes.Demo.classify`; or of PaliGemma
  POST /api/answer       lines of JSON, see `questions.Demo.answer`

A wrong request is answered with status 4xx and {"error": sentence}; what fails after
the first line of several adds that as a line.
"""

import contextlib
import http.server
import importlib.resources
import io
import ipaddress
import itertools
import json
import queue
import re
import socket
import sys
import threading
import time
import traceback
from typing import Any

from big_vision import untrusted
from big_vision.tools.demo import similarity

MAX_BODY_BYTES = 28_000_000  # An image in base64, and prompts.
MAX_THREADS = 32  # Answer at the same time; others wait.
MAX_WAITING = 256  # Connections; more are closed.
# A request has this long, and longer by what it has sent at this rate: who sends
# a byte now and then does not keep a thread.
SECONDS, BYTES_PER_SECOND = 20, 50_000
FILES = {
  "/": ("page.html", "text/html; charset=utf-8"),
  "/page.css": ("page.css", "text/css; charset=utf-8"),
  "/page.js": ("page.js", "text/javascript; charset=utf-8"),
  "/questions.js": ("questions.js", "text/javascript; charset=utf-8"),
}
# The page loads from here only, and no text of a user can become a script.
POLICY = (
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
  " img-src 'self' blob: data:; base-uri 'none'; form-action 'none';"
  " frame-ancestors 'none'"
)


class Server(http.server.HTTPServer):
  """Listens from the start; set `demo` before `serve_forever`.

  Requests are answered by `MAX_THREADS` threads.

  Args:
    host: name or address to listen at.
    port: 0 for any free one.

  Raises:
    OSError, OverflowError: cannot listen there.
  """

  demo: similarity.Pictures | None = None
  request_queue_size = 128  # Connections that the system accepts for us.

  def __init__(self, host: str, port: int) -> None:
    if ":" in host:
      self.address_family = socket.AF_INET6
    self._waiting = queue.Queue(MAX_WAITING)
    super().__init__((host, port), Handler)
    for _ in range(MAX_THREADS):
      threading.Thread(target=self._work, daemon=True).start()
    self.is_local = ipaddress.ip_address(self.server_address[0]).is_loopback
    if host in ("0.0.0.0", "::"):
      host = socket.gethostname()
    self.hostname = f"[{host}]" if ":" in host else host
    self.url = f"http://{self.hostname}:{self.server_address[1]}/"

  def process_request(self, request: Any, client_address: Any) -> None:
    """Leaves a connection to the threads.

    Args:
      request: the socket.
      client_address: whose it is.
    """
    try:
      self._waiting.put_nowait((request, client_address))
    except queue.Full:
      self.shutdown_request(request)

  def _work(self):
    """Answers requests until the server is closed."""
    while (item := self._waiting.get()) is not None:
      try:
        self.finish_request(*item)
      except OSError:
        pass  # The browser has left, or is too slow.
      except Exception:  # One request must not end the thread.
        traceback.print_exc(file=sys.stderr)
      finally:
        self.shutdown_request(item[0])

  def server_close(self) -> None:
    """Stops to listen, and ends the threads that have nothing to do."""
    super().server_close()
    for _ in range(MAX_THREADS):
      try:
        self._waiting.put_nowait(None)
      except queue.Full:
        break


class _Patient(io.RawIOBase):
  """Reads from a socket, but not for ever; see `SECONDS`."""

  def __init__(self, connection):
    self._connection = connection
    self._deadline = time.monotonic() + SECONDS

  def readable(self):
    return True

  def readinto(self, buffer):
    left = self._deadline - time.monotonic()
    if left <= 0:
      raise TimeoutError("The request takes too long.")
    self._connection.settimeout(left)
    num = self._connection.recv_into(buffer)
    self._deadline += num / BYTES_PER_SECOND
    return num


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers one request."""

  disable_nagle_algorithm = True  # Short lines should not wait for others.

  def setup(self) -> None:
    """Opens the connection."""
    super().setup()
    self.rfile.close()
    self.rfile = io.BufferedReader(_Patient(self.connection))

  def do_GET(self) -> None:
    """Answers a GET request."""
    self._answer(self._get)

  def do_POST(self) -> None:
    """Answers a POST request."""
    self._answer(self._post)

  def _answer(self, fn):
    """Sends what `fn` returns, or its exception as an error.

    That is (content type, bytes), or an iterator of what JSON can hold.
    """
    try:
      answer = fn()
      if isinstance(answer, tuple):
        self._send(200, *answer)
      else:
        self._send_lines(answer)
    except (ConnectionError, TimeoutError):
      pass  # The browser has left.
    except Exception as e:
      self.send_error(*_error(e))

  def _get(self):
    self._check_host()
    path = self.path.split("?")[0]
    demo = self.server.demo
    if path in FILES:
      name, content_type = FILES[path]
      page = importlib.resources.files(__package__).joinpath(name)
      return content_type, page.read_bytes()
    if path == "/api/model":
      return _json(demo.model())
    if match := re.fullmatch("/api/example/([0-9]{1,9})", path):
      example = demo.example(int(match[1]))
      return example.content_type, example.data
    raise similarity.RequestError(404, "There is no such page.")

  def _post(self):
    body = self._body()  # First, or the answer gets lost.
    self._check_host()
    if self.path != self.server.demo.path:
      raise similarity.RequestError(404, "There is no such page.")
    # A page of another site cannot send this type without asking first.
    if self.headers.get_content_type() != "application/json":
      raise similarity.RequestError(
        415, "The content type should be application/json."
      )
    try:
      request = untrusted.json_value(body)
    except ValueError:
      raise similarity.RequestError(400, "The request is not JSON.") from None
    answer = self.server.demo.answer(request)
    return _json(answer) if isinstance(answer, dict) else answer

  def _body(self):
    length = self.headers.get("Content-Length") or ""
    if not re.fullmatch("[0-9]{1,18}", length):
      raise similarity.RequestError(
        411, "The request should have a Content-Length."
      )
    length = int(length)
    if length > MAX_BODY_BYTES:
      # A browser that cannot send all of it does not read the answer.
      left = min(length, 10 * MAX_BODY_BYTES)
      while left and (part := self.rfile.read(min(left, 65536))):
        left -= len(part)
      raise similarity.RequestError(413, similarity.too_large(length * 3 / 4))
    return self.rfile.read(length)

  def _check_host(self):
    """Refuses sites that let their own name point to this machine."""
    host = self.headers.get("Host") or ""
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    local = ("localhost", "127.0.0.1", "[::1]", self.server.hostname)
    if self.server.is_local and name not in local:
      raise similarity.RequestError(
        403,
        f"This server is not {name!r}: open {self.server.url}, or give it "
        "another --host.",
      )

  def _send(self, status, content_type, data):
    self.connection.settimeout(SECONDS + len(data) / BYTES_PER_SECOND)
    self._send_head(status, content_type, len(data))
    self.wfile.write(data)

  def _send_lines(self, values):
    """Sends values as soon as they come; without a reader, none are made."""
    with contextlib.closing(values):
      first = next(values)  # Its error can still be a status.
      self.connection.settimeout(SECONDS)  # Of each line.
      self._send_head(200, "application/x-ndjson")
      try:
        for value in itertools.chain([first], values):
          self.wfile.write(_json(value)[1] + b"\n")
      except (ConnectionError, TimeoutError):
        raise
      except Exception as e:
        self.wfile.write(_json({"error": _error(e)[1]})[1] + b"\n")

  def _send_head(self, status, content_type, length=None):
    self.send_response(status)
    self.send_header("Content-Type", content_type)
    if length is not None:  # Else the connection's end is that of the content.
      self.send_header("Content-Length", str(length))
    self.send_header("Cache-Control", "no-store")
    self.send_header("Content-Security-Policy", POLICY)
    self.send_header("X-Content-Type-Options", "nosniff")
    self.end_headers()

  def send_error(
    self, code: int, message: str | None = None, explain: str | None = None
  ) -> None:
    """Sends JSON instead of the HTML of the base class, which calls this, too.

    Args:
      code: HTTP status.
      message: one sentence.
      explain: not used.
    """
    try:
      self._send(code, *_json({"error": message or "Wrong request."}))
    except ConnectionError:
      pass

  def log_message(self, *args: Any) -> None:
    """Logs nothing; failures of the model print a traceback.

    Args:
      *args: not used.
    """


def _error(e):
  """Returns (HTTP status, sentence); prints what is not the request's fault."""
  if isinstance(e, similarity.RequestError):
    return e.status, str(e)
  traceback.print_exception(e, file=sys.stderr)
  return 500, f"The server failed: {type(e).__name__}: {e}"


def _json(value):
  return "application/json", json.dumps(value, allow_nan=False).encode()
