"""Computes the recall of retrieval between images and texts.

Shapes: I images, T texts.
"""

from collections.abc import Sequence

import numpy as np

RECALL_THRESHOLDS = (1, 5, 10)


def text_to_image_retrieval_eval(
  dist_matrix: np.ndarray,
  text_image_correspondence: Sequence[int] | np.ndarray,
) -> dict[str, float]:
  """Measures how often the image of a text is among the nearest to it.

  Args:
    dist_matrix: [I, T] array, smaller is closer. NaN is further than anything.
    text_image_correspondence: [T] ints, the row of the image of each text.

  Returns:
    Dict of `Recall@<k>`, for each of `RECALL_THRESHOLDS` the fraction of texts
    whose image is among the k nearest. Of equally distant ones, the first are
    nearer.

  Raises:
    ValueError: the arguments do not fit together.
  """
  dist, image_of_text = _checked(dist_matrix, text_image_correspondence)
  return _recalls(_rank(dist.T, image_of_text))


def image_to_text_retrieval_eval(
  dist_matrix: np.ndarray,
  text_image_correspondence: Sequence[int] | np.ndarray,
) -> dict[str, float]:
  """Measures how often any text of an image is among the nearest to it.

  Args:
    dist_matrix: [I, T] array, smaller is closer. NaN is further than anything.
    text_image_correspondence: [T] ints, the row of the image of each text.

  Returns:
    Dict of `Recall@<k>`, for each of `RECALL_THRESHOLDS` the fraction of images
    with at least one of their texts among the k nearest; images without text
    have none. Of equally distant ones, the first are nearer.

  Raises:
    ValueError: the arguments do not fit together.
  """
  dist, image_of_text = _checked(dist_matrix, text_image_correspondence)
  own = np.arange(len(dist))[:, None] == image_of_text[None, :]  # [I, T]
  nearest = np.where(own, dist, np.inf).argmin(axis=1)  # The first if equal.
  rank = _rank(dist, nearest)
  return _recalls(np.where(own.any(axis=1), rank, np.inf))


def _checked(
  dist_matrix: np.ndarray, correspondence: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns both as arrays, with the largest number in place of NaN."""
  dist, image_of_text = np.asarray(dist_matrix), np.asarray(correspondence)
  if dist.ndim != 2 or image_of_text.shape != dist.shape[1:]:
    raise ValueError(
      "dist_matrix should be [images, texts] and text_image_correspondence "
      f"[texts], got {dist.shape} and {image_of_text.shape}."
    )
  if 0 in dist.shape:
    raise ValueError(f"There is nothing to retrieve: {dist.shape}.")
  if not (0 <= image_of_text.min() and image_of_text.max() < len(dist)):
    raise ValueError(
      "text_image_correspondence holds rows of dist_matrix, which are 0 to "
      f"{len(dist) - 1}, got {image_of_text.min()} to {image_of_text.max()}."
    )
  if dist.dtype.kind != "f":
    dist = dist.astype(np.float64)
  largest = np.finfo(dist.dtype).max
  if not np.isfinite(dist).all():  # A diverged model must not win.
    dist = np.nan_to_num(dist, nan=largest)
  return dist, image_of_text


def _rank(dist: np.ndarray, target: np.ndarray) -> np.ndarray:
  """Counts the columns that come before column `target[i]`, for each row i.

  That is its position in a stable sort of the row, without sorting.
  """
  own = np.take_along_axis(dist, target[:, None], axis=1)  # [rows, 1]
  before = np.arange(dist.shape[1])[None, :] < target[:, None]
  return ((dist < own) | ((dist == own) & before)).sum(axis=1)


def _recalls(rank: np.ndarray) -> dict[str, float]:
  """Computes the recalls from the ranks (from 0) of what should be found."""
  return {f"Recall@{k}": float((rank < k).mean()) for k in RECALL_THRESHOLDS}
