"""Augmentation kernels that change the bits of pixels.

They treat an image as a sequence of 64-bit words, each of 8 values ("lanes"):
TensorFlow processes these ten times as fast as bytes. No sum may leave its
lane.
"""

from __future__ import annotations

from big_vision.tf import tf


def _lanes(value):
  """Makes a word with the same value, an int in [0, 255], in each lane."""
  return tf.constant(value * 0x0101010101010101, tf.uint64)


def _on_words(fn, image):
  """Applies a function of words, uint64 [N] -> uint64 [N], to an image."""
  flat = tf.reshape(image, [-1])
  if flat.shape[0] is None or flat.shape[0] % 8:
    rest = tf.math.floormod(-tf.size(flat), 8)
    flat = tf.concat([flat, tf.zeros([rest], tf.uint8)], 0)
  words = fn(tf.bitcast(tf.reshape(flat, [-1, 8]), tf.uint64))
  flat = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[: tf.size(image)]
  return tf.ensure_shape(tf.reshape(flat, tf.shape(image)), image.shape)


def _at_least(words, threshold):
  """Marks values from a threshold in [1, 255] on with 255, others with 0."""
  top = words & _lanes(128)
  low = words ^ top  # The lower 7 bits, which leave room for a sum.
  if threshold <= 128:
    top |= (low + _lanes(128 - threshold)) & _lanes(128)
  else:
    top &= low + _lanes(256 - threshold)
  # From bit 7 of a lane to all its bits: 256 - 1.
  one, seven = tf.constant(1, tf.uint64), tf.constant(7, tf.uint64)
  shift = tf.bitwise
  return shift.left_shift(top, one) - shift.right_shift(top, seven)


def invert(image: tf.Tensor) -> tf.Tensor:
  """Computes `255 - image`.

  Args:
    image: uint8 [H, W, C].

  Returns:
    uint8 [H, W, C].
  """
  return _on_words(tf.bitwise.invert, tf.convert_to_tensor(image))


def posterize(
  image: tf.Tensor, bits: int, *, corrected: bool = False
) -> tf.Tensor:
  """Keeps the highest bits of all values, and clears the others.

  Args:
    image: uint8 [H, W, C].
    bits: int. 0 acts as 1 and, by default, more than 8 do too: the reference
      shifts by 8 and by negative numbers, with this effect.
    corrected: bool; then, more than 8 bits give the image.

  Returns:
    uint8 [H, W, C].
  """
  image = tf.convert_to_tensor(image)
  if bits > 8:
    bits = 8 if corrected else 1
  mask = 256 - 2 ** (8 - max(bits, 1))
  return _on_words(lambda words: words & _lanes(mask), image)


def solarize(
  image: tf.Tensor, threshold: int = 128, *, corrected: bool = False
) -> tf.Tensor:
  """Inverts all values from the threshold on.

  Args:
    image: uint8 [H, W, C].
    threshold: int, by default taken modulo 256: 256 inverts everything.
    corrected: bool; then, 256 and more invert nothing.

  Returns:
    uint8 [H, W, C].
  """
  image = tf.convert_to_tensor(image)
  if not corrected:
    threshold = threshold % 256
  if threshold <= 0:
    return invert(image)
  if threshold > 255:
    return image
  return _on_words(lambda words: words ^ _at_least(words, threshold), image)


def solarize_add(
  image: tf.Tensor, addition: int = 0, threshold: int = 128
) -> tf.Tensor:
  """Adds to all values below the threshold, within [0, 255].

  Args:
    image: uint8 [H, W, C].
    addition: int, may be negative.
    threshold: int.

  Returns:
    uint8 [H, W, C].
  """
  image = tf.convert_to_tensor(image)
  if 1 <= threshold <= 255 and 0 <= addition <= 256 - threshold:  # No overflow.

    def add(words):
      below = tf.bitwise.invert(_at_least(words, threshold))
      return words + (below & _lanes(addition))

    return _on_words(add, image)
  x = tf.cast(image, tf.float32)
  x += addition * tf.cast(x < threshold, tf.float32)
  return tf.cast(tf.clip_by_value(x, 0.0, 255.0), tf.uint8)
