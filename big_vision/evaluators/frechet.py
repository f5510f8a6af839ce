"""Computes the Fréchet distance of two normal distributions fitted to features.

With features of an Inception network it is the Fréchet inception distance, FID:
https://arxiv.org/abs/1706.08500. All is in float64, on the host.

Shapes: N examples, D features.
"""

import dataclasses

import numpy as np

from big_vision import lookup


@dataclasses.dataclass(frozen=True)
class Moments:
  """Mean and covariance of examples that come in parts.

  Attributes:
    num: number of examples.
    mean: [D] their mean, zeros without examples.
    scatter: [D, D] sum over examples of the outer product of the difference from
      the mean with itself.
  """

  num: int
  mean: np.ndarray
  scatter: np.ndarray

  @classmethod
  def of(cls, x: np.ndarray, mask: np.ndarray | None = None) -> "Moments":
    """Computes the moments of some examples.

    Args:
      x: [N, D] features.
      mask: [N], false on rows that do not count, whatever they hold.

    Returns:
      The moments.
    """
    x = np.asarray(x, np.float64)
    if mask is not None:
      x = x[np.asarray(mask).astype(bool)]
    mean = x.sum(axis=0) / max(len(x), 1)
    centered = x - mean[None]
    return cls(len(x), mean, centered.T @ centered)

  def __add__(self, other: "Moments") -> "Moments":
    """Joins two sets of examples, also those of two hosts.

    The formula of Chan, Golub and LeVeque (1979) does not subtract large numbers
    from each other, as sums of squares do.
    """
    num = self.num + other.num
    if not num:
      return self
    apart = other.mean - self.mean
    share = other.num / num
    return Moments(
      num,
      self.mean + apart * share,
      self.scatter
      + other.scatter
      + np.outer(apart, apart) * (self.num * share),
    )

  @property
  def covariance(self) -> np.ndarray:
    """[D, D], unbiased, as `np.cov`; raises ConfigError for a single example."""
    if self.num < 2:
      raise lookup.ConfigError(
        f"The covariance of features needs at least 2 examples, not {self.num}."
      )
    return self.scatter / (self.num - 1)


def distance(a: Moments, b: Moments) -> float:
  """Computes the distance of the normal distributions with these moments.

  Args:
    a: of one set of examples.
    b: of the other.

  Returns:
    See `frechet_distance`.
  """
  return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def frechet_distance(
  mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray
) -> float:
  """Computes the squared Fréchet distance of two normal distributions.

  It is |mean_a - mean_b|² + tr(A + B - 2 (A B)^½) for covariances A and B
  (Dowson and Landau, 1982). A B is not symmetric; with A = F Fᵀ and B = G Gᵀ its
  eigenvalues are the squares of the singular values of Fᵀ G. So the trace of the
  root is their sum, which is real also for singular covariances, those of fewer
  examples than features.

  Args:
    mean_a: [D].
    cov_a: [D, D], symmetric and positive semidefinite.
    mean_b: [D].
    cov_b: [D, D].

  Returns:
    The distance, at least 0.
  """
  mean_a, cov_a, mean_b, cov_b = (
    np.asarray(x, np.float64) for x in (mean_a, cov_a, mean_b, cov_b)
  )
  roots = np.linalg.svd(_factor(cov_a).T @ _factor(cov_b), compute_uv=False)
  apart = np.square(mean_a - mean_b).sum()
  spread = np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum()
  return max(float(apart + spread), 0.0)


def _factor(cov):
  """Returns F [D, D] with F Fᵀ = cov."""
  values, vectors = np.linalg.eigh((cov + cov.T) / 2)
  # Rounding makes zeros tiny numbers of either sign, whose roots are not tiny.
  noise = values.max(initial=0) * len(values) * np.finfo(np.float64).eps
  return vectors * np.sqrt(np.where(values > noise, values, 0))[None]
