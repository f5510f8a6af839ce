"""Compares predicted boxes with true ones, as COCO's evaluation does.

A box is (ymin, xmin, ymax, xmax). Letters: P predicted and G true boxes, T
thresholds of the intersection over union (IoU).

Reference: Lin et al. 2014, https://arxiv.org/abs/1405.0312; cocodataset.org.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

_RECALLS = np.arange(101) / 100


def iou(predicted: ArrayLike, true: ArrayLike) -> np.ndarray:
  """Computes the IoU of each pair of boxes.

  Args:
    predicted: [P, 4].
    true: [G, 4].

  Returns:
    float64 [P, G]; 0 for boxes without an area.
  """
  a = np.asarray(predicted, np.float64).reshape(-1, 1, 4)
  b = np.asarray(true, np.float64).reshape(1, -1, 4)
  area = lambda start, end: np.prod(np.maximum(end - start, 0), axis=-1)
  both = area(
    np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
  )
  union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - both
  return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def reaches(iou: ArrayLike, threshold: ArrayLike) -> Any:
  """Tells whether an IoU is large enough.

  Args:
    iou: of boxes in single precision; what is equal on paper reaches it.
    threshold: the least IoU, of a shape that fits.

  Returns:
    bool, of the shape of both.
  """
  return np.asarray(iou) >= np.asarray(threshold) - 1e-6


def hits(ious: np.ndarray, thresholds: ArrayLike) -> np.ndarray:
  """Assigns predictions, one after the other, to the nearest true box left.

  Args:
    ious: [P, G] of an image, the most certain predictions first.
    thresholds: [T], the least IoU.

  Returns:
    bool [P, T], whether there was such a box.
  """
  thresholds = np.asarray(thresholds)[:, None]
  is_free = np.ones((len(thresholds), ious.shape[1]), bool)
  found = np.zeros((len(ious), len(thresholds)), bool)
  for i, row in enumerate(ious):
    fitting = np.where(is_free & reaches(row, thresholds), row, -1.0)
    found[i] = fitting.max(axis=1, initial=-1) >= 0
    at = np.flatnonzero(found[i])
    if len(at):
      is_free[at, fitting[at].argmax(axis=1)] = False
  return found


def average_precision(hits: np.ndarray, num: int) -> np.ndarray:
  """Averages the precision over recalls of 0, 0.01, …, 1.

  Args:
    hits: [P, T] of all images, the most certain predictions first.
    num: number of true boxes, not 0.

  Returns:
    [T]. The precision at a recall is the best one at this or a higher recall.
  """
  true = np.cumsum(hits, axis=0)
  precision = true / np.arange(1, len(hits) + 1)[:, None]
  best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
  best = np.concatenate([best, np.zeros((1, hits.shape[1]))])
  return np.array(
    [
      column[np.searchsorted(recall, _RECALLS)].mean()
      for column, recall in zip(best.T, true.T / num, strict=True)
    ]
  )
