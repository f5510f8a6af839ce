"""Fits linear classifiers in closed form: least squares with ridge penalties.

The targets are +1 for the class of an example and -1 for the others; the bias
is not penalized. For one penalty the result is that of scikit-learn's
RidgeClassifier; a sweep over penalties costs one decomposition in all.

Shapes: N training examples, D features, C classes, R rank.
"""

import dataclasses

import numpy as np

from big_vision.types import AnyArray

_CHUNK = 8192  # Examples that are converted to float64 at a time.


@dataclasses.dataclass(frozen=True)
class Decomposition:
  """Holds what does not depend on the penalty, float64.

  Attributes:
    mean: [D] of the features.
    bias: [C] mean of the targets.
    singular: [R] singular values of the centered features.
    vt: [R, D] right singular vectors.
    rhs: [R, C] products of `vt`, centered features and targets.
  """

  mean: np.ndarray
  bias: np.ndarray
  singular: np.ndarray
  vt: np.ndarray
  rhs: np.ndarray

  def solve(self, l2_reg: float) -> tuple[np.ndarray, np.ndarray]:
    """Computes the classifier for one penalty.

    Args:
      l2_reg: factor of the squared norm of the weights (scikit-learn's alpha);
        0 is least squares, with the smallest weights if there are several.

    Returns:
      (weights [D, C], biases [C]).
    """
    square = np.square(self.singular)
    # As numpy.linalg.lstsq: smaller ones are rounding errors.
    size = max(len(self.mean), len(self.singular))
    limit = self.singular.max(initial=0) * np.finfo(np.float64).eps * size
    used = self.singular > limit
    scale = np.where(used, 1 / np.where(used, square + l2_reg, 1), 0)
    weights = self.vt.T @ (scale[:, None] * self.rhs)
    return weights, self.bias - self.mean @ weights


def decompose(x: AnyArray, y: AnyArray, num_classes: int) -> Decomposition:
  """Decomposes features, once for all penalties.

  Singular values are those of the triangular factor of the features, which is
  updated chunk by chunk: unlike those of the Gram matrix they keep all digits,
  and memory does not grow with N.

  Args:
    x: [N, D] features.
    y: [N] int labels.
    num_classes: C.

  Returns:
    The Decomposition.
  """
  y = np.asarray(y)
  mean = np.mean(x, axis=0, dtype=np.float64)
  share = np.bincount(y, minlength=num_classes) / len(y)
  bias = 2 * share - 1
  triangle = np.zeros((0, len(mean)))
  product = np.zeros((len(mean), num_classes))
  for start in range(0, len(y), _CHUNK):
    rows = slice(start, start + _CHUNK)
    part = np.asarray(x[rows], np.float64) - mean
    triangle = np.linalg.qr(np.concatenate([triangle, part]), mode="r")
    targets = 2.0 * (y[rows, None] == np.arange(num_classes)) - 1 - bias
    product += part.T @ targets
  _, singular, vt = np.linalg.svd(triangle, full_matrices=False)
  return Decomposition(mean, bias, singular, vt, vt @ product)
