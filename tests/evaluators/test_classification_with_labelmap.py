"""Logits of some outputs against NumPy, and classes that have none."""

import jax
import numpy as np
import pytest
from scipy import special

from big_vision.evaluators import classification_with_labelmap


def predict(state, batch):
  return batch["image"] @ state["params"]["w"], {}


def evaluate(state, x, labels, mapping, loss_name="softmax_xent", fn=predict):
  evaluator = classification_with_labelmap.Evaluator(
    fn,
    loss_name,
    mapping,
    label_key="y",
    data={"image": x, "y": labels},
    pp_fn="",
    batch_size=16,
    devices=jax.devices(),
  )
  return dict(evaluator.run(state))


def test_values(arrays, state):
  """Three classes, of which the second has no output."""
  rng = np.random.RandomState(0)
  x = rng.randn(45, 6).astype(np.float32)
  classes = rng.randint(3, size=45)
  labels = np.eye(3, dtype=np.float32)[classes]
  labels[::9] = 0  # Not labelled at all: counts nothing.
  got = evaluate(state, x, labels, (3, -1, 1))

  logits = x @ np.asarray(jax.device_get(state["params"]["w"]))
  logits, labels = logits[:, [3, 1]], labels[:, [0, 2]]
  predicted = np.array([0, 2])[logits.argmax(1)]
  counted = np.arange(45) % 9 > 0
  assert got["prec@1"] == pytest.approx(
    np.mean((predicted == classes)[counted])
  )
  assert (classes[counted] == 1).any()  # These are wrong.
  loss = -(labels * special.log_softmax(logits, axis=1)).sum(1)
  assert got["loss"] == pytest.approx(loss[counted].mean(), rel=1e-5)


def test_a_mapping_by_name(arrays, state):
  """A model of 21 843 classes that knows a few of the 1000."""
  some = [0, 7, 999]

  def fn(state, batch):
    from big_vision.datasets.imagenet import label_maps

    outputs = label_maps.get("i1k_i21k")[some]
    logits = 0.0 * state["params"]["w"].sum() + np.zeros((16, 21843))
    return logits.at[:, outputs].set(batch["image"]), {}

  labels = np.eye(1000, dtype=np.float32)[some]
  x = 5 * np.eye(3, dtype=np.float32)
  x[2] = [9.0, 0.0, 5.0]
  got = evaluate(state, x, labels, "i1k_i21k", "sigmoid_xent", fn)
  assert got["prec@1"] == pytest.approx(2 / 3)


def test_bad_input(arrays, state):
  x, labels = np.zeros((16, 6), np.float32), np.zeros((16, 3), np.float32)
  with pytest.raises(ValueError, match="mapping 'i1k'.*Known: i1k_i21k"):
    evaluate(state, x, labels, "i1k")
  with pytest.raises(ValueError, match="no class has an output"):
    evaluate(state, x, labels, (-1, -1, -1))
  with pytest.raises(ValueError, match=r"of 2 classes .*labels are \(16, 3\)"):
    evaluate(state, x, labels, (1, 2))
  with pytest.raises(ValueError, match=r"outputs up to 4.*logits \(16, 4\)"):
    evaluate(state, x, labels, (1, 2, 4))
