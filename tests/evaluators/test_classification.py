"""Accuracy and loss against NumPy, whatever the padding and batch size."""

import jax
import numpy as np
import pytest
from scipy import special

from big_vision.evaluators import classification


def predict(state, batch):
  return batch["image"] @ state["params"]["w"], {"unused": 0}


def images(n, seed=0):
  rng = np.random.RandomState(seed)
  x = rng.randn(n, 6).astype(np.float32)
  labels = (rng.uniform(size=(n, 4)) < 0.4).astype(np.float32)
  labels[::5] = 0.0
  return x, labels


def closed_form(logits, labels, loss_name):
  """(prec@1, loss) of the examples that have a label."""
  weights = labels.max(axis=1)
  if loss_name == "softmax_xent":
    loss = -(labels * special.log_softmax(logits, axis=1)).sum(axis=1)
  else:
    loss = labels * special.log_expit(logits)
    loss = -(loss + (1 - labels) * special.log_expit(-logits)).sum(axis=1)
  hit = labels[np.arange(len(labels)), logits.argmax(axis=1)]
  return (hit @ weights / weights.sum(), loss @ weights / weights.sum())


def evaluate(
  state, x, labels, batch_size, loss_name="softmax_xent", fn=predict
):
  evaluator = classification.Evaluator(
    fn,
    loss_name,
    label_key="y",
    data={"image": x, "y": labels},
    pp_fn="",
    batch_size=batch_size,
    devices=jax.devices(),
  )
  result = list(evaluator.run(state))
  assert [k for k, _ in result] == ["prec@1", "loss"]
  assert all(isinstance(v, float) for _, v in result)
  values = [v for _, v in result]
  again = [v for _, v in evaluator.run(state)]
  np.testing.assert_array_equal(again, values)  # NaN equals NaN.
  return values


@pytest.mark.parametrize("loss_name", ["softmax_xent", "sigmoid_xent"])
def test_values_do_not_depend_on_padding_or_batch_size(
  arrays, state, loss_name
):
  x, labels = images(45)
  w = np.asarray(jax.device_get(state["params"]["w"]))
  expected = closed_form(x @ w, labels, loss_name)
  for batch_size in (8, 16, 48, 64):
    got = evaluate(state, x, labels, batch_size, loss_name)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_soft_labels_are_weights(arrays, state):
  x, labels = images(24)
  labels *= np.random.RandomState(1).uniform(0.2, 1.0, labels.shape)
  w = np.asarray(jax.device_get(state["params"]["w"]))
  expected = closed_form(x @ w, labels, "softmax_xent")
  got = evaluate(state, x, labels, 16)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_examples_without_label_may_be_broken(arrays, state):
  x, labels = images(24)
  expected = evaluate(state, x, labels, 8)
  x[::5] = np.nan  # Those rows have no label.
  np.testing.assert_allclose(evaluate(state, x, labels, 8), expected)
  x[1], labels[1] = np.nan, [1, 0, 0, 0]  # This one counts.
  assert np.isnan(evaluate(state, x, labels, 8)[1])


def test_no_labels_at_all_is_nan(arrays, state):
  x, labels = images(8)
  assert np.isnan(evaluate(state, x, 0 * labels, 8)).all()


def test_same_function_compiles_once(arrays, state):
  traces = []

  def counting(state, batch):
    traces.append(1)
    return predict(state, batch)

  x, labels = images(20)
  for _ in range(3):
    evaluate(state, x, labels, 16, fn=counting)
  assert len(traces) == 1


def test_bad_input(arrays, state):
  x, labels = images(8)
  with pytest.raises(ValueError, match="softmax_xent"):
    classification.get_eval_fn(predict, "softmax_xnt")
  with pytest.raises(ValueError, match="num_classes"):
    evaluate(state, x, np.ones((8, 5), np.float32), 8)
  evaluator = classification.Evaluator(
    predict,
    "softmax_xent",
    data={"image": x},
    pp_fn="",
    batch_size=8,
    devices=jax.devices(),
  )
  with pytest.raises(ValueError, match="label_key='labels'.*image"):
    list(evaluator.run(state))


@pytest.mark.tf
def test_digits(tfds_data_dir):
  """Nearest class means, from files to metric, against NumPy."""
  from sklearn import datasets

  from big_vision.pp import ops_general, ops_image  # noqa: F401  (Registers.)

  digits = datasets.load_digits()
  x = np.round(digits.images[1500:] * 255 / 16).reshape(-1, 64)
  w = np.random.RandomState(0).randn(64, 10).astype(np.float32)
  labels = np.eye(10)[digits.target[1500:]]
  expected = closed_form(x / 255 @ w, labels, "softmax_xent")

  def predict_digits(state, batch):
    image = batch["image"]
    return image.reshape(len(image), -1) @ state, None

  evaluator = classification.Evaluator(
    predict_digits,
    "softmax_xent",
    data={"name": "digits", "split": "test"},
    pp_fn="decode(channels=1)|reshape((8, 8, 1))|value_range(0, 1)|"
    "onehot(10, key='label', key_result='labels')|keep('image', 'labels')",
    batch_size=64,
    devices=np.asarray(jax.devices()),
  )
  result = dict(evaluator.run(w))
  assert result["prec@1"] == pytest.approx(expected[0], abs=1e-6)
  assert result["loss"] == pytest.approx(expected[1], rel=1e-4)
