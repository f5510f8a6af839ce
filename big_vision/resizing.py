"""Resizes images with NumPy as `tf.image.resize` does.

Sums are made in the order and the precision of TensorFlow, since integers are
rounded down at the end: what is 255 there must not become 254.99 here.

Shapes: H, W, C of the image; h, w of the result; K pixels that one pixel of the
result is made of, along one axis.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from big_vision import lookup

_f = np.float32


def _triangle(x):
  return np.maximum(_f(1) - x, _f(0))


def _lanczos(radius):
  def kernel(x):
    inside = np.where(x > 1e-3, x, _f(1)) * _f(math.pi)
    value = _f(radius) * np.sin(inside) * np.sin(inside / _f(radius))
    value = np.where(x > 1e-3, value / (inside * inside), _f(1))
    return np.where(x > radius, _f(0), value)

  return kernel


def _gaussian(x):
  sigma = _f(0.5)
  return np.where(x >= 1.5, _f(0), np.exp(-x * x / (_f(2) * sigma * sigma)))


def _keys_cubic(x):
  inner = ((1.5 * x - 2.5) * x) * x + 1
  outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return np.where(x >= 2, _f(0), np.where(x >= 1, outer, inner))


def _mitchell_cubic(x):
  inner = ((_f(7 / 6) * x - _f(2)) * x) * x + _f(16 / 18)
  outer = ((_f(-7 / 18) * x + _f(2)) * x - _f(60 / 18)) * x + _f(32 / 18)
  return np.where(x >= 2, _f(0), np.where(x >= 1, outer, inner))


# Method -> (radius in pixels, weight of a pixel by its distance).
_KERNELS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
  "bilinear": (1.0, _triangle),
  "lanczos3": (3.0, _lanczos(3)),
  "lanczos5": (5.0, _lanczos(5)),
  "gaussian": (1.5, _gaussian),
  "bicubic": (2.0, _keys_cubic),
  "mitchellcubic": (2.0, _mitchell_cubic),
}
METHODS = ("nearest", "area", *_KERNELS)


def resize(
  image: np.ndarray,
  size: Sequence[int],
  method: str = "bilinear",
  antialias: bool = False,
  *,
  keep_dtype: bool = True,
  pil: bool = False,
) -> np.ndarray:
  """Resizes an image.

  Args:
    image: [H, W, C].
    size: (h, w), pixels.
    method: one of `METHODS`.
    antialias: whether to smooth when making images smaller.
    keep_dtype: whether the result has the dtype of the image, as after the op
      `resize`; integers are rounded down. If not, it is float32.
    pil: whether to do as Pillow: first the width, then the height, each smoothed
      and, if they are integers, rounded to the nearest ones.

  Returns:
    [h, w, C].

  Raises:
    ValueError: there is no such method.
  """
  if method not in METHODS:
    raise lookup.unknown("resize method", method, METHODS)
  height, width = (int(side) for side in size)
  if pil and method != "nearest":
    for step in ((image.shape[0], width), (height, width)):
      resized = resize(image, step, method, antialias=True, keep_dtype=False)
      if np.issubdtype(image.dtype, np.integer):
        info = np.iinfo(image.dtype)
        resized = np.clip(np.rint(resized), info.min, info.max)
      image = resized.astype(image.dtype)
    return image
  dtype = image.dtype
  if (height, width) == image.shape[:2]:
    resized = image
  elif method == "nearest":
    rows = _nearest(image.shape[0], height)
    resized = image[rows][:, _nearest(image.shape[1], width)]
  elif method == "area":
    resized = _area(image, height, width)
  elif method == "bilinear" and not antialias:
    resized = _bilinear(image, height, width)
  elif method == "bicubic" and not antialias:
    resized = _combine(image, _cubic_taps(image.shape[0], height), 0)
    resized = _combine(resized, _cubic_taps(image.shape[1], width), 1)
  else:
    taps = [
      _kernel_taps(method, antialias, old, new)
      for old, new in zip(image.shape[:2], (height, width), strict=True)
    ]
    resized = _combine(_combine(image, taps[0], 0), taps[1], 1)
  if not keep_dtype:
    return resized.astype(np.float32)
  if np.issubdtype(dtype, np.integer) and resized.dtype != dtype:
    info = np.iinfo(dtype)
    resized = np.clip(resized, info.min, info.max)
  return resized.astype(dtype)


def _scale(old, new):
  return _f(old) / _f(new)


def _nearest(old, new):
  at = (np.arange(new, dtype=np.float32) + _f(0.5)) * _scale(old, new)
  return np.minimum(np.floor(at).astype(int), old - 1)


def _bilinear(image, height, width):
  """Interpolates between the four nearest pixels, first along rows."""
  (top, bottom, down), (left, right, across) = (
    _neighbors(old, new)
    for old, new in zip(image.shape[:2], (height, width), strict=True)
  )
  # Of rows that nothing is made of, nothing is computed.
  rows, where = np.unique(np.stack([top, bottom]), return_inverse=True)
  image = image[rows].astype(np.float32)
  top, bottom = where.reshape(2, -1)
  across, down = across[None, :, None], down[:, None, None]
  at_left = image[:, left]
  mixed = at_left + (image[:, right] - at_left) * across
  return mixed[top] + (mixed[bottom] - mixed[top]) * down


def _neighbors(old, new):
  """Finds (index before, index behind, fraction of the way) of new pixels."""
  at = (np.arange(new, dtype=np.float32) + _f(0.5)) * _scale(old, new) - _f(0.5)
  floor = np.floor(at)
  before = np.maximum(floor.astype(int), 0)
  behind = np.minimum(np.ceil(at).astype(int), old - 1)
  return before, np.maximum(behind, 0), at - floor


def _combine(image, taps, axis):
  """Sums weighted pixels along an axis.

  Args:
    image: [H, W, C].
    taps: (indices, weights), each [K, h].
    axis: 0 or 1.

  Returns:
    float32 [h, W, C] or [H, w, C].
  """
  shape = [1, 1, 1]
  shape[axis] = -1
  total = None
  for index, weight in zip(*taps, strict=True):
    part = image.take(index, axis=axis) * weight.reshape(shape)
    total = part if total is None else np.add(total, part, out=total)
  assert total is not None  # There is at least one tap.
  return total


def _area(image, height, width):
  """Averages what a new pixel covers; parts of pixels count in part."""
  across = _covered(image.shape[1], width)
  down = _covered(image.shape[0], height)
  total = _combine(_combine(image, across, 1), down, 0)
  scale = _scale(image.shape[0], height) * _scale(image.shape[1], width)
  return total * (_f(1) / scale)


def _covered(old, new):
  """Finds the pixels that new ones cover, and how much of them."""
  scale = _scale(old, new)
  number = np.arange(new, dtype=np.float32)
  begin, end = number * scale, (number + _f(1)) * scale
  first = np.floor(begin).astype(int)
  most = int((np.ceil(end).astype(int) - first).max())
  index = first + np.arange(most)[:, None]
  i = index.astype(np.float32)
  weight = np.minimum(i + _f(1), end) - np.maximum(i, begin)
  weight = np.where((i < begin) & (i + 1 > end), scale, weight)
  return np.clip(index, 0, old - 1), np.maximum(weight, _f(0)).astype(_f)


def _kernel_taps(method, antialias, old, new):
  """Finds the pixels within the radius of a kernel, and their weights."""
  radius, kernel = _KERNELS[method]
  inverse = _f(1) / (_f(new) / _f(old))
  stretch = max(inverse, _f(1)) if antialias else _f(1)
  center = (np.arange(new, dtype=np.float32) + _f(0.5)) * inverse
  reach = _f(radius) * stretch
  first = np.ceil(center - reach - _f(0.5)).astype(int).clip(0, old - 1)
  last = np.floor(center + reach - _f(0.5)).astype(int).clip(0, old - 1)
  index = first + np.arange(int((last - first).max()) + 1)[:, None]
  distance = (index.astype(np.float32) + _f(0.5) - center) * (_f(1) / stretch)
  weight = np.where(index <= last, kernel(np.abs(distance)), _f(0)).astype(_f)
  weight = weight * (_f(1) / weight.sum(axis=0, dtype=np.float32))
  return np.minimum(index, old - 1), weight


def _cubic_taps(old, new):
  """Finds four pixels and their weights, of which there are 1024 kinds."""
  at = (np.arange(new, dtype=np.float32) + _f(0.5)) * _scale(old, new) - _f(0.5)
  floor = np.floor(at)
  offset = np.rint((at - floor) * _f(1024)).astype(float) / 1024
  index = floor.astype(int) + np.arange(-1, 3)[:, None]
  distance = np.stack([1 + offset, offset, 1 - offset, 2 - offset])
  inside = (index >= 0) & (index < old)
  weight = np.where(inside, _keys_cubic(distance), 0).astype(_f)
  one = inside.all(axis=0)  # Else, at the border, they have to be made so.
  weight *= np.where(one, _f(1), _f(1) / weight.sum(axis=0, dtype=np.float32))
  return np.clip(index, 0, old - 1), weight
