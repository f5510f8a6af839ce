"""Distances of normal distributions against closed forms and SciPy."""

import numpy as np
import pytest
import scipy.linalg

from big_vision import lookup
from big_vision.evaluators import frechet

RNG = np.random.RandomState(0)


def covariance(rng, dim, rank=None):
  x = rng.randn(dim, rank or dim + 2)
  return x @ x.T


def test_diagonal_covariances():
  """Sum of squared differences of means and of standard deviations."""
  a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 0.0, 25.0])
  mean_a, mean_b = np.array([0.0, 1.0, 5.0]), np.array([2.0, 1.0, 4.0])
  # (2² + 0 + 1²) + (1-2)² + (2-0)² + (3-5)².
  found = frechet.frechet_distance(mean_a, np.diag(a), mean_b, np.diag(b))
  assert found == pytest.approx(14, abs=1e-12)
  found = frechet.frechet_distance([3.0], [[4.0]], [1.0], [[1.0]])
  assert found == pytest.approx(5, abs=1e-12)


def test_commuting_covariances():
  """Those with common axes: of their roots, the squared Frobenius distance."""
  axes = np.linalg.qr(RNG.randn(6, 6))[0]
  a, b = RNG.rand(6) * 3, RNG.rand(6) * 3
  expected = np.square(np.sqrt(a) - np.sqrt(b)).sum()
  matrices = [(axes * x) @ axes.T for x in (a, b)]
  zero = np.zeros(6)
  found = frechet.frechet_distance(zero, matrices[0], zero, matrices[1])
  np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("rank", [None, 5])
def test_any_covariances(rank):
  """Also of rank 5 in 20 dimensions, whose product has no unique root."""
  rng = np.random.RandomState(1)
  a, b = covariance(rng, 20, rank), covariance(rng, 20, rank)
  mean_a, mean_b = rng.randn(20), rng.randn(20)
  # The eigenvalues of the product itself, which is not symmetric.
  values = np.linalg.eigvals(a @ b)
  values = np.sqrt(np.maximum(values.real, 0)).sum()
  if rank is None:
    root = np.trace(scipy.linalg.sqrtm(a @ b).real)
    np.testing.assert_allclose(values, root, rtol=1e-9)
  expected = np.square(mean_a - mean_b).sum() + np.trace(a + b) - 2 * values
  found = frechet.frechet_distance(mean_a, a, mean_b, b)
  # eigvals rounds zeros to 1e-13, whose roots are 3e-7.
  np.testing.assert_allclose(
    found, expected, rtol=1e-9 if rank is None else 1e-6
  )
  again = frechet.frechet_distance(mean_b, b, mean_a, a)
  np.testing.assert_allclose(found, again, rtol=1e-12)


@pytest.mark.parametrize("rank", [None, 3])
def test_equal_distributions(rank):
  mean, cov = RNG.randn(30), 1e3 * covariance(RNG, 30, rank)
  found = frechet.frechet_distance(mean, cov, mean, cov)
  assert 0 <= found < 1e-9 * np.trace(cov)


def test_moments_of_parts():
  """Parts of any size, padded with NaN, far from zero."""
  x = 1e4 + np.random.RandomState(2).randn(23, 5).astype(np.float32)
  total = frechet.Moments.of(x[:0])
  for begin, end in ((0, 1), (1, 9), (9, 9), (9, 23)):
    part = np.concatenate([x[begin:end], np.full((3, 5), np.nan)])
    total += frechet.Moments.of(part, np.arange(len(part)) < end - begin)
  assert total.num == 23
  x = x.astype(np.float64)
  np.testing.assert_allclose(total.mean, x.mean(axis=0), rtol=1e-15)
  expected = np.cov(x, rowvar=False)
  np.testing.assert_allclose(total.covariance, expected, rtol=1e-9)
  whole = frechet.Moments.of(x)
  assert frechet.distance(total, whole) < 1e-6
  shifted = frechet.Moments.of(x + 3)
  np.testing.assert_allclose(frechet.distance(total, shifted), 45, rtol=1e-6)


def test_one_example_has_no_covariance():
  with pytest.raises(lookup.ConfigError, match="at least 2 examples, not 1"):
    frechet.Moments.of(np.ones((1, 3))).covariance  # noqa: B018
