"""Augmentations that teach how images get worse: resizing and JPEG."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from big_vision.pp import resizing, rng, utils
from big_vision.pp.registry import Registry
from big_vision.pp.types import TensorFn
from big_vision.tf import tf

InKeyOutKey = utils.InKeyOutKey

_METHODS = ("bilinear", "bicubic", "lanczos3", "area", "mitchellcubic")
_QUALITY = (75, 95)  # Of JPEG, both included.
_DCT_METHODS = ("INTEGER_FAST", "INTEGER_ACCURATE")


@Registry.register("preprocess_ops.resize_r")
@InKeyOutKey()
def get_resize_r(size: int | Sequence[int]) -> TensorFn:
  """Resizes by a method that is drawn at random, with or without antialias.

  Args:
    size: int or (int, int), pixels; height, width.

  Returns:
    `[H, W, C] -> [*size, C]` of the same dtype; integers are rounded down.
  """
  size = tuple(utils.maybe_repeat(size, 2))
  variants = list(itertools.product(_METHODS, (True, False)))

  def resize_r(image):
    image = tf.convert_to_tensor(image)
    index = tf.random.stateless_uniform(
      [], rng.next_seed(), maxval=len(variants), dtype=tf.int32
    )
    branches = [
      functools.partial(resizing.resize, image, size, method, antialias)
      for method, antialias in variants
    ]
    resized = tf.switch_case(index, branches)
    return tf.ensure_shape(resized, [*size, image.shape[-1]])

  return resize_r


@Registry.register("preprocess_ops.random_jpeg")
@InKeyOutKey()
def get_random_jpeg(p: float) -> TensorFn:
  """Compresses by JPEG with probability `p`, of quality 75 to 95.

  Args:
    p: float, in [0, 1]. Half of the compressed images are decoded by the fast
      method, the others by the accurate one.

  Returns:
    `[H, W, C] -> [H, W, C]` of the same dtype, C being 1 or 3; uint8, or floats
    in [0, 1].

  Raises:
    ValueError: `p` is not a probability.
  """
  if not 0 <= p <= 1:
    raise ValueError(f"random_jpeg: p={p!r} must be a probability, 0 to 1.")

  def random_jpeg(image):
    image = tf.convert_to_tensor(image)
    draw = tf.random.stateless_uniform([], rng.next_seed())
    least, most = _QUALITY
    quality = tf.random.stateless_uniform(
      [], rng.next_seed(), least, most + 1, tf.int32
    )
    compress = lambda dct: tf.image.adjust_jpeg_quality(image, quality, dct)
    branches = [functools.partial(compress, dct) for dct in _DCT_METHODS]
    # 0 or 1 of the two methods, 2 for neither.
    index = tf.cast(draw >= p / 2, tf.int32) + tf.cast(draw >= p, tf.int32)
    changed = tf.switch_case(index, [*branches, lambda: image])
    return tf.ensure_shape(changed, image.shape)

  return random_jpeg
