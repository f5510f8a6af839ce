"""tools/demo: the server over HTTP, and the page in headless Chromium.

The model is a fake one; the numbers on the page are compared with its.
"""

import base64
import hashlib
import http.client
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from big_vision.tools.demo import __main__ as demo_main
from big_vision.tools.demo import server, similarity

ROOT = pathlib.Path(__file__).parent.parent.parent
T, B = 6.0, -2.0


class FakeEmbedder:
  """Has the methods of `big_vision.embedder.Embedder`.

  An embedding is a random one by the hash of the file or text. Counts what it
  has embedded.
  """

  name = "workdirs/fake"
  loss_fn = "sigmoid"
  config = {}

  def __init__(self):
    self.seen = []

  def images(self, images):
    for data in images:
      if not data.startswith(b"\x89PNG"):
        raise ValueError("This file is no image that can be read.")
    return self._embed(images)

  def texts(self, texts):
    return self._embed([text.encode() for text in texts])

  def _embed(self, values):
    self.seen.extend(values)
    seeds = [int(hashlib.md5(v).hexdigest()[:8], 16) for v in values]
    z = [np.random.default_rng(seed).normal(size=8) for seed in seeds]
    z = np.array(z, np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)

  def logits(self, zimg, ztxt):
    return T * zimg @ ztxt.T + np.float32(B)

  def probabilities(self, logits, loss_fn=None):
    if (loss_fn or self.loss_fn) == "sigmoid":
      return 1 / (1 + np.exp(-logits))
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def expected(data, prompts, mode):
  """List of probabilities, computed apart from the server."""
  fake = FakeEmbedder()
  zimg, ztxt = fake.images([data])[0], fake.texts(prompts)
  logits = [T * float(zimg @ z) + B for z in ztxt]
  if mode == "sigmoid":
    return [1 / (1 + np.exp(-l)) for l in logits]
  return [np.exp(l) / sum(np.exp(k) for k in logits) for l in logits]


def picture(seed):
  """PNG of a disc on a ground of another colour."""
  rng = np.random.default_rng(seed)
  ground, disc = rng.integers(0, 256, (2, 3))
  y, x = np.mgrid[:48, :64]
  inside = (x - 32) ** 2 + (y - 24) ** 2 < 18**2
  image = np.where(inside[..., None], disc, ground).astype(np.uint8)
  return demo_main.array_example(image, f"picture {seed}")


def start(demo):
  httpd = server.Server("127.0.0.1", 0)
  httpd.demo = demo
  # Stops within 10 ms.
  threading.Thread(target=httpd.serve_forever, args=[0.01], daemon=True).start()
  return httpd


@pytest.fixture
def demo():
  return similarity.Demo(
    FakeEmbedder(), [picture(i) for i in range(3)], ["a cat", "a dog"]
  )


@pytest.fixture
def httpd(demo):
  httpd = start(demo)
  yield httpd
  httpd.shutdown()
  httpd.server_close()


def fetch(httpd, path, body=None, **headers):
  """(status, body) of GET, or of POST if there is a body; JSON is parsed."""
  if body is not None:
    headers.setdefault("Content-Type", "application/json")
  if isinstance(body, (dict, list)):
    body = json.dumps(body).encode()
  # Not urllib, which would tidy up paths.
  conn = http.client.HTTPConnection(*httpd.server_address, timeout=20)
  method = "GET" if body is None else "POST"
  conn.request(method, path, body, headers)
  response = conn.getresponse()
  data = response.read()
  conn.close()
  if response.headers.get_content_type() == "application/json":
    data = json.loads(data)
  return response.status, data


def ask(httpd, **request):
  return fetch(httpd, "/api/similarity", request)


def encoded(data):
  return base64.b64encode(data).decode()


# The server.


