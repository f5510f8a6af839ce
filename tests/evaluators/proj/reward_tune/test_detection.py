"""Mean average precision with scores: by hand, and that of pycocotools."""

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import lookup
from big_vision.evaluators.proj.reward_tune import detection

A, C = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 0.9, 0.9)
A_80 = (0.0, 0.0, 0.4, 0.5)  # IoU 0.8 with A.


def rows(*examples):
  """Of (true boxes and labels, predicted boxes, labels and scores)."""
  num_true = max(len(t) for t, _ in examples)
  num = max(len(p) for _, p in examples)
  n = len(examples)
  out = dict(
    true_boxes=np.zeros([n, num_true, 4]),
    true_labels=np.full([n, num_true], -1),
    boxes=np.zeros([n, num, 4]),
    labels=np.zeros([n, num], int),
    scores=np.ones([n, num]),
    is_box=np.zeros([n, num], bool),
  )
  for i, (true, predicted) in enumerate(examples):
    for j, (box, label) in enumerate(true):
      out["true_boxes"][i, j], out["true_labels"][i, j] = box, label
    for j, (box, label, score) in enumerate(predicted):
      out["boxes"][i, j], out["labels"][i, j] = box, label
      out["scores"][i, j], out["is_box"][i, j] = score, True
  return out


def test_by_hand():
  got = detection.average_precisions(
    rows(
      # The less certain of two boxes is the better one.
      ([(A, 0), (C, 3)], [(A, 0, 0.2), (A_80, 0, 0.7)]),
      ([(A, 0)], [(C, 0, 0.5), (A, 1, 0.9)]),
    )
  )
  # Of class 0 there are 2: up to 0.8 hit, miss, miss; then miss, miss, hit. Of
  # class 3 nothing is predicted; class 1 is not in the truth.
  low, high = 51 / 101, 51 / 101 / 3
  np.testing.assert_allclose(got, [[low] * 7 + [high] * 3, [0] * 10])
  assert np.isnan(detection.average_precisions(rows(([], [(A, 0, 1)])))).all()


def test_same_as_coco():
  pytest.importorskip("pycocotools")
  from pycocotools import coco, cocoeval

  rng = np.random.default_rng(0)
  examples = []
  for _ in range(30):
    true = []
    for _ in range(rng.integers(1, 5)):
      start = rng.random(2) * 0.5
      true.append(
        ((*start, *(start + 0.2 + 0.3 * rng.random(2))), rng.integers(3))
      )
    predicted = [
      (np.asarray(box) + 0.05 * rng.normal(size=4), label, rng.random())
      for box, label in true * 2
      if rng.random() < 0.7
    ]
    examples.append((true, predicted))
  annotations, results = [], []
  xywh = lambda b: [
    100 * float(v) for v in (b[1], b[0], b[3] - b[1], b[2] - b[0])
  ]
  for i, (true, predicted) in enumerate(examples):
    for box, label in true:
      x = xywh(box)
      annotations.append(dict(
        id=len(annotations) + 1, image_id=i, category_id=int(label), bbox=x,
        area=x[2] * x[3], iscrowd=0,
      ))  # fmt: skip
    results += [
      dict(image_id=i, category_id=int(c), bbox=xywh(b), score=float(s))
      for b, c, s in predicted
    ]
  with contextlib.redirect_stdout(io.StringIO()):
    truth = coco.COCO()
    truth.dataset = dict(
      images=[dict(id=i) for i in range(30)],
      annotations=annotations,
      categories=[dict(id=i) for i in range(3)],
      info={},
    )
    truth.createIndex()
    run = cocoeval.COCOeval(truth, truth.loadRes(results), "bbox")
    run.evaluate()
    run.accumulate()
  # [thresholds, recalls, classes, areas, numbers of boxes].
  want = run.eval["precision"][:, :, :, 0, -1].mean(axis=1).T
  got = detection.average_precisions(rows(*examples))
  assert 0.1 < want.mean() < 0.9
  np.testing.assert_allclose(got, want, atol=1e-9)


def predict(state, batch, seed):
  """The truth, but of the first box of each image some are missing."""
  del state
  shape = batch["said"].shape
  seen = (batch["said"] + seed.astype(jnp.int32)) % 2 == 0
  return {
    "boxes": batch["boxes"],
    "labels": jnp.zeros(shape, jnp.int32),
    "scores": jnp.ones(shape),
    "is_box": seen,
    "reward": jnp.where(seen, 1.0, 0.0)[:, 0],
  }


def data(n=11):
  said = np.arange(n, dtype=np.int32)[:, None]
  boxes = np.tile(np.array(A, np.float32), (n, 1, 1))
  return {
    "said": said,
    "boxes": boxes,
    "objects/bbox": boxes,
    "objects/label": np.zeros([n, 1], np.int32),
  }


def evaluate(given, state, **kw):
  evaluator = detection.Evaluator(
    kw.pop("predict", predict),
    data=given,
    pp_fn="",
    batch_size=8,
    devices=np.asarray(jax.devices()),
    **kw,
  )
  return dict(evaluator.run(state))


def test_evaluator(arrays, state):
  """Half of the boxes are found, all of them right."""
  got = evaluate(data(), state)
  recall = np.floor(6 / 11 * 100 + 1) / 101
  assert got == {
    "map": pytest.approx(recall),
    "map/0.5": pytest.approx(recall),
    "map/0.75": pytest.approx(recall),
    "reward": pytest.approx(6 / 11),
  }
  assert all(type(v) is float for v in got.values())


def test_several_seeds(arrays, state):
  given = {f"my/{k}" if "/" in k else k: v for k, v in data().items()}
  keys = dict(box_key="my/objects/bbox", label_key="my/objects/label")
  got = evaluate(given, state, seeds=(0, 1, 2), **keys)
  assert got["reward"] == pytest.approx((6 + 5 + 6) / 33)
  std = np.std([6 / 11, 5 / 11, 6 / 11], ddof=1)
  assert got["reward/std"] == pytest.approx(std)
  assert list(got)[:2] == ["map", "map/std"]


def test_bad_input(arrays, state):
  with pytest.raises(lookup.ConfigError, match=r"seeds=\(\)"):
    evaluate(data(), state, seeds=())
  with pytest.raises(lookup.ConfigError, match="pred='detect'"):
    evaluate(data(), state, predict=lambda state, batch, seed: {"loss": 0})
  given = data()
  del given["objects/bbox"]
  with pytest.raises(ValueError, match="box_key='objects/bbox' is not in"):
    evaluate(given, state)
