"""tools/demo of a model that answers prompts: over HTTP, and the page."""

import argparse
import base64
import http.client
import io
import json
import re
import threading
import time

import ml_collections
import numpy as np
import pytest
from PIL import Image

from big_vision.pretrained import examples as examples_lib
from big_vision.tools.demo import __main__ as demo_main
from big_vision.tools.demo import questions, server, similarity

# A box in the lower half of the picture, and one of half its width.
BOX = "<loc0512><loc0000><loc1023><loc1023>"
LEFT = "<loc0000><loc0000><loc1023><loc0512>"
CODES = "".join(f"<seg{i:03d}>" for i in range(16))


class FakeVisionLanguage:
  """Has the methods of `VisionLanguage` that the demo calls.

  It answers the prompt "say X|Y" with the pieces X and Y, and waits at "wait" for
  `goes_on`.
  """

  name = "workdirs/fake"

  def __init__(self):
    self.prepared, self.asked, self.pieces, self.closed = 0, [], 0, 0
    self.goes_on = threading.Event()

  def prepare(self, data):
    self.prepared += 1
    try:
      return np.asarray(Image.open(io.BytesIO(data)))
    except OSError as e:
      raise ValueError("This image cannot be read.") from e

  def stream(self, image, prompt, *, max_len, sampler, seed):
    assert image.shape == (40, 80, 3)
    self.asked.append((max_len, sampler, seed))
    try:
      for piece in prompt.removeprefix("say ").split("|"):
        if piece == "wait":
          assert self.goes_on.wait(20)
        elif piece == "fail":
          raise FloatingPointError("no answer")
        elif piece == "forever":
          while True:
            time.sleep(0.005)
            self.pieces += 1
            yield "more "
        else:
          self.pieces += 1
          yield piece
    finally:
      self.closed += 1


def masks(codes):
  """Upper rows are inside, as many as the first code says."""
  rows = (
    np.arange(64)[None, :, None, None] < np.asarray(codes)[:, :1, None, None]
  )
  return np.broadcast_to(np.where(rows, 0.1, -0.1), (len(codes), 64, 64, 1))


def example():
  return demo_main.array_example(np.full([40, 80, 3], 255, np.uint8), "white")


@pytest.fixture
def model():
  return FakeVisionLanguage()


@pytest.fixture
def httpd(model):
  httpd = server.Server("127.0.0.1", 0)
  httpd.demo = questions.Demo(model, [example()], ["say a cat", "say |"], masks)
  threading.Thread(target=httpd.serve_forever, args=[0.01], daemon=True).start()
  yield httpd
  model.goes_on.set()
  httpd.shutdown()
  httpd.server_close()


def post(httpd, **request):
  """Sends a request; the response is not read yet."""
  request = {"example": 0, **request}
  request = {k: v for k, v in request.items() if v is not None}
  conn = http.client.HTTPConnection(*httpd.server_address, timeout=20)
  headers = {"Content-Type": "application/json"}
  conn.request("POST", "/api/answer", json.dumps(request), headers)
  return conn.getresponse()


def ask(httpd, **request):
  """(status, values of the lines)."""
  response = post(httpd, **request)
  return response.status, [json.loads(line) for line in response]


def wait(condition, what):
  end = time.time() + 20
  while not condition():
    assert time.time() < end, what
    time.sleep(0.01)


# The server.


def test_facts(httpd):
  conn = http.client.HTTPConnection(*httpd.server_address, timeout=20)
  conn.request("GET", "/api/model")
  facts = json.load(conn.getresponse())
  assert facts == {
    "name": "workdirs/fake",
    "examples": ["white"],
    "max_image_bytes": similarity.MAX_IMAGE_BYTES,
    "prompts": ["say a cat", "say |"],
    "samplers": [
      "greedy",
      "temperature(0.5)",
      "temperature(1)",
      "nucleus(0.9)",
    ],
    "max_lens": [64, 16, 32, 128, 256],
    "max_prompt_chars": 500,
    "masks": True,
  }


def test_choices_are_those_of_the_model():
  from big_vision.models.proj.paligemma import samplers
  from big_vision.pretrained import vision_language

  for name in questions.SAMPLERS:
    samplers.get(name)
  assert questions.MAX_LENS[0] == vision_language.MAX_LEN


def test_pieces(httpd, model):
  response = post(httpd, prompt="say a |größ|wait|er| cat")
  assert response.status == 200
  assert response.headers.get_content_type() == "application/x-ndjson"
  assert "default-src 'none'" in response.headers["Content-Security-Policy"]
  # They come before the answer is complete.
  first = [json.loads(response.readline()) for _ in range(2)]
  assert first == [{"text": "a "}, {"text": "größ"}]
  assert not model.goes_on.is_set()
  model.goes_on.set()
  *rest, done = [json.loads(line) for line in response]
  assert rest == [{"text": "er"}, {"text": " cat"}]
  assert done.pop("hash") and done == {"done": True, "objects": []}
  assert model.asked == [(64, "greedy", 0)] and model.closed == 1