def test_page_and_its_files(httpd):
  with urllib.request.urlopen(httpd.url, timeout=20) as response:
    page = response.read().decode()
    assert response.headers.get_content_type() == "text/html"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in response.headers
  assert "<title>big_vision image-text demo</title>" in page
  for name, content_type in (
    ("page.css", "css"),
    ("page.js", "javascript"),
    ("questions.js", "javascript"),
  ):
    assert name in page
    with urllib.request.urlopen(httpd.url + name, timeout=20) as response:
      assert response.headers.get_content_type() == f"text/{content_type}"
      assert response.read()


def test_model_and_examples(httpd, demo):
  status, model = fetch(httpd, "/api/model")
  assert status == 200
  assert model == {
    "name": "workdirs/fake",
    "loss_fn": "sigmoid",
    "examples": ["picture 0", "picture 1", "picture 2"],
    "prompts": ["a cat", "a dog"],
    "max_image_bytes": similarity.MAX_IMAGE_BYTES,
  }
  for i, example in enumerate(demo.examples):
    assert fetch(httpd, f"/api/example/{i}") == (200, example.data)
    assert np.asarray(Image.open(io.BytesIO(example.data))).shape == (48, 64, 3)


def test_values(httpd, demo):
  prompts = ["a cat", "a dog", "ein Käfer 🐞", "a cat"]
  data = picture(7).data
  status, answer = ask(httpd, image=encoded(data), prompts=prompts)
  assert status == 200
  for mode in ("sigmoid", "softmax"):
    wanted = expected(data, prompts, mode)
    np.testing.assert_allclose(answer[mode], wanted, rtol=1e-5)
  assert sum(answer["softmax"]) == pytest.approx(1)
  p = np.array(answer["sigmoid"])
  np.testing.assert_allclose(answer["logits"], np.log(p / (1 - p)), rtol=1e-4)

  again = ask(httpd, hash=answer["hash"], prompts=prompts)
  assert again == (200, answer)
  _, answer = ask(httpd, example=2, prompts=prompts)
  wanted = expected(demo.examples[2].data, prompts, "softmax")
  np.testing.assert_allclose(answer["softmax"], wanted, rtol=1e-5)


def test_nothing_is_embedded_twice(httpd, demo):
  data = picture(7).data
  ask(httpd, image=encoded(data), prompts=["a", "b"])
  assert demo.embedder.seen == [data, b"a", b"b"]
  ask(httpd, image=encoded(data), prompts=["b", "c", "a", "c"])
  assert demo.embedder.seen == [data, b"a", b"b", b"c"]


def test_cache_forgets_what_was_used_longest_ago():
  cache = similarity.Cache(2)
  cache.put("a", 1)
  cache.put("b", 2)
  assert cache.get("a") == 1
  cache.put("c", 3)
  assert [cache.get(k) for k in "abc"] == [1, None, 3]


PNG = encoded(picture(0).data)
TOO_LARGE = encoded(bytes(similarity.MAX_IMAGE_BYTES + 1))


