"""Augmentation kernels that compute with the values of pixels.

All map uint8 images [H, W, C] of any size to such images; C is 3 where colors
are mixed. Results of computations in float32 are truncated, not rounded.

These run on every training image. TensorFlow's arithmetic on long rows is fast;
`tf.where`, broadcasting along 3 channels, and stacking channels are slow.
"""

from __future__ import annotations

import numpy as np

from big_vision.tf import tf


def _row(image):
  """Reshapes [H, W, C] to [H, W * C], where elementwise ops are fastest."""
  shape = tf.shape(image)
  return tf.reshape(image, [shape[0], shape[1] * shape[2]])


def _channels(values, image):
  """Tiles one value per channel, [C], to a row [W * C] that fits `_row`."""
  return tf.tile(values, tf.shape(image)[1:2])


def _like(row, image):
  """Reverses `_row`, with the static shape of the image."""
  return tf.ensure_shape(tf.reshape(row, tf.shape(image)), image.shape)


def _to_uint8(x):
  return tf.cast(tf.clip_by_value(x, 0.0, 255.0), tf.uint8)


def _mix(a, b, factor):
  """Blends float32 values as `blend` does, to uint8."""
  mixed = a + factor * (b - a)
  if not tf.is_tensor(factor) and 0 <= factor <= 1:
    return tf.cast(mixed, tf.uint8)  # Cannot leave the range.
  return _to_uint8(mixed)


def blend(
  image1: tf.Tensor, image2: tf.Tensor, factor: tf.Tensor | float
) -> tf.Tensor:
  """Computes `image1 + factor * (image2 - image1)`.

  Args:
    image1: uint8 [H, W, C], the result for factor 0.
    image2: uint8 of the same shape, the result for factor 1.
    factor: float, may be negative or above 1.

  Returns:
    uint8 [H, W, C], clipped to [0, 255].
  """
  image1, image2 = tf.convert_to_tensor(image1), tf.convert_to_tensor(image2)
  a, b = tf.cast(image1, tf.float32), tf.cast(image2, tf.float32)
  return _mix(a, b, factor)


def brightness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
  """Blends black (factor 0) with the image (factor 1).

  Args:
    image: uint8 [H, W, C].
    factor: float, may be above 1.

  Returns:
    uint8 [H, W, C].
  """
  return _to_uint8(tf.cast(image, tf.float32) * factor)


def _gray(image):
  """Computes the gray image, float32 [H, W], of uint8 [H, W, 3]."""
  # Order and rounding are those of `tf.image.rgb_to_grayscale`, without its
  # matrix product.
  planes = tf.unstack(tf.convert_to_tensor(image), 3, axis=-1)
  red, green, blue = (tf.cast(p, tf.float32) * (1 / 255) for p in planes)
  gray = red * 0.2989 + green * 0.5870 + blue * 0.1140
  return tf.floor(gray * 255.5)


def _three_times(gray):
  """Repeats each value three times, float32 [H, W] -> [..., 3]."""
  size = gray.shape.num_elements()
  if size is None or size % 4:
    return tf.broadcast_to(gray[..., None], [*tf.unstack(tf.shape(gray)), 3])
  # The same in half the time: a product with a matrix of 4 blocks of ones.
  blocks = np.kron(np.eye(4), np.ones([1, 3])).astype(np.float32)
  return tf.matmul(tf.reshape(gray, [-1, 4]), blocks)


