"""mAP, F1 and AUROC against scikit-learn."""

import csv
import warnings

import jax
import numpy as np
import pytest
from sklearn import metrics

from big_vision.evaluators import multilabel

N, C = 45, 4


def predict(state, batch):
  return batch["image"] @ state["params"]["w"], {}


def data(seed=0):
  """Images and labels; some images have no label."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(N, 6)).astype(np.float32)
  x[10] = x[11]  # Equal scores.
  labels = (rng.random((N, C)) < [0.5, 0.3, 0.2, 0.1]).astype(np.float32)
  labels[3] = 0
  labels[10], labels[11] = [1, 0, 1, 0], [0, 1, 0, 1]
  return {"image": x, "labels": labels}


def evaluate(arrays, state, **kw):
  evaluator = multilabel.Evaluator(
    predict,
    data=arrays,
    pp_fn="",
    batch_size=16,
    devices=np.asarray(jax.devices()),
    workdir="",
    **kw,
  )
  return list(evaluator.run(state))


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_values(arrays, state, threshold):
  given = data()
  got = evaluate(given, state, threshold=threshold)
  names = ["mAP", "f1_micro", "f1_macro", "auroc", "loss"]
  assert [name for name, _ in got] == names
  logits = given["image"] @ np.asarray(state["params"]["w"])
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  y, marked = given["labels"], p >= threshold
  want = dict(
    mAP=metrics.average_precision_score(y, logits),
    f1_micro=metrics.f1_score(y, marked, average="micro"),
    f1_macro=metrics.f1_score(y, marked, average="macro"),
    auroc=metrics.roc_auc_score(y, logits),
    loss=-(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(axis=1).mean(),
  )
  for name, value in got:
    assert value == pytest.approx(want[name], rel=1e-5), name


def test_ties():
  """Scores of few values."""
  rng = np.random.default_rng(1)
  scores = rng.integers(0, 4, (200, 3)).astype(np.float32)
  y = rng.random((200, 3)) < 0.3
  np.testing.assert_allclose(
    multilabel.average_precision(scores, y),
    metrics.average_precision_score(y, scores, average=None),
  )
  np.testing.assert_allclose(
    multilabel.auroc(scores, y), metrics.roc_auc_score(y, scores, average=None)
  )


def test_table(arrays, state, tmp_path):
  given = data()
  given["labels"][:, 1] = 0  # Without positives.
  given["labels"][:, 2] = 1  # Without negatives.
  path = tmp_path / "new" / "{step}.csv"
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    got = evaluate(given, state, per_class=str(path), get_step=lambda: 7)
  with open(tmp_path / "new" / "7.csv") as f:
    rows = list(csv.DictReader(f))
  assert [r["class"] for r in rows] == ["0", "1", "2", "3"]
  logits = given["image"] @ np.asarray(state["params"]["w"])
  y, marked = given["labels"] > 0, logits >= 0
  numbers = dict(
    positives=y.sum(axis=0),
    predicted=marked.sum(axis=0),
    f1=metrics.f1_score(y, marked, average=None, zero_division=0),
    precision=metrics.precision_score(y, marked, average=None),
    recall=metrics.recall_score(y, marked, average=None, zero_division=0),
  )
  for name, values in numbers.items():
    if name == "recall":
      assert rows[1].pop(name) == ""
      rows[1][name] = 0
    found = [float(r[name]) for r in rows]
    np.testing.assert_allclose(found, values, rtol=1e-5, err_msg=name)
  precision = [r["average precision"] for r in rows]
  area = [r["auroc"] for r in rows]
  assert precision[1] == "" and area[1] == area[2] == ""
  assert float(precision[2]) == 1
  for i in (0, 3):
    ap = metrics.average_precision_score(y[:, i], logits[:, i])
    auc = metrics.roc_auc_score(y[:, i], logits[:, i])
    assert float(precision[i]) == pytest.approx(ap, rel=1e-5)
    assert float(area[i]) == pytest.approx(auc, rel=1e-5)
  # Means of what there is.
  means = dict(got)
  known = [float(x) for x in precision if x]
  assert means["mAP"] == pytest.approx(np.mean(known), rel=1e-5)
  assert means["auroc"] == pytest.approx(
    np.mean([float(area[0]), float(area[3])]), rel=1e-5
  )


def test_nothing_to_write(arrays, state, caplog):
  evaluate(data(), state, per_class="{workdir}/x.csv")
  assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_misfits(arrays, state):
  with pytest.raises(ValueError, match="threshold=50 should be a probability"):
    evaluate(data(), state, threshold=50)
  given = data()
  given["labels"] = given["labels"][:, :3]
  with pytest.raises(ValueError, match="config.num_classes and what"):
    evaluate(given, state)
  with pytest.raises(ValueError, match="'tags' is not in the batch"):
    evaluate(data(), state, label_key="tags")
  batch = dict(image=np.ones([8, 6]), labels=np.ones([8, 4]), _mask=np.ones(8))
  cfg = dict(devices=jax.devices())
  shapes = jax.eval_shape(
    lambda s, b: multilabel.trial(predict, s, dict(b), cfg), state, batch
  )
  assert shapes[0][0].shape == (8, 4)