def test_no_text(httpd):
  status, (done,) = ask(httpd, prompt="say |")
  assert status == 200 and done["done"] and done["objects"] == []


def test_images_are_prepared_once(httpd, model):
  data = base64.b64encode(example().data).decode()
  options = dict(max_len=16, sampler="nucleus(0.9)", seed=2**31 - 1)
  _, (*_, done) = ask(
    httpd, example=None, image=data, prompt="say a", **options
  )
  asks = dict(example=None, hash=done["hash"], prompt="say b")
  assert ask(httpd, **asks)[1][0] == {"text": "b"}
  assert model.prepared == 1
  assert model.asked == [(16, "nucleus(0.9)", 2**31 - 1), (64, "greedy", 0)]


def test_objects(httpd):
  said = f"say {BOX}|{CODES.replace('000', '032', 1)}| cat ; |{LEFT}| sky"
  _, (*_, done) = ask(httpd, prompt=said)
  cat, sky = done["objects"]
  assert cat["box"] == pytest.approx([512 / 1023, 0, 1, 1])
  assert sky["box"] == pytest.approx([0, 0, 1, 512 / 1023])
  assert (cat["label"], sky["label"]) == ("cat", "sky")
  mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(cat["mask"]))))
  expected = np.zeros([64, 64], np.uint8)
  expected[:32] = 255
  np.testing.assert_array_equal(mask, expected)
  assert sky["mask"] is None


def test_no_masks_without_a_codec(httpd):
  httpd.demo = questions.Demo(httpd.demo.vision_language, [example()])
  _, (*_, done) = ask(httpd, prompt=f"say {BOX}{CODES} cat")
  (cat,) = done["objects"]
  assert cat["label"] == "cat" and cat["mask"] is None


@pytest.mark.parametrize(
  "request_, status, message",
  [
    ({}, 400, "The prompt is not a text"),
    ({"prompt": " "}, 400, "The prompt is not a text"),
    ({"prompt": ["a"]}, 400, "The prompt is not a text"),
    ({"prompt": "\ud800"}, 400, "not valid Unicode"),
    ({"prompt": "a" * 501}, 400, "501 characters, at most 500"),
    ({"prompt": "a", "example": None}, 400, "Choose an image"),
    ({"prompt": "a", "example": 1}, 404, "no example 1"),
    ({"prompt": "a", "example": None, "hash": "b"}, 410, "forgotten"),
    ({"prompt": "a", "example": None, "image": "aGFsbG8="}, 400, "format JPEG"),
    (
      {"prompt": "a", "example": None, "image": "iVBORw0KGgphYmM="},
      400,
      "cannot be read",
    ),
    ({"prompt": "a", "sampler": "temperature(2)"}, 400, "one of greedy, temp"),
    ({"prompt": "a", "sampler": ["greedy"]}, 400, "one of greedy"),
    ({"prompt": "a", "max_len": 65}, 400, "one of 64, 16, 32, 128, 256"),
    ({"prompt": "a", "max_len": 64.0}, 400, "one of 64"),
    ({"prompt": "a", "seed": -1}, 400, "from 0 to 2147483647"),
    ({"prompt": "a", "seed": 2**31}, 400, "from 0 to 2147483647"),
    ({"prompt": "a", "seed": True}, 400, "should be an integer"),
    ({"prompt": "say fail"}, 500, "FloatingPointError: no answer"),
  ],
)
def test_wrong_requests(httpd, model, request_, status, message):
  found, (answer,) = ask(httpd, **request_)
  assert found == status
  assert list(answer) == ["error"] and re.search(message, answer["error"])
  assert not model.pieces


def test_failure_in_the_middle(httpd, model, capsys):
  status, lines = ask(httpd, prompt="say a|fail|b")
  assert status == 200
  error = "The server failed: FloatingPointError: no answer"
  assert lines == [{"text": "a"}, {"error": error}]
  assert "Traceback" in capsys.readouterr().err
  assert ask(httpd, prompt="say b")[1][0] == {"text": "b"}


def test_nobody_waits_for_a_long_answer(httpd, model):
  """Answers take turns, and so do other requests."""
  response = post(httpd, prompt="say forever")
  assert json.loads(response.readline()) == {"text": "more "}
  assert ask(httpd, prompt="say b")[1][0] == {"text": "b"}
  assert model.closed == 1  # The other one goes on.
  response.close()


