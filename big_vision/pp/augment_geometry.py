"""Augmentation kernels that move pixels, or cover them.

All map uint8 images [H, W, C] of any size to such images. Pixels from outside
the image get the fill color, `replace`. Results equal those of
`tf.raw_ops.ImageProjectiveTransformV3` (nearest pixel), which computes the
origin of each value separately. Here the origins of all pixels are computed
once if the size is known when the graph is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from big_vision.pp import rng
from big_vision.tf import tf


def wrap(image: tf.Tensor) -> tf.Tensor:
  """Appends a channel of ones, which tells pixels from filled ones.

  Args:
    image: uint8 [H, W, C].

  Returns:
    uint8 [H, W, C + 1].
  """
  image = tf.convert_to_tensor(image)
  return tf.concat([image, tf.ones_like(image[..., :1])], -1)


def unwrap(image: tf.Tensor, replace: Sequence[int]) -> tf.Tensor:
  """Removes the last channel; where it is 0, pixels get the fill color.

  Args:
    image: uint8 [H, W, C + 1].
    replace: C ints.

  Returns:
    uint8 [H, W, C].
  """
  image = tf.convert_to_tensor(image)
  color = tf.cast(replace, image.dtype)
  return tf.where(image[..., -1:] == 0, color, image[..., :-1])


def _fill(shape, replace, like):
  """Makes an area of the fill color, [*shape, C]."""
  color = tf.cast(replace, like.dtype)
  return tf.broadcast_to(color, tf.concat([shape, tf.shape(like)[-1:]], 0))


def _round(x):
  """Rounds halves away from zero, as the C function does."""
  size = tf.abs(x)
  whole = tf.floor(size)
  return tf.sign(x) * (whole + tf.floor(2 * (size - whole)))


def _origins(height, width, transform):
  """Computes the origins of the pixels of the result.

  Args:
    height: int, of the image and the result.
    width: int.
    transform: 6 floats a: result (x, y) comes from (a0 x + a1 y - a2,
      a3 x + a4 y - a5).

  Returns:
    int32 [height, width], number of the pixel, row by row; height * width if it
    is not in the image.
  """
  a = [tf.cast(t, tf.float32) for t in transform]
  x = tf.range(width, dtype=tf.float32)[None]
  y = tf.range(height, dtype=tf.float32)[:, None]
  # As differences: graphs may reorder sums, which changes the rounding.
  from_x = tf.cast(_round((a[0] * x + a[1] * y) - a[2]), tf.int32)
  from_y = tf.cast(_round((a[3] * x + a[4] * y) - a[5]), tf.int32)
  inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
  outside = height * width
  # Not tf.where, which is slow.
  return outside + tf.cast(inside, tf.int32) * (
    from_y * width + from_x - outside
  )


def _move(image, argument, transform_fn, replace):
  """Applies an affine transform.

  Args:
    image: uint8 [H, W, C].
    argument: float or scalar tensor, of the transform.
    transform_fn: (argument, H, W) -> 6 floats, as in `_origins`.
    replace: C ints.

  Returns:
    uint8 [H, W, C].
  """
  image = tf.convert_to_tensor(image)
  if image.shape[:2].is_fully_defined() and not tf.is_tensor(argument):
    height, width = image.shape[:2]
    with tf.init_scope():  # Computes now, not whenever the graph runs.
      transform = transform_fn(tf.constant(argument, tf.float32), height, width)
      origins = _origins(height, width, transform).numpy()
  else:
    height, width = tf.unstack(tf.shape(image)[:2])
    argument = tf.cast(argument, tf.float32)
    origins = _origins(height, width, transform_fn(argument, height, width))
  pixels = tf.reshape(image, [height * width, tf.shape(image)[2]])
  pixels = tf.concat([pixels, _fill([1], replace, image)], 0)
  # With these arguments, `gather_nd` is faster than `gather`.
  moved = tf.gather_nd(pixels, origins[..., None])
  return tf.ensure_shape(moved, image.shape)


def rotate(
  image: tf.Tensor, degrees: tf.Tensor | float, replace: Sequence[int]
) -> tf.Tensor:
  """Rotates around the center.

  Args:
    image: uint8 [H, W, C].
    degrees: float, positive for counter-clockwise.
    replace: C ints, fill color.

  Returns:
    uint8 [H, W, C].
  """

  def transform(degrees, height, width):
    angle = degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    x, y = tf.cast(width - 1, tf.float32), tf.cast(height - 1, tf.float32)
    shift_x = ((cos * x - sin * y) - x) / 2
    shift_y = ((sin * x + cos * y) - y) / 2
    return cos, -sin, shift_x, sin, cos, shift_y

  return _move(image, degrees, transform, replace)


def shear_x(
  image: tf.Tensor, level: tf.Tensor | float, replace: Sequence[int]
) -> tf.Tensor:
  """Moves rows sideways: result (x, y) comes from (x + level * y, y).

  Args:
    image: uint8 [H, W, C].
    level: float.
    replace: C ints, fill color.

  Returns:
    uint8 [H, W, C].
  """
  return _move(image, level, lambda l, h, w: (1, l, 0, 0, 1, 0), replace)


def shear_y(
  image: tf.Tensor, level: tf.Tensor | float, replace: Sequence[int]
) -> tf.Tensor:
  """Moves columns up or down: result (x, y) comes from (x, y + level * x).

  Args:
    image: uint8 [H, W, C].
    level: float.
    replace: C ints, fill color.

  Returns:
    uint8 [H, W, C].
  """
  return _move(image, level, lambda l, h, w: (1, 0, 0, l, 1, 0), replace)


def _is_whole(x):
  return not tf.is_tensor(x) and float(x).is_integer()


def _shift(image, pixels, axis, replace):
  """Moves by whole pixels along an axis, by copying a part."""
  size = tf.shape(image)[axis]
  gap = tf.minimum(abs(int(pixels)), size)
  shape = tf.tensor_scatter_nd_update(tf.shape(image)[:2], [[axis]], [gap])
  gap_filled = _fill(shape, replace, image)
  if pixels < 0:
    kept, _ = tf.split(image, [size - gap, gap], axis)
    parts = [gap_filled, kept]
  else:
    _, kept = tf.split(image, [gap, size - gap], axis)
    parts = [kept, gap_filled]
  return tf.ensure_shape(tf.concat(parts, axis), image.shape)


def translate_x(
  image: tf.Tensor, pixels: tf.Tensor | float, replace: Sequence[int]
) -> tf.Tensor:
  """Moves the image sideways: result (x, y) comes from (x + pixels, y).

  Args:
    image: uint8 [H, W, C].
    pixels: float, positive for moving to the left.
    replace: C ints, fill color.

  Returns:
    uint8 [H, W, C].
  """
  image = tf.convert_to_tensor(image)
  if _is_whole(pixels):
    return _shift(image, pixels, 1, replace)
  return _move(image, pixels, lambda p, h, w: (1, 0, -p, 0, 1, 0), replace)


def translate_y(
  image: tf.Tensor, pixels: tf.Tensor | float, replace: Sequence[int]
) -> tf.Tensor:
  """Moves the image up or down: result (x, y) comes from (x, y + pixels).

  Args:
    image: uint8 [H, W, C].
    pixels: float, positive for moving up.
    replace: C ints, fill color.

  Returns:
    uint8 [H, W, C].
  """
  image = tf.convert_to_tensor(image)
  if _is_whole(pixels):
    return _shift(image, pixels, 0, replace)
  return _move(image, pixels, lambda p, h, w: (1, 0, 0, 0, 1, -p), replace)


def cutout(
  image: tf.Tensor,
  pad_size: int,
  replace: int | Sequence[int] = 0,
  *,
  center: tf.Tensor | None = None,
) -> tf.Tensor:
  """Covers a square at a random place; parts of it may be outside.

  Args:
    image: uint8 [H, W, C].
    pad_size: int, half of the square's side, pixels.
    replace: int or C ints, color of the square.
    center: float32 [2], its place in units of the height and the width, in
      [0, 1). By default it is drawn; then this must not run in a
      conditional.

  Returns:
    uint8 [H, W, C].
  """
  image = tf.convert_to_tensor(image)
  if center is None:
    center = tf.random.stateless_uniform([2], rng.next_seed())
  size = tf.shape(image)[:2]
  middle = tf.cast(center * tf.cast(size, tf.float32), tf.int32)
  start = tf.maximum(middle - pad_size, 0)
  end = tf.minimum(middle + pad_size, size)
  square = _fill(end - start, replace, image)
  top, left = tf.unstack(start)
  height, width = tf.unstack(end - start)
  above, rows, below = tf.split(
    image, [top, height, size[0] - top - height], axis=0
  )
  before, _, after = tf.split(
    rows, [left, width, size[1] - left - width], axis=1
  )
  rows = tf.concat([before, square, after], 1)
  covered = tf.concat([above, rows, below], 0)
  return tf.ensure_shape(covered, image.shape)
