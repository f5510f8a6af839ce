"""Weights of classes, against scikit-learn and formulas in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn.utils import class_weight

from big_vision import class_weights, lookup, losses

COUNTS = np.array([50, 7, 1, 200])
LABELS = np.repeat(np.arange(4), COUNTS)


def test_balanced_is_that_of_scikit_learn():
  want = class_weight.compute_class_weight(
    "balanced", classes=np.arange(4), y=LABELS
  )
  got = class_weights.balanced(COUNTS, len(LABELS))
  np.testing.assert_allclose(got, want, rtol=1e-6)
  # The mean weight of an example is 1, so that the loss keeps its size.
  np.testing.assert_allclose(got[LABELS].mean(), 1, rtol=1e-6)


def test_classes_without_examples():
  counts = np.array([50, 0, 7])
  got = class_weights.balanced(counts, 57)
  np.testing.assert_allclose(got, [57 / 100, 1, 57 / 14], rtol=1e-6)
  got = class_weights.effective(counts, 0.9)
  assert got[1] == 1 and np.isclose(got[[0, 2]].mean(), 1)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.99999])
def test_effective_number(beta):
  want = (1 - beta) / (1 - np.float64(beta) ** COUNTS)
  want = want / want.sum() * 4
  got = class_weights.effective(COUNTS, beta)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def arrays():
  r = np.random.default_rng(0)
  logits = r.normal(size=(6, 4)).astype(np.float32)
  labels = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 1, 2]]
  labels[4] = [0.3, 0.7, 0, 0]  # Mixed up.
  labels[5] = 0  # Without a label.
  return logits, labels, np.array([0.5, 2.0, 3.0, 0.25], np.float32)


def test_weighted_softmax():
  logits, labels, w = arrays()
  fn = class_weights.weigh(losses.softmax_xent, "softmax_xent", w)
  logp = logits - special.logsumexp(logits, axis=1, keepdims=True)
  want = -(w[None] * labels * logp).sum(axis=1)
  assert want[5] == 0
  got = fn(logits=jnp.array(logits), labels=jnp.array(labels))
  np.testing.assert_allclose(got, want.mean(), rtol=1e-6)


def test_weighted_sigmoid():
  logits, labels, w = arrays()
  labels[3] = [1, 0, 0, 1]  # Two labels.
  fn = class_weights.weigh(losses.sigmoid_xent, "sigmoid_xent", w)
  p = special.expit(logits.astype(np.float64))
  terms = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum(axis=1)
  weights = [0.5, 2.0, 3.0, (0.5 + 0.25) / 2, 0.3 * 0.5 + 0.7 * 2, 1]
  got = fn(logits=jnp.array(logits), labels=jnp.array(labels))
  np.testing.assert_allclose(got, np.mean(weights * terms), rtol=1e-6)


@pytest.mark.parametrize("name", ["softmax_xent", "sigmoid_xent"])
def test_weights_of_one_change_nothing(name):
  logits, labels, _ = map(jnp.array, arrays())
  loss = losses.get(name)
  fn = class_weights.weigh(loss, name, np.ones(4, np.float32))
  want = loss(logits=logits, labels=labels)
  np.testing.assert_allclose(fn(logits=logits, labels=labels), want, rtol=1e-6)


@pytest.mark.parametrize(
  "value",
  ["balance", 3, [1, -1], [[1]], [0, 0], ["a"], {"beta": 1}, {"b": 0.9}],
)
def test_bad_values(value):
  with pytest.raises(lookup.ConfigError, match="config.class_weights"):
    class_weights.check(value)


def test_bad_length_and_loss():
  with pytest.raises(lookup.ConfigError, match="2 numbers.*num_classes = 3"):
    class_weights.of_list([1, 2], 3)
  with pytest.raises(lookup.ConfigError, match="not 'mse'"):
    class_weights.check_loss("mse")