def color(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
  """Blends the gray image (factor 0) with the image (factor 1).

  Args:
    image: uint8 [H, W, 3].
    factor: float, may be above 1.

  Returns:
    uint8 [H, W, 3].
  """
  image = tf.convert_to_tensor(image)
  gray = tf.reshape(_three_times(_gray(image)), tf.shape(image))
  return _mix(gray, tf.cast(image, tf.float32), factor)


def contrast(
  image: tf.Tensor, factor: tf.Tensor | float, *, corrected: bool = False
) -> tf.Tensor:
  """Blends uniform gray (factor 0) with the image (factor 1).

  Args:
    image: uint8 [H, W, 3].
    factor: float, may be above 1.
    corrected: bool. By default, the gray is H * W / 256, at most 255, for every
      image: the reference uses the sum of a histogram in place of the mean.

  Returns:
    uint8 [H, W, 3].
  """
  image = tf.convert_to_tensor(image)
  if corrected:
    level = tf.floor(tf.reduce_mean(_gray(image)) + 0.5)
  else:
    size = tf.cast(tf.reduce_prod(tf.shape(image)[:2]), tf.float32)
    level = tf.floor(tf.minimum(size / 256, 255.0))
  return _mix(level, tf.cast(image, tf.float32), factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
  """Blends a smoothed image (factor 0) with the image (factor 1).

  The smoothing averages each pixel, with weight 5, and its 8 neighbors, with
  weight 1. The outermost pixels do not change. The averages are exact; the
  reference averages with a convolution whose rounding errors depend on the
  machine, and 0.5 % of its averages are lower by 1.

  Args:
    image: uint8 [H, W, 3].
    factor: float, may be above 1.

  Returns:
    uint8 [H, W, 3].
  """
  image = tf.convert_to_tensor(image)
  size = image.shape[:2]
  if size.is_fully_defined():
    return image if min(size) < 3 else _sharpen(image, factor)
  sharp = tf.cond(
    tf.reduce_min(tf.shape(image)[:2]) < 3,
    lambda: image,
    lambda: _sharpen(image, factor),
  )
  return tf.ensure_shape(sharp, image.shape)


def _sharpen(image, factor):
  """Computes `sharpness` of an image of at least 3 x 3 pixels."""
  # All values are in one row, [1, H * W * C]; the pixel below is `down` further,
  # that to the right `right`. (Slices of matrices are copied faster than slices
  # of vectors.) Sums wrap around at the sides, which are replaced below.
  right = tf.shape(image)[2]
  down = right * tf.shape(image)[1]
  row = tf.reshape(image, [1, -1])
  x = tf.cast(row, tf.float32)
  columns = x[:, : -2 * down] + x[:, down:-down] + x[:, 2 * down :]
  sums = columns[:, : -2 * right] + columns[:, right:-right]
  sums += columns[:, 2 * right :]
  margin = down + right
  inside = x[:, margin:-margin]
  # A little more than 1 / 13, so that multiples of 13 are not rounded down.
  smooth = tf.floor((sums + 4.0 * inside) * (1.00001 / 13))
  inside = _mix(smooth, inside, factor)
  sharp = tf.concat([row[:, :margin], inside, row[:, -margin:]], 1)
  sharp, rows = tf.reshape(sharp, [-1, down]), _row(image)
  sides = rows[:, :right], rows[:, -right:]
  sharp = tf.concat([sides[0], sharp[:, right:-right], sides[1]], 1)
  return _like(sharp, image)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
  """Stretches each channel to the range [0, 255], unless it is constant.

  Args:
    image: uint8 [H, W, C].

  Returns:
    uint8 [H, W, C].
  """
  image = tf.convert_to_tensor(image)
  x = tf.cast(_row(image), tf.float32)
  per_pixel = [-1, tf.shape(image)[2]]
  high = tf.reduce_max(tf.reshape(tf.reduce_max(x, 0), per_pixel), 0)
  low = tf.reduce_min(tf.reshape(tf.reduce_min(x, 0), per_pixel), 0)
  varies = high > low
  scale = tf.where(varies, 255.0 / tf.maximum(high - low, 1.0), 1.0)
  offset = tf.where(varies, -low * scale, 0.0)
  y = x * _channels(scale, image) + _channels(offset, image)
  return _like(tf.cast(y, tf.uint8), image)


def _equalizing_table(counts):
  """Maps values so that all are about equally frequent.

  Args:
    counts: int32 [C, 256], how often each value occurs.

  Returns:
    uint8 [C, 256], new values.
  """
  up_to = tf.cumsum(counts, axis=1)
  total = up_to[:, -1:]
  # The largest value is the first one where the cumulative sum is complete.
  largest = tf.argmax(up_to, axis=1, output_type=tf.int32)
  last = tf.gather(counts, largest, batch_dims=1)[:, None]
  step = (total - last) // 255
  table = (up_to - counts + step // 2) // tf.maximum(step, 1)
  table = tf.clip_by_value(table, 0, 255)
  return tf.cast(tf.where(step > 0, table, tf.range(256)), tf.uint8)


def equalize(image: tf.Tensor) -> tf.Tensor:
  """Makes the values of each channel about equally frequent.

  Args:
    image: uint8 [H, W, C].

  Returns:
    uint8 [H, W, C].
  """
  image = tf.convert_to_tensor(image)
  num_channels = tf.shape(image)[2]
  bins = 256 * tf.range(num_channels)  # Each channel has its own.
  index = tf.cast(_row(image), tf.int32) + _channels(bins, image)
  counts = tf.raw_ops.DenseBincount(
    input=tf.reshape(index, [-1]),
    size=256 * num_channels,
    weights=tf.constant([], tf.int32),
  )
  table = _equalizing_table(tf.reshape(counts, [num_channels, 256]))
  if image.shape[1] is not None and image.shape[1] % 2 == 0:
    return _look_up_pairs(table, image)
  # Faster than `gather`.
  equal = tf.gather_nd(tf.reshape(table, [-1]), index[..., None])
  return _like(equal, image)


def _look_up_pairs(table, image):
  """Looks up `table[c, image[:, :, c]]`, two values at once, which is faster.

  Args:
    table: uint8 [C, 256].
    image: uint8 [H, W, C], W even.

  Returns:
    uint8 [H, W, C].
  """
  num_channels = tf.shape(image)[2]
  table = tf.cast(table, tf.uint16)
  # The channels of two pixels in a row, in pairs: a channel and the next one.
  first = 2 * tf.range(num_channels) % num_channels
  second = (first + 1) % num_channels
  # The first of two bytes is the lower one of their number.
  low, high = tf.gather(table, first), 256 * tf.gather(table, second)
  pairs = high[:, :, None] + low[:, None, :]  # [C, 256, 256]
  row = tf.reshape(image, [tf.shape(image)[0], -1, 2])
  index = tf.cast(tf.bitcast(row, tf.uint16), tf.int32)
  bins = tf.tile(65536 * tf.range(num_channels), tf.shape(image)[1:2] // 2)
  found = tf.gather_nd(tf.reshape(pairs, [-1]), (index + bins)[..., None])
  return _like(tf.bitcast(found, tf.uint8), image)
