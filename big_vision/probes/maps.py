"""Measures predicted maps: of classes by mIoU, of depth by RMSE.

Shapes: B pictures, H, W pixels, C classes.
"""

from collections.abc import Iterator

import numpy as np


class Confusion:
  """Counts pairs of true and predicted classes of pixels."""

  def __init__(self, num_classes: int, ignore: int | None = None) -> None:
    """Starts with zeros.

    Args:
      num_classes: C.
      ignore: a class whose true pixels do not count; None for none.
    """
    self.ignore = ignore
    self.counts = np.zeros((num_classes, num_classes), np.int64)

  def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
    """Counts pixels.

    Args:
      truth: ints of any shape; those outside of [0, C) do not count.
      predicted: ints in [0, C) of the same shape.
    """
    num = len(self.counts)
    truth, predicted = truth.ravel(), predicted.ravel()
    valid = (truth >= 0) & (truth < num)
    if self.ignore is not None:
      valid &= truth != self.ignore
    pairs = truth[valid].astype(np.int64) * num + predicted[valid]
    self.counts += np.bincount(pairs, minlength=num**2).reshape(num, num)

  def metrics(self) -> Iterator[tuple[str, float]]:
    """Computes metrics of all pixels so far.

    Yields:
      `mIoU`, the mean over classes of intersection over union, without the
      ignored class and without those that are neither true nor predicted
      anywhere; `pixel_acc`, the fraction of pixels that are right.
    """
    right = np.diag(self.counts)
    union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - right
    used = union > 0
    if self.ignore is not None and 0 <= self.ignore < len(used):
      used[self.ignore] = False
    iou = right[used] / union[used]
    yield "mIoU", float(iou.mean()) if len(iou) else float("nan")
    total = self.counts.sum()
    yield "pixel_acc", float(right.sum() / total) if total else float("nan")


class DepthErrors:
  """Adds up errors of depth."""

  def __init__(self) -> None:
    """Starts with zeros."""
    self._per_image: list[float] = []
    self._square = self._relative = 0.0
    self._close = self._num = 0

  def add(
    self, truth: np.ndarray, predicted: np.ndarray, valid: np.ndarray
  ) -> None:
    """Adds pictures.

    Args:
      truth: [B, H, W] positive distances where they are valid.
      predicted: [B, H, W] positive distances.
      valid: [B, H, W] bool; a picture without any does not count.
    """
    for t, p, v in zip(truth, predicted, valid, strict=True):
      if not v.any():
        continue
      t, p = t[v].astype(np.float64), p[v].astype(np.float64)
      square = np.square(p - t)
      self._per_image.append(float(np.sqrt(square.mean())))
      self._square += square.sum()
      self._relative += (np.abs(p - t) / t).sum()
      self._close += int((np.maximum(p / t, t / p) < 1.25).sum())
      self._num += len(t)

  def metrics(self) -> Iterator[tuple[str, float]]:
    """Computes metrics of all pictures so far.

    Yields:
      `rmse`, the mean over pictures of their root mean squared error, as in the
      tables of papers; `rmse_pixels`, that of all pixels; `abs_rel`, the mean of
      |error| / distance; `delta1`, the fraction of pixels whose distance is less
      than 25% off.
    """
    num = self._num or float("nan")
    each = self._per_image
    yield "rmse", float(np.mean(each)) if each else float("nan")
    yield "rmse_pixels", float(np.sqrt(self._square / num))
    yield "abs_rel", float(self._relative / num)
    yield "delta1", float(self._close / num)
