"""Linear classifiers against scikit-learn, and SGD against NumPy."""

import jax
import numpy as np
import pytest

from big_vision.probes import logistic, ridge, sgd


def clusters(n, dim, num_classes, seed=0, noise=2.0):
  rng = np.random.RandomState(seed)
  centers = np.random.RandomState(99).randn(num_classes, dim)
  y = np.concatenate([np.arange(num_classes), rng.randint(num_classes, size=n)])
  y = y[:n]
  x = centers[y] + noise * rng.randn(n, dim) + 3
  return x.astype(np.float32), y


@pytest.mark.parametrize("n, dim", [(200, 16), (24, 40)])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_ridge(n, dim, num_classes, monkeypatch):
  from sklearn.linear_model import RidgeClassifier

  monkeypatch.setattr(ridge, "_CHUNK", 19)
  x, y = clusters(n, dim, num_classes)
  fitted = ridge.decompose(x, y, num_classes)
  for l2_reg in (1e-6, 1.0, 1e4):
    model = RidgeClassifier(alpha=l2_reg).fit(x.astype(np.float64), y)
    weights, bias = fitted.solve(l2_reg)
    if num_classes == 2:
      weights, bias = weights[:, 1], bias[1:]
    np.testing.assert_allclose(weights.T, model.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(bias, model.intercept_, atol=1e-8)


def test_least_squares_of_dependent_features():
  """Without penalty, where many weights are as good: the smallest ones."""
  x, y = clusters(30, 4, 3)
  x = np.concatenate([x, x, np.ones((30, 1), np.float32)], axis=1)
  weights, bias = ridge.decompose(x, y, 3).solve(0.0)
  targets = 2.0 * np.eye(3)[y] - 1
  mean = x.mean(axis=0, dtype=np.float64)
  want, *_ = np.linalg.lstsq(x - mean, targets - targets.mean(axis=0))
  np.testing.assert_allclose(weights, want, atol=1e-8)
  np.testing.assert_allclose(bias, targets.mean(axis=0) - mean @ want)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_logistic_regression(num_classes):
  from sklearn.linear_model import LogisticRegression

  x, y = clusters(101, 6, num_classes)  # Not a multiple of the devices.
  costs = (1.0, 1e-3, 0.1)
  got = logistic.fit(x, y, num_classes, costs, jax.devices(), tol=1e-6)
  for cost, (weights, bias) in zip(costs, got, strict=True):
    model = LogisticRegression(C=cost, max_iter=2000, tol=1e-8)
    model.fit(x.astype(np.float64), y)
    if num_classes == 2:
      weights = weights[:, 1:] - weights[:, :1]
      bias = bias[1:] - bias[:1]
    else:  # A constant in all biases makes no difference.
      bias = bias - bias.mean() + model.intercept_.mean()
    np.testing.assert_allclose(weights.T, model.coef_, atol=1e-3)
    np.testing.assert_allclose(bias, model.intercept_, atol=2e-3)


def test_sgd(monkeypatch):
  monkeypatch.setattr(sgd, "_MAX_STEPS", 4)
  x, y = clusters(70, 5, 3)
  x = (x - 3) / 4
  rates, steps, batch, seed = (0.1, 1.0), 9, 24, 4
  kw = dict(steps=steps, batch_size=batch, seed=seed)
  got = sgd.fit(x, y, 3, rates, jax.devices(), **kw)
  rng = np.random.default_rng(seed)
  start = np.concatenate([rng.normal(0, 0.01, (5, 3)), np.zeros((1, 3))])
  padded = np.concatenate([x, np.ones((70, 1))], axis=1)
  heads = [[start.copy(), np.zeros((6, 3))] for _ in rates]
  for step in range(steps):
    if step % 2 == 0:  # Two batches of 24 in an epoch of 70.
      order = rng.permutation(70)
    rows = order[step % 2 * batch :][:batch]
    decay = (1 + np.cos(np.pi * step / steps)) / 2
    for rate, head in zip(rates, heads, strict=True):
      logits = padded[rows] @ head[0]
      p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
      grad = padded[rows].T @ (p - np.eye(3)[y[rows]]) / batch
      head[1] = 0.9 * head[1] + grad
      head[0] = head[0] - rate * batch / 256 * decay * head[1]
  for (weights, bias), (want, _) in zip(got, heads, strict=True):
    np.testing.assert_allclose(weights, want[:-1], atol=1e-5)
    np.testing.assert_allclose(bias, want[-1], atol=1e-5)
  alone = sgd.fit(x, y, 3, rates[1:], jax.devices(), **kw)
  np.testing.assert_allclose(alone[0][0], got[1][0], atol=1e-6)


@pytest.mark.parametrize(
  "n, devices, want", [(70, 8, 64), (5, 8, 5), (9, 4, 8)]
)
def test_batches_fit_the_data(n, devices, want):
  assert sgd.fit_batch(1024, n, devices) == want
