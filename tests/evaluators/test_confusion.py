"""Which classes are taken for which, against NumPy; the files."""

import csv
import io

import jax
import numpy as np
import pytest
from PIL import Image

from big_vision.evaluators import classification, confusion


def predict(state, batch):
  return batch["image"] @ state["params"]["w"], {}


@pytest.mark.parametrize("batch_size", [8, 32])
def test_counts_and_files(arrays, state, tmp_path, batch_size, monkeypatch):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(45, 6)).astype(np.float32)
  label = rng.integers(0, 3, 45)  # There is none of the fourth class.
  labels = np.eye(4, dtype=np.float32)[label]
  labels[7] = 0  # Without a label.
  labels[8] = [0.5, 0.5, 0, 0]
  names = ["a", "b", "c", "d, e"]
  monkeypatch.setattr(confusion.Writer, "_names", lambda self, num: names)
  evaluator = classification.Evaluator(
    predict,
    "softmax_xent",
    label_key="y",
    data={"image": x, "y": labels},
    pp_fn="",
    batch_size=batch_size,
    devices=jax.devices(),
    confusion="{workdir}/x/val-{step}",
    workdir=str(tmp_path),
    get_step=lambda: 7,
  )
  result = dict(evaluator.run(state))
  w = np.asarray(jax.device_get(state["params"]["w"]))
  top1 = (x @ w).argmax(axis=1)
  want = np.zeros([4, 4])
  for y, p in zip(labels, top1, strict=True):
    want[:, p] += y * y.max() / max(y.sum(), 1)
  rows = list(csv.reader(open(tmp_path / "x/val-7.csv", encoding="utf-8")))
  assert rows[0] == ["label", *names] and [r[0] for r in rows[1:]] == names
  got = np.array([[float(v) for v in row[1:]] for row in rows[1:]])
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert got.sum() == pytest.approx(43.5)
  del labels, label
  with open(tmp_path / "x/val-7_per_class.csv", encoding="utf-8") as f:
    per_class = list(csv.DictReader(f))
  right = sum(
    float(r["accuracy"]) * float(r["examples"]) for r in per_class[:3]
  )
  # The example of two labels is half right, by which prec@1 counts it, too.
  assert right / 43.5 == pytest.approx(result["prec@1"], abs=0.01)
  assert per_class[3]["accuracy"] == "" and per_class[3]["examples"] == "0"
  assert per_class[0]["most taken for"] in names[1:]
  image = Image.open(io.BytesIO((tmp_path / "x/val-7.png").read_bytes()))
  assert image.width > 300 and np.ptp(np.asarray(image.convert("L"))) > 200


def test_nothing_is_written_by_default(arrays, state, tmp_path):
  data = {"image": np.ones([3, 6], np.float32), "y": np.eye(4)[:3]}
  kw = dict(data=data, pp_fn="", batch_size=8, devices=jax.devices())
  evaluator = classification.Evaluator(
    predict, "softmax_xent", "y", workdir=str(tmp_path), **kw
  )
  assert [k for k, _ in evaluator.run(state)] == ["prec@1", "loss"]
  assert not list(tmp_path.iterdir())


def test_many_classes():
  """Names and numbers would not be legible."""
  counts = np.eye(200)
  names = list(map(str, range(200)))
  picture = confusion.draw(names, counts)
  assert picture is not None and picture.startswith(b"\x89PNG")