def test_who_leaves_stops_the_answer(httpd, model):
  response = post(httpd, prompt="say forever")
  for _ in range(3):
    assert json.loads(response.readline()) == {"text": "more "}
  response.close()
  wait(lambda: model.closed, "the end of the answer")
  num = model.pieces
  time.sleep(0.05)
  assert model.pieces == num
  assert not httpd.demo.lock.locked()


def test_as_many_answers_as_fit(httpd, model):
  responses = [
    post(httpd, prompt="say forever") for _ in range(questions.MAX_ANSWERS)
  ]
  late = threading.Thread(target=ask, args=[httpd], kwargs={"prompt": "say a"})
  late.start()
  time.sleep(0.1)
  assert len(model.asked) == questions.MAX_ANSWERS
  responses.pop().close()
  late.join(20)
  assert not late.is_alive() and len(model.asked) == questions.MAX_ANSWERS + 1
  for response in responses:
    response.close()


def test_who_does_not_read_is_cut_off(httpd, model, monkeypatch):
  monkeypatch.setattr(server, "SECONDS", 0.2)
  monkeypatch.setattr(time, "sleep", lambda _: None)  # Fills the buffers fast.
  response = post(httpd, prompt="say forever")
  assert response.status == 200
  end = time.monotonic() + 30
  while not model.closed and time.monotonic() < end:
    threading.Event().wait(0.01)
  assert model.closed
  response.close()


# The command.


def arguments(workdir, **kw):
  names = ("init", "images", "mask_codec", "pp_img", "pp_txt", "pp_modules")
  given = dict.fromkeys(names) | dict(workdir=str(workdir), num_examples=3)
  return argparse.Namespace(**(given | kw))


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  """Of a run whose model is a fake one."""
  from big_vision import pretrained

  config = {"model_name": "proj.paligemma.paligemma"}
  (tmp_path / "config.json").write_text(json.dumps(config))
  fake = FakeVisionLanguage()
  fake.config = ml_collections.ConfigDict(config)
  monkeypatch.setattr(pretrained, "load", lambda *_, **__: fake)
  return tmp_path


def test_models_that_answer_are_found(workdir, monkeypatch):
  found = [(np.zeros([40, 80, 3], np.uint8), p) for p in ("say a\nb", "")]
  monkeypatch.setattr(examples_lib, "questions", lambda config, num: found)
  demo = demo_main.load(arguments(workdir))
  assert isinstance(demo, questions.Demo)
  assert demo.prompts == ["say a b"]
  assert [e.title for e in demo.examples] == ["say a\nb", "example"]
  # It has been asked already.
  assert demo.vision_language.pieces == 1
  monkeypatch.setattr(examples_lib, "questions", lambda config, num: [])
  assert demo_main.load(arguments(workdir)).prompts == list(questions.PROMPTS)


def test_published_models_that_answer(workdir, monkeypatch):
  from big_vision.pretrained import published

  config = ml_collections.ConfigDict(dict(model_name="two_towers"))
  found = argparse.Namespace(config=config)
  monkeypatch.setattr(published, "describe", lambda path: found)
  assert demo_main._maker("hf://org/name") is demo_main._of_texts
  config.model_name = "proj.paligemma.paligemma"
  args = arguments("hf://org/name")
  assert isinstance(demo_main.load(args), questions.Demo)


def test_mask_codec(workdir, tmp_path):
  with pytest.raises(ValueError, match="--mask_codec: .*no file.*/nothing"):
    demo_main.load(arguments(workdir, mask_codec="/nothing"))
  with pytest.raises(ValueError, match="leave out --pp_txt"):
    demo_main.load(arguments(workdir, pp_txt="tok"))
  (tmp_path / "config.json").write_text('{"model_name": "vit"}')
  with pytest.raises(ValueError, match="--mask_codec decodes masks of PaliG"):
    demo_main.load(arguments(workdir, mask_codec="oi"))


# The page.


class Page:
  """The page in the browser."""

  def __init__(self, browser, url):
    self.browser = browser
    browser.get("about:blank")
    browser.get_log("browser")  # Forgets earlier ones.
    browser.get(url)

  def find(self, css):
    return self.browser.find_element("css selector", css)

  def text(self, css):
    return self.find(css).text

  def answer(self):
    # That on the screen has its white space trimmed.
    return self.find("#answer").get_attribute("textContent")

  def ask(self, text):
    self.find("#question").clear()
    self.find("#question").send_keys(text, "\ue007")  # Enter.

  def wait_for(self, text):
    wait(lambda: self.answer() == text, f"{text!r}, not {self.answer()!r}")

  def pixel(self, y, x):
    """Color of the canvas at a place of the picture, in [0, 1]."""
    return self.browser.execute_script(
      """
      const [canvas, preview] = ["boxes", "preview"].map(
        id => document.getElementById(id));
      const h = canvas.width * preview.naturalHeight / preview.naturalWidth;
      const top = (canvas.height - h) / 2;
      return [...canvas.getContext("2d").getImageData(
        arguments[1] * canvas.width, top + arguments[0] * h, 1, 1).data];""",
      y,
      x,
    )

  def problems(self):
    log = self.browser.get_log("browser")
    return [e["message"] for e in log if e["level"] in ("WARNING", "SEVERE")]


