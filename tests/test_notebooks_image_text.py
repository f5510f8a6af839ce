"""The notebooks of image-text models, with a model that was just trained."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import notebook_runs
import toy
from big_vision import embedder

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("ipywidgets")
pytest.importorskip("matplotlib")

pytestmark = pytest.mark.tf

CONFIG = "big_vision/configs/proj/image_text/siglip_lit_coco.py:demo"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """LiT after a few steps: it is right more often than by chance."""
  path = tmp_path_factory.mktemp("run")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("TFDS_DATA_DIR", str(path / "tfds"))
    patch.setenv("JAX_PLATFORMS", "cpu")
    command = [
      sys.executable, "-m", "big_vision.trainers.proj.image_text.siglip",
      "--config", CONFIG, "--config.total_steps", "60",
      "--workdir", str(path / "lit"),
    ]  # fmt: skip
    done = subprocess.run(
      command, cwd=notebook_runs.FOLDER.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    yield path / "lit"


def percents(html):
  """Values of a similarity table, one list for each image."""
  rows = html.split("<tr>")[2:]
  return [[float(x) / 100 for x in re.findall(r">([\d.]+)%<", r)] for r in rows]


def test_siglip(workdir, monkeypatch):
  monkeypatch.setenv("BV_MODEL", str(workdir))
  nb = notebook_runs.run(
    "siglip_demo",
    then=[
      # What somebody does with the boxes.
      "box.texts.value = 'a red circle\\n\\n<b>blue</b> star\\na red circle'",
      "display(HTML(box.table.value))",
      "box.loss_fn.value = 'softmax'",
      "import datetime, io, PIL.Image\n"
      "file = io.BytesIO()\n"
      "PIL.Image.new('RGB', (40, 20), 'red').save(file, 'PNG')\n"
      "new = lambda data: ({'name': 'x', 'type': '', 'size': 1, "
      "'content': memoryview(data), 'last_modified': datetime.datetime.now()},)",
      "box.files.value = new(file.getvalue())",
      "display(HTML(box.table.value))",
      "box.files.value = new(b'no image')",
      "display(HTML(box.table.value))",
    ],
  )
  model = embedder.load(str(workdir))
  examples = embedder.example_images(model.config, 8)
  images, captions = zip(*examples, strict=True)
  text, _ = notebook_runs.texts(nb)
  assert "trained with the sigmoid loss" in text
  assert f"image 7: 32 x 32 pixels, {captions[7]!r}" in text

  similar, names, own, more, error = notebook_runs.tables(nb)
  logits = model.logits(model.images(images), model.texts(captions))
  want = model.probabilities(logits)
  np.testing.assert_allclose(percents(similar), want, atol=6e-4)
  assert similar.count("<img") == 8 and captions[3] in similar
  found = sum(logits.argmax(axis=1) == np.arange(8))
  assert f"image's own for {found} of 8" in text

  assert np.shape(percents(names)) == (8, 5)
  np.testing.assert_allclose(np.sum(percents(names), axis=1), 1, atol=3e-3)

  texts = ["a red circle", "<b>blue</b> star"]
  logits = model.logits(model.images(images), model.texts(texts))
  want = model.probabilities(logits)
  np.testing.assert_allclose(percents(own), want, atol=6e-4)
  assert "&lt;b&gt;blue&lt;/b&gt; star" in own and "<b>" not in own
  red = np.zeros([20, 40, 3], np.uint8) + np.uint8([255, 0, 0])
  logits = model.logits(model.images([*images, red]), model.texts(texts))
  want = model.probabilities(logits, "softmax")
  np.testing.assert_allclose(percents(more), want, atol=6e-4)
  assert "not an image that can be read" in error


@pytest.mark.slow
def test_siglip_on_own_images(workdir, tmp_path, monkeypatch):
  from PIL import Image

  monkeypatch.setenv("BV_MODEL", str(workdir))
  monkeypatch.setenv("BV_IMAGES", str(tmp_path))
  Image.new("RGB", (50, 30), "green").save(tmp_path / "a green wall.jpg")
  text, _ = notebook_runs.texts(notebook_runs.run("siglip_demo"))
  assert "image 0: 30 x 50 pixels, 'a green wall'" in text


def test_lit(workdir, monkeypatch):
  monkeypatch.setenv("BV_WORKDIR", str(workdir))
  text, pictures = notebook_runs.texts(notebook_runs.run("lit_demo"))
  assert pictures == 2  # Curves; an image with its texts.
  assert "img/.*: locked" in text
  # The same as the run itself at its end.
  rows = toy.rows(workdir)
  final = rows[max(rows)]
  names = [k for k in final if k.endswith(("accuracy", "recall@1"))]
  assert len(names) == 4
  for name in names:
    assert f"{name}: {final[name]:.3f}" in text
  assert final["z/0shot/heldout_accuracy"] > 0.25  # Of eight names.
  caption = re.search(r"The caption: '(.*)'\.", text)[1]
  config = embedder.load(str(workdir)).config
  assert caption == embedder.example_images(config, 1)[0][1]


@pytest.mark.slow
def test_lit_without_a_run(tmp_path, monkeypatch):
  import nbclient

  monkeypatch.setenv("BV_WORKDIR", str(tmp_path))
  with pytest.raises(nbclient.exceptions.CellExecutionError) as e:
    notebook_runs.run("lit_demo")
  assert "Train first, or set BV_WORKDIR" in str(e.value)
  assert os.listdir(tmp_path) == []
