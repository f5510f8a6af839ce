"""tools/demo of a classifier: over HTTP, and the page in headless Chromium."""

import argparse
import base64
import html
import io
import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from big_vision.pretrained import classifier
from big_vision.tools.demo import __main__ as demo_main
from big_vision.tools.demo import classes, server, similarity


class FakeClassifier:
  """Has the methods of `Classifier` that the demo calls.

  The probability of class c is in proportion to pixel c.
  """

  name, loss = "workdirs/fake", "softmax"
  class_names = tuple(f"class <b>{c}" for c in range(12))

  def prepare(self, data):
    try:
      return np.asarray(Image.open(io.BytesIO(data)))
    except OSError as e:
      raise ValueError("This image cannot be read.") from e

  def outputs(self, prepared):
    values = np.stack([p.ravel()[:12] for p in prepared]).astype(np.float32)
    return values / values.sum(1, keepdims=True), values

  def top(self, probabilities, topk):
    return classifier.top(probabilities, self.class_names, topk)


def example(values):
  image = np.zeros([8, 9, 3], np.uint8)
  image.ravel()[: len(values)] = values
  return demo_main.array_example(image, "labeled class 3")


VALUES = np.array([5, 0, 2, 90, 1, 1, 1, 1, 1, 1, 1, 1])


@pytest.fixture
def httpd():
  httpd = server.Server("127.0.0.1", 0)
  httpd.demo = classes.Demo(FakeClassifier(), [example(VALUES)])
  threading.Thread(target=httpd.serve_forever, args=[0.01], daemon=True).start()
  yield httpd
  httpd.shutdown()
  httpd.server_close()


def ask(httpd, path="api/classes", **request):
  body = json.dumps(request).encode()
  headers = {"Content-Type": "application/json"}
  try:
    with urllib.request.urlopen(
      urllib.request.Request(httpd.url + path, body, headers), timeout=20
    ) as response:
      return response.status, json.load(response)
  except urllib.error.HTTPError as e:
    return e.code, json.load(e)


def test_facts(httpd):
  with urllib.request.urlopen(httpd.url + "api/model", timeout=20) as response:
    assert json.load(response) == {
      "name": "workdirs/fake",
      "loss_fn": "softmax",
      "examples": ["labeled class 3"],
      "max_image_bytes": similarity.MAX_IMAGE_BYTES,
      "num_classes": 12,
    }


def test_values(httpd):
  values = np.roll(VALUES, 2)
  data = base64.b64encode(example(values).data).decode()
  status, answer = ask(httpd, image=data)
  assert status == 200
  assert answer["names"][:3] == [f"class <b>{c}" for c in (5, 2, 4)]
  expected = np.array([90, 5, 2, *[1] * 7]) / values.sum()
  np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-6)
  assert ask(httpd, hash=answer["hash"]) == (200, answer)
  assert ask(httpd, example=0)[1]["names"][0] == "class <b>3"


def test_wrong_requests(httpd):
  encode = lambda data: base64.b64encode(data).decode()
  for request, status, message in (
    ({}, 400, "Choose an image"),
    ({"hash": "abc"}, 410, "forgotten"),
    ({"example": 1}, 404, "no example 1"),
    ({"image": encode(b"II*\0" * 9)}, 400, "of the format JPEG, PNG"),
    ({"image": encode(b"\x89PNG\r\n\x1a\nabc")}, 400, "cannot be read"),
  ):
    found, answer = ask(httpd, **request)
    assert found == status and message in answer["error"]
  assert ask(httpd, "api/similarity", example=0)[0] == 404
  httpd.demo.classifier.outputs = lambda _: (np.full((1, 3), np.nan), None)
  found, answer = ask(httpd, example=0)
  assert found == 500 and "NaN" in answer["error"]


def test_page(httpd, tmp_path):
  names = ("chromium", "chromium-browser", "google-chrome")
  chromium = next(filter(None, map(shutil.which, names)), None)
  if not chromium:
    pytest.skip("needs a browser: apt-get install chromium")
  done = subprocess.run(
    [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    + ["--virtual-time-budget=5000", f"--user-data-dir={tmp_path}", httpd.url],
    capture_output=True,
    text=True,
    timeout=60,
  )
  page = html.unescape(done.stdout)
  assert "<title>big_vision classifier demo</title>" in page
  assert "workdirs/fake, 12 classes" in page
  shown = re.findall('class="percent"[^>]*>([^<]*)', page)
  assert shown[:3] == ["85.7%", "4.8%", "1.9%"] and len(shown) == 10
  assert "Most probable: “class <b>3”, 85.7%." in page
  assert "The other 2 classes are less probable." in page
  hidden = re.findall(r'<(\w+) id="(\w+)"[^>]*hidden=""', page)
  assert {name for _, name in hidden} >= {"prompts", "options"}


def test_models_without_classes_are_refused(tmp_path, monkeypatch):
  from big_vision import pretrained

  (tmp_path / "config.json").write_text('{"model_name": "vit"}')
  monkeypatch.setattr(pretrained, "load", lambda *_, **__: object())
  args = argparse.Namespace(
    **dict.fromkeys(
      ["init", "images", "mask_codec", "pp_img", "pp_txt", "pp_modules"]
    ),
    workdir=str(tmp_path),
    num_examples=3,
  )
  with pytest.raises(ValueError, match="predicts numbers.*tools.predict"):
    demo_main.load(args)
  args.pp_txt = "tokenize"
  with pytest.raises(ValueError, match="leave out --pp_txt"):
    demo_main.load(args)
