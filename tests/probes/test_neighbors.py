"""Nearest neighbors against scikit-learn and NumPy."""

import jax
import numpy as np
import pytest

from big_vision import lookup
from big_vision.probes import neighbors


def clusters(n, dim, num_classes, seed, noise=2.0):
  rng = np.random.RandomState(seed)
  centers = np.random.RandomState(99).randn(num_classes, dim)
  y = rng.randint(num_classes, size=n)
  return (centers[y] + noise * rng.randn(n, dim)).astype(np.float32), y


@pytest.mark.parametrize("k", [1, 10, 20])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_scikit_learn(k, temperature, monkeypatch):
  from sklearn.neighbors import KNeighborsClassifier

  # Several chunks of both, neither of which divides its number of examples.
  monkeypatch.setattr(neighbors, "_MIN_CHUNK", 96)
  monkeypatch.setattr(neighbors, "_NUM_SIMILARITIES", 1)
  monkeypatch.setattr(neighbors, "_TEST_ROWS", 50)
  x, y = clusters(300, 12, 7, 0)
  x_test, y_test = clusters(123, 12, 7, 1)
  similar, found = neighbors.find(x, x_test, k, jax.devices())
  model = KNeighborsClassifier(
    k,
    metric="cosine",
    algorithm="brute",
    weights=lambda distance: np.exp((1 - distance) / temperature),
  ).fit(x.astype(np.float64), y)
  distance, index = model.kneighbors(x_test.astype(np.float64))
  np.testing.assert_array_equal(found, index)
  np.testing.assert_allclose(similar, 1 - distance, atol=1e-5)
  votes = neighbors.votes(similar, y[found], 7, temperature)
  proba = model.predict_proba(x_test.astype(np.float64))
  votes /= votes.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(votes, proba, atol=1e-4)
  top1, top5 = neighbors.accuracies(similar, y[found], y_test, 7, temperature)
  assert top1 == (model.predict(x_test.astype(np.float64)) == y_test).mean()
  order = np.argsort(-proba, axis=1, kind="stable")[:, :5]
  assert top5 == pytest.approx((order == y_test[:, None]).any(axis=1).mean())


def test_ties_and_labels_out_of_range():
  """Equal neighbors: the first example, and the first class, come first."""
  x = np.array([[1, 0], [2, 0], [0, 1], [1, 0]], np.float32)
  _, found = neighbors.find(x, x[:1], 3, jax.devices())
  np.testing.assert_array_equal(found, [[0, 1, 3]])
  similar = np.ones((2, 2), np.float32)
  labels = np.array([[3, 1], [-1, 2]])
  votes = neighbors.votes(similar, labels, 4, 0.07)
  np.testing.assert_array_equal(votes, [[0, 1, 0, 1], [0, 0, 1, 0]])
  got = neighbors.accuracies(similar, labels, np.array([1, 2]), 4, 0.07, (1, 2))
  assert got == [1.0, 1.0]
  # Rows of zeros are as similar to everything; no overflow at any temperature.
  _, found = neighbors.find(0 * x, x[:1], 2, jax.devices())
  np.testing.assert_array_equal(found, [[0, 1]])
  assert np.isfinite(neighbors.votes(similar, labels, 4, 1e-5)).all()


@pytest.mark.parametrize("k", [0, 5])
def test_wrong_k(k):
  x = np.eye(4, dtype=np.float32)
  with pytest.raises(lookup.ConfigError, match=f"k={k}.* 4 training"):
    neighbors.find(x, x, k, jax.devices())