@pytest.mark.parametrize(
  "request_, status, message",
  [
    ({"image": PNG}, 400, "at least one prompt"),
    ({"image": PNG, "prompts": []}, 400, "at least one prompt"),
    ({"image": PNG, "prompts": "a"}, 400, "at least one prompt"),
    ({"image": PNG, "prompts": ["a", " "]}, 400, "Prompt 2 is not a text"),
    ({"image": PNG, "prompts": [3]}, 400, "Prompt 1 is not a text"),
    ({"image": PNG, "prompts": ["\ud800"]}, 400, "not valid Unicode"),
    ({"image": PNG, "prompts": ["a"] * 65}, 400, "65 prompts, at most 64"),
    ({"image": PNG, "prompts": ["a" * 501]}, 400, "501 .*at most 500"),
    ({"prompts": ["a"]}, 400, "Choose an image"),
    ({"image": PNG, "example": 0, "prompts": ["a"]}, 400, "Choose an image"),
    ({"image": "?", "prompts": ["a"]}, 400, "base64"),
    ({"image": None, "prompts": ["a"]}, 400, "base64"),
    ({"image": "aGFsbG8=", "prompts": ["a"]}, 400, "is no image"),
    ({"image": TOO_LARGE, "prompts": ["a"]}, 413, "20.0 MB, at most 20 MB"),
    ({"example": 3, "prompts": ["a"]}, 404, "no example 3, only 3"),
    ({"example": -1, "prompts": ["a"]}, 404, "no example -1"),
    ({"example": True, "prompts": ["a"]}, 404, "no example True"),
    ({"example": "0", "prompts": ["a"]}, 404, "no example 0"),
    ({"hash": "abc", "prompts": ["a"]}, 410, "forgotten"),
    ([], 400, "JSON object"),
    (b"{", 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    (b"\xff", 400, "not JSON"),
    (bytes(server.MAX_BODY_BYTES + 1), 413, "21.0 MB, at most 20 MB"),
  ],
)
def test_wrong_requests(httpd, request_, status, message):
  found, answer = fetch(httpd, "/api/similarity", request_)
  assert found == status
  assert list(answer) == ["error"]
  assert re.search(message, answer["error"])


@pytest.mark.parametrize(
  "path",
  [
    "/nothing",
    "/server.py",
    "/../server.py",
    "/%2e%2e/server.py",
    "//etc/passwd",
    "/api/example/3",
    "/api/example/-1",
    "/api/example/",
    "/api/example/../../server.py",
    "/api/example/" + "9" * 5000,
  ],
)
def test_wrong_paths(httpd, path):
  status, answer = fetch(httpd, path)
  assert (status, list(answer)) == (404, ["error"])


def test_other_wrong_http(httpd):
  status, answer = fetch(httpd, "/api/other", {})
  assert (status, list(answer)) == (404, ["error"])
  status, answer = fetch(httpd, "/api/model", Host="evil.example:80")
  assert status == 403 and "--host" in answer["error"]
  port = httpd.server_address[1]
  for host in (f"localhost:{port}", "localhost", f"[::1]:{port}"):
    assert fetch(httpd, "/api/model", Host=host)[0] == 200
  good = json.dumps({"example": 0, "prompts": ["a"]}).encode()
  for content_type in ("text/plain", "application/x-www-form-urlencoded"):
    headers = {"Content-Type": content_type}
    assert fetch(httpd, "/api/similarity", good, **headers)[0] == 415
  conn = http.client.HTTPConnection(*httpd.server_address, timeout=20)
  conn.request("DELETE", "/")
  response = conn.getresponse()
  assert response.status == 501
  assert "DELETE" in json.loads(response.read())["error"]


@pytest.mark.parametrize("length", [None, "-1", "many"])
def test_wrong_content_length(httpd, length):
  conn = http.client.HTTPConnection(*httpd.server_address, timeout=20)
  conn.putrequest("POST", "/api/similarity")
  if length:
    conn.putheader("Content-Length", length)
  conn.endheaders()
  assert conn.getresponse().status == 411


def test_large_images_are_decoded_while_others_are_answered(demo):
  begun, done = threading.Event(), threading.Event()

  def prepare(data, formats):
    assert formats == ("JPEG", "PNG", "WEBP", "GIF", "BMP")
    begun.set()
    assert done.wait(20)
    return data

  demo.similarity({"example": 0, "prompts": ["a"]})
  demo.embedder.prepare = prepare
  data = encoded(picture(7).data)
  request = {"image": data, "prompts": ["a"]}
  thread = threading.Thread(target=demo.similarity, args=[request])
  thread.start()
  assert begun.wait(20)
  demo.similarity({"example": 0, "prompts": ["b"]})
  done.set()
  thread.join(20)
  assert picture(7).data in demo.embedder.seen


def test_many_connections_at_the_same_time(httpd):
  """All are answered, and by a limited number of threads."""
  num = server.MAX_THREADS + 40
  connections = []
  for _ in range(num):  # None has been answered before all are open.
    conn = http.client.HTTPConnection(*httpd.server_address, timeout=60)
    conn.connect()
    connections.append(conn)
  assert threading.active_count() < server.MAX_THREADS + 20
  for conn in connections:
    conn.request("GET", "/api/model")
  assert [c.getresponse().status for c in connections] == [200] * num


def test_slow_senders_are_cut_off(monkeypatch):
  monkeypatch.setattr(server, "SECONDS", 0.3)
  httpd = start(similarity.Demo(FakeEmbedder()))
  slow = []
  for start_of_request in (b"GET / HT", b"", None):
    sock = socket.create_connection(httpd.server_address, timeout=20)
    if start_of_request is None:
      head = b"POST /api/similarity HTTP/1.0\r\nContent-Length: 999\r\n\r\n{"
      sock.sendall(head)
    else:
      sock.sendall(start_of_request)
    slow.append(sock)
  for sock in slow:
    assert sock.recv(1000) == b""  # Closed by the server.
    sock.close()
  assert fetch(httpd, "/api/model")[0] == 200
  # A request that goes on is not slow.
  sock = socket.create_connection(httpd.server_address, timeout=20)
  sock.sendall(b"GET /api/model HTTP/1.0\r\nHost: localhost\r\n")
  for _ in range(8):
    time.sleep(0.1)
    sock.sendall(b"X: " + b"x" * 30_000 + b"\r\n")
  sock.sendall(b"\r\n")
  assert sock.recv(1000).startswith(b"HTTP/1.0 200")
  sock.close()
  httpd.shutdown()
  httpd.server_close()


def test_failures_of_the_model(httpd, demo, capsys):
  demo.embedder.logits = lambda zimg, ztxt: np.full((1, 1), np.nan)
  status, answer = ask(httpd, example=0, prompts=["a"])
  assert status == 500 and "NaN" in answer["error"]
  demo.embedder.logits = lambda zimg, ztxt: 1 / 0
  status, answer = ask(httpd, example=0, prompts=["a"])
  assert status == 500 and "ZeroDivisionError" in answer["error"]
  assert "Traceback" in capsys.readouterr().err


def test_server_needs_neither_jax_nor_tensorflow():
  code = (
    "import sys; sys.modules['jax'] = sys.modules['tensorflow'] = None; "
    "from big_vision.tools.demo import server"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# The command.


def test_examples_of_a_folder(tmp_path):
  for name in ("b.PNG", "a.webp", "c.jpeg", "notes.txt"):
    (tmp_path / name).write_bytes(name.encode())
  assert demo_main.folder_examples(str(tmp_path), 2) == [
    similarity.Example(b"a.webp", "image/webp", "a.webp"),
    similarity.Example(b"b.PNG", "image/png", "b.PNG"),
  ]


def test_prompts_of_captions():
  captions = ["a  b\nc", "", "d", "a b c", "x" * 501, *"efghijkl"]
  assert demo_main.caption_prompts(captions) == ["a b c", "d", *"efghij"]


@pytest.mark.parametrize("flag", ["--workdir", "--images"])
def test_missing_folder(tmp_path, flag):
  flags = {"--workdir": str(tmp_path), flag: str(tmp_path / "nothing")}
  args = [word for pair in flags.items() for word in pair]
  done = subprocess.run(
    [sys.executable, "-m", "big_vision.tools.demo", "--port", "0", *args],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith(f"{flag} {tmp_path}/nothing is not a folder")


def test_folder_without_images(tmp_path, capsys):
  folder = str(tmp_path)
  args = ["--workdir", folder, "--images", folder, "--port", "0"]
  assert demo_main.main(args) == 1
  assert f"--images {folder} has no jpg" in capsys.readouterr().err


def test_port_in_use(httpd, tmp_path, capsys):
  port = str(httpd.server_address[1])
  assert demo_main.main(["--workdir", str(tmp_path), "--port", port]) == 1
  assert re.search("in use.*--port", capsys.readouterr().err)
  assert demo_main.main(["--workdir", str(tmp_path), "--port", "99999"]) == 1
  assert "--port" in capsys.readouterr().err


COMMAND = """
import sys, types
import numpy as np
sys.path.insert(0, {folder!r})
import test_demo

def load(workdir, **options):
  want = {{"init": None, "pp_img": "decode", "pp_txt": None}}
  assert options == want, options
  return test_demo.FakeEmbedder()

def example_images(config, num):
  assert config is test_demo.FakeEmbedder.config
  return [(np.full((8, 9, 3), i, np.uint8), f"grey {{i % 2}}")
          for i in range(num)]

sys.modules["big_vision.embedder"] = types.SimpleNamespace(
    load=load, example_images=example_images)
from big_vision.tools.demo.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_command_serves_until_ctrl_c(tmp_path):
  args = ["--port=0", "--num_examples=3", "--pp_img=decode"]
  code = COMMAND.format(folder=os.path.dirname(__file__))
  process = subprocess.Popen(
    [sys.executable, "-c", code, "--workdir", str(tmp_path), *args],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    line = process.stdout.readline()
    url = re.search(r"Demo of workdirs/fake: (http://127.0.0.1:\d+/)", line)[1]
    with urllib.request.urlopen(url + "api/model", timeout=20) as response:
      model = json.load(response)
    assert model["prompts"] == ["grey 0", "grey 1"]
    assert model["examples"] == ["grey 0", "grey 1", "grey 0"]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
  finally:
    process.kill()
  assert (process.returncode, out, err) == (0, "Stopped.\n", "")


# The page.


class Page:
  """The page in the browser."""

  def __init__(self, browser, url):
    self.browser, self.url = browser, url
    self.open()

  def open(self, fragment=""):
    self.browser.get("about:blank")
    self.browser.get_log("browser")  # Forgets earlier ones.
    self.browser.get(self.url + fragment)
    # What is clicked or typed before the page has been filled is lost.
    self.wait(lambda: self.find("#model").text, "name of the model")

  def script(self, code, *args):
    return self.browser.execute_script(code, *args)

  def find(self, css):
    return self.browser.find_element("css selector", css)

  def click(self, css):
    self.find(css).click()

  def type(self, text):
    self.find("#prompts").clear()
    self.find("#prompts").send_keys(text)

  def error(self):
    return self.find("#error").text

  def bars(self):
    """List of (prompt, number shown, exact number, width in percent)."""
    return self.script("""
      return [...document.querySelectorAll("#bars li")].map(li => {
        const percent = li.querySelector(".percent");
        return [li.querySelector(".prompt").textContent,
                parseFloat(percent.textContent), +percent.title,
                parseFloat(li.querySelector(".bar").style.width)];
      });""")

  def wait(self, condition, what):
    end = time.time() + 20
    while not condition():
      assert time.time() < end, f"{what}; bars {self.bars()}, {self.error()!r}"
      time.sleep(0.02)

  def expect(self, data, prompts, mode="sigmoid", by_size=True):
    """Waits for the probabilities of an image file."""
    rows = list(zip(prompts, expected(data, prompts, mode), strict=True))
    if by_size:
      rows.sort(key=lambda row: -row[1])

    def shown():
      bars = self.bars()
      return [bar[0] for bar in bars] == [
        row[0] for row in rows
      ] and np.allclose(
        [bar[2] for bar in bars], [row[1] for row in rows], rtol=1e-5, atol=0
      )

    self.wait(shown, f"expected {rows}")
    for (_, number, _, width), (_, p) in zip(self.bars(), rows, strict=True):
      assert number == pytest.approx(100 * p, rel=0.051)  # Two digits.
      assert width == pytest.approx(100 * p, rel=1e-3)
    prompt, best = max(rows, key=lambda row: row[1])
    assert f"“{prompt}”, {100 * best:.1f}%" in self.find("#status").text
    assert self.error() == ""

  def console(self):
    """Messages of warnings and errors."""
    bad = ("WARNING", "SEVERE")
    log = self.browser.get_log("browser")
    return [entry["message"] for entry in log if entry["level"] in bad]


@pytest.fixture
def page(httpd, browser):
  return Page(browser, httpd.url)


def test_page_starts_with_an_example(page, demo):
  data = demo.examples[0].data
  page.expect(data, ["a cat", "a dog"])
  assert page.browser.title == "big_vision image-text demo"
  model = page.find("#model").text
  assert model == "workdirs/fake, trained with sigmoid loss"
  page.click("#examples button:nth-child(2)")
  page.expect(demo.examples[1].data, ["a cat", "a dog"])
  pressed = "#examples [aria-pressed=true] img"
  assert page.find(pressed).get_attribute("alt") == "picture 1"
  # The drawn bars have the lengths that they should have.
  p = max(expected(demo.examples[1].data, ["a cat", "a dog"], "sigmoid"))
  drawn = """
    const [bar, track] = ["bar", "track"].map(
      name => document.querySelector("#bars ." + name).offsetWidth);
    return bar / track;"""
  page.wait(lambda: abs(page.script(drawn) - p) < 0.01, f"bar of {p}")
  assert page.console() == []


def test_prompts_modes_and_order(page, demo):
  prompts = ["a red disc", "a green disc", "a blue disc", "something else"]
  data = demo.examples[0].data
  page.type("\n".join(["", *prompts[:2], "   ", *prompts[2:], ""]))
  page.expect(data, prompts)
  page.click("#sort")
  page.expect(data, prompts, by_size=False)
  page.click("[value=softmax]")
  page.expect(data, prompts, "softmax", by_size=False)
  assert "trained with a sigmoid" in page.find("#note").text
  page.click("#sort")
  page.expect(data, prompts, "softmax")
  page.click("[value=sigmoid]")
  page.expect(data, prompts)
  assert page.find("#note").text == ""
  assert page.console() == []


def test_choose_drop_and_paste_a_file(page, tmp_path, demo):
  path = tmp_path / "mine.png"
  path.write_bytes(picture(10).data)
  page.find("#file").send_keys(str(path))
  page.expect(picture(10).data, ["a cat", "a dog"])
  width = "return document.getElementById('preview').naturalWidth"
  page.wait(lambda: page.script(width) == 64, "preview")
  assert page.find("#preview").is_displayed()
  assert page.find("#name").text == "mine.png"
  assert "example" not in page.browser.current_url

  send = """
    const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "other.png", {type: "image/png"}));
    const options = {bubbles: true, cancelable: true};
    const event = arguments[1] === "drop"
      ? new DragEvent("drop", {...options, dataTransfer: data})
      : new ClipboardEvent("paste", {...options, clipboardData: data});
    document.getElementById("drop").dispatchEvent(event);
    return event.defaultPrevented;"""
  for seed, kind in ((11, "drop"), (12, "paste")):
    assert page.script(send, encoded(picture(seed).data), kind)
    page.expect(picture(seed).data, ["a cat", "a dog"])

  # A server that forgot the image gets it again.
  demo._images = similarity.Cache(9)
  page.type("a mouse")
  page.expect(picture(12).data, ["a mouse"])
  (message,) = page.console()
  assert "status of 410" in message


def test_address_keeps_the_state(page, demo):
  page.click("#examples button:nth-child(3)")
  prompts = ["100% & more = #1?", "größer", "a + b"]
  p = expected(demo.examples[2].data, prompts, "softmax")
  assert p != sorted(p, reverse=True)  # Else the order would not show.
  page.type("\n".join(prompts))
  page.click("[value=softmax]")
  page.click("#sort")
  check = lambda: page.expect(
    demo.examples[2].data, prompts, "softmax", by_size=False
  )
  check()
  url = page.browser.current_url
  page.browser.refresh()
  check()
  pressed = "#examples [aria-pressed=true] img"
  assert page.find(pressed).get_attribute("alt") == "picture 2"
  page.open("#example=1&prompts=x")  # What is not said is by default.
  page.expect(demo.examples[1].data, ["x"])
  page.script("location.hash = arguments[0]", url.partition("#")[2])
  check()
  assert page.console() == []
  page.open("#example=99")
  page.wait(lambda: "no example 99, only 3" in page.error(), "error")


def test_softmax_is_the_mode_of_a_model_trained_with_it(page, demo):
  demo.embedder.loss_fn = "softmax"
  page.open()
  page.expect(demo.examples[0].data, ["a cat", "a dog"], "softmax")


def test_html_in_prompts_is_text(page, demo):
  prompts = [
    "<img src=x onerror=\"document.title='executed'\">",
    "<script>document.title='executed'</script>",
    "</textarea><b>bold</b> &amp; {{x}}",
  ]
  page.type("\n".join(prompts))
  page.expect(demo.examples[0].data, prompts)
  page.browser.refresh()
  page.expect(demo.examples[0].data, prompts)
  assert page.browser.title == "big_vision image-text demo"
  inside = "return document.querySelectorAll('#bars img, b, #bars script')"
  assert page.script(inside) == []
  assert page.console() == []


def test_errors_are_shown(page, tmp_path, demo, httpd):
  page.expect(demo.examples[0].data, ["a cat", "a dog"])
  text = tmp_path / "notes.txt"
  text.write_text("no picture")
  page.find("#file").send_keys(str(text))
  error = "This file is no image that can be read."
  page.wait(lambda: page.error() == error, "error")
  assert page.bars() == []  # They were of another image.
  assert not page.find("#preview").is_displayed()
  large = tmp_path / "large.png"
  with open(large, "wb") as f:
    f.truncate(similarity.MAX_IMAGE_BYTES + 100_000)
  page.find("#file").send_keys(str(large))
  error = "The image is too large: 20.1 MB, at most 20 MB can be."
  page.wait(lambda: page.error() == error, "error")
  page.click("#examples button")
  page.expect(demo.examples[0].data, ["a cat", "a dog"])

  page.type("\n")
  page.wait(lambda: page.error() == "Give at least one prompt.", "error")
  page.type("\n".join("abc"))
  page.expect(demo.examples[0].data, list("abc"))
  statuses = [re.search(r"status of (\d+)", m)[1] for m in page.console()]
  assert set(statuses) == {"400"}

  httpd.shutdown()
  httpd.server_close()
  page.type("new")
  page.wait(lambda: "server does not answer" in page.error(), "error")


def test_keyboard_and_narrow_window(page, demo):
  from selenium.webdriver import ActionChains

  page.expect(demo.examples[0].data, ["a cat", "a dog"])
  order = []
  for _ in range(7):
    ActionChains(page.browser).send_keys("\ue004").perform()  # Tab.
    order.append(
      page.script("""
        const e = document.activeElement;
        return e.id || e.name || e.title;""")
    )
  examples = ["picture 0", "picture 1", "picture 2"]
  assert order == ["file", *examples, "prompts", "mode", "sort"]
  page.browser.execute_cdp_cmd(
    "Emulation.setDeviceMetricsOverride",
    {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True},
  )
  try:
    # Further ones with more and fewer digits.
    page.type(
      "\n".join(["a long prompt without any blank", "x" * 200, *"abcdef"])
    )
    page.wait(lambda: len(page.bars()) == 8, "all bars")
    tracks = page.script("""
      return [...document.querySelectorAll("#bars .track")].map(
        track => track.clientWidth);""")
    assert len(set(tracks)) == 1 and tracks[0] > 100  # Lengths compare.
    width = page.script("return document.documentElement.scrollWidth")
    assert width == 390
  finally:
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