@pytest.fixture
def page(browser, httpd):
  return Page(browser, httpd.url)


def test_page_starts_with_an_answer(page):
  page.wait_for("a cat")
  assert page.browser.title == "big_vision question demo"
  assert page.text("#model") == "workdirs/fake"
  assert not page.find("#texts").is_displayed()
  assert not page.find("#boxes").is_displayed()
  page.find("#question-examples button:nth-child(2)").click()
  wait(lambda: "is empty" in page.text("#answer-status"), "an empty answer")
  assert page.problems() == []


def test_text_appears_as_it_comes(page, model):
  page.wait_for("a cat")
  page.ask("say <b>one</b> |wait|two")
  page.wait_for("<b>one</b> ")
  model.goes_on.set()
  page.wait_for("<b>one</b> two")
  assert page.problems() == []


def test_a_new_prompt_stops_the_answer(page, model):
  page.wait_for("a cat")
  page.ask("say forever")
  wait(lambda: "more more" in page.answer(), "the answer")
  assert model.closed == 1
  page.ask("say a dog")
  page.wait_for("a dog")
  wait(lambda: model.closed == 3, "the end of both answers")
  assert page.text("#error") == ""


def test_boxes_and_masks_are_drawn(page):
  page.wait_for("a cat")
  said = f"{BOX}{CODES.replace('000', '032', 1)} cat ; {LEFT} sky"
  page.ask(f"say {said}")
  page.wait_for(said)
  wait(lambda: page.find("#boxes").is_displayed(), "the boxes")
  assert page.text("#objects").split() == ["cat", "sky"]
  assert page.problems() == []
  colors = page.browser.execute_script("""
    return [...document.querySelectorAll("#objects i")].map(
      i => i.style.background.match(/[0-9]+/g).map(Number));""")
  assert len(set(map(tuple, colors))) == 2
  # The upper half of the lower half is the mask, which is translucent.
  *mask, alpha = page.pixel(0.62, 0.8)
  np.testing.assert_allclose(mask, colors[0], atol=2)
  assert 100 < alpha < 150
  assert page.pixel(0.88, 0.8)[3] == page.pixel(0.25, 0.8)[3] == 0
  *line, alpha = page.pixel(0.25, 512 / 1023)
  np.testing.assert_allclose(line, colors[1], atol=2)
  assert alpha > 100
  # They are of this picture and prompt only.
  page.ask("say a dog")
  page.wait_for("a dog")
  assert not page.find("#boxes").is_displayed()
  assert page.text("#objects") == ""


def test_options_and_address(page, model):
  page.wait_for("a cat")
  for css, text in (("#sampler", "nucleus(0.9)"), ("#max-len", "128")):
    for option in page.find(css).find_elements("css selector", "option"):
      if option.text == text:
        option.click()
  page.ask("say 1 + 1 = 2 & more")
  page.wait_for("1 + 1 = 2 & more")
  *_, (max_len, sampler, seed) = model.asked
  assert (max_len, sampler) == (128, "nucleus(0.9)") and seed > 0
  page.browser.refresh()
  page.wait_for("1 + 1 = 2 & more")
  assert model.asked[-1][:2] == (128, "nucleus(0.9)")
  assert page.problems() == []


def test_files_and_errors(page, tmp_path, model, httpd):
  page.wait_for("a cat")
  path = tmp_path / "mine.png"
  path.write_bytes(example().data)
  page.find("#file").send_keys(str(path))
  wait(lambda: "example" not in page.browser.current_url, "the file")
  page.ask("say a|fail")
  wait(lambda: "no answer" in page.text("#error"), "the error")
  httpd.demo._images = similarity.Cache(9)  # Asks for the file again.
  page.ask("say a dog")
  page.wait_for("a dog")
  assert page.text("#error") == ""
  page.ask(" ")
  wait(lambda: page.text("#answer-status") == "Type a prompt.", "the hint")
  httpd.shutdown()
  httpd.server_close()
  page.ask("say a cat")
  wait(lambda: "does not answer" in page.text("#error"), "the error")
