"""Preprocessing ops of published training recipes; `ops_image` imports them."""

from __future__ import annotations

import math

import numpy as np

from big_vision import lookup
from big_vision.pp import augment_bits, augment_color, rng, utils
from big_vision.pp.registry import Registry
from big_vision.pp.types import TensorFn
from big_vision.tf import tf

_MODES = ("pixel", "rand", "const")
_ATTEMPTS = 10
# Of `three_augment`, pixels; the kernel reaches three standard deviations.
_BLUR = (0.1, 2.0)
_REACH = 6


def _check_range(op, name, value, low, high):
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if not is_number or not low <= value <= high:
    raise lookup.ConfigError(
      f"{op}: {name}={value!r} should be a number in [{low}, {high}]."
    )


@Registry.register("preprocess_ops.random_erasing")
@utils.InKeyOutKey()
def get_random_erasing(
  probability: float = 0.25,
  min_area: float = 0.02,
  max_area: float = 1 / 3,
  min_aspect: float = 0.3,
  mode: str = "pixel",
) -> TensorFn:
  """Replaces a random box by noise, or by zeros.

  It belongs after `value_range(-1, 1)` or what else brings values near 0.

  Args:
    probability: float, how often an image loses a box.
    min_area: float, least area of the box, as a fraction of the image.
    max_area: float, largest one.
    min_aspect: float, least height / width, whose logarithm is uniform; the
      largest is 1 / min_aspect.
    mode: str, "pixel": normal noise, different for each value; "rand": one normal
      random color; "const": zeros.

  Returns:
    `float [H, W, C] -> [H, W, C]`. If no box fits in 10 attempts, the image.

  Raises:
    ConfigError: an argument is out of range, or the image is of integers.

  References: Zhong et al. 2017, https://arxiv.org/abs/1708.04896; the modes are
    those of timm.
  """
  op = "random_erasing"
  _check_range(op, "probability", probability, 0, 1)
  _check_range(op, "max_area", max_area, 0, 1)
  _check_range(op, "min_area", min_area, 0, max_area)
  _check_range(op, "min_aspect", min_aspect, 1e-3, 1)
  if mode not in _MODES:
    raise lookup.unknown(
      "mode", mode, _MODES, f"{op}: mode", lookup.ConfigError
    )

  def random_erasing(image):
    image = tf.convert_to_tensor(image)
    if not image.dtype.is_floating:
      raise lookup.ConfigError(
        f"{op}: the image has {image.dtype.name} values. Put the op after "
        "value_range(-1, 1), as its noise has mean 0 and variance 1."
      )
    shape = tf.shape(image)
    size = tf.cast(shape[:2], tf.float32)
    u = tf.random.stateless_uniform([_ATTEMPTS, 2], rng.next_seed())
    v = tf.random.stateless_uniform([3], rng.next_seed())
    noise_shape = {"pixel": shape, "rand": [1, 1, shape[2]], "const": [1, 1, 1]}
    noise = tf.random.stateless_normal(
      noise_shape[mode], rng.next_seed(), dtype=image.dtype
    )
    if mode == "const":
      noise = tf.zeros_like(noise)
    area = (min_area + u[:, 0] * (max_area - min_area)) * size[0] * size[1]
    aspect = tf.exp((2 * u[:, 1] - 1) * math.log(1 / min_aspect))
    boxes = tf.round(tf.sqrt(tf.stack([area * aspect, area / aspect], axis=1)))
    fits = tf.reduce_all(boxes < size, axis=1)  # [attempts]
    box = boxes[tf.argmax(fits)]  # [2], the first that fits.
    begin = tf.floor(v[:2] * (size - box + 1))
    inside = [
      (at >= begin[i]) & (at < begin[i] + box[i])
      for i, at in enumerate(tf.range(n) for n in tf.unstack(size))
    ]
    erased = inside[0][:, None, None] & inside[1][None, :, None]
    erased &= tf.reduce_any(fits) & (v[2] < probability)
    return tf.ensure_shape(tf.where(erased, noise, image), image.shape)

  return random_erasing


@Registry.register("preprocess_ops.color_jitter")
@utils.InKeyOutKey()
def get_color_jitter(
  brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0
) -> TensorFn:
  """Changes brightness, contrast and saturation, in a random order.

  Args:
    brightness: float b, the factor is uniform in [max(0, 1 - b), 1 + b].
    contrast: float, the same.
    saturation: float, the same.

  Returns:
    `uint8 [H, W, 3] -> uint8 [H, W, 3]`.

  Raises:
    ConfigError: a number is negative, or the image is of another type.
  """
  strengths = dict(
    brightness=brightness, contrast=contrast, saturation=saturation
  )
  for name, value in strengths.items():
    _check_range("color_jitter", name, value, 0, float("inf"))
  return _jitter("color_jitter", *strengths.values())


def _jitter(op, *strengths):
  """Makes the function of `color_jitter`."""

  def color_jitter(image):
    image = _check_image(op, image)
    u = tf.random.stateless_uniform([3], rng.next_seed())
    order = tf.argsort(tf.random.stateless_uniform([3], rng.next_seed()))
    b = np.array(strengths, np.float32)
    low = np.maximum(1 - b, 0)
    factors = low + u * (1 + b - low)
    kernels = (
      augment_color.brightness,
      lambda x, f: augment_color.contrast(x, f, corrected=True),
      augment_color.color,
    )
    for i in range(3):
      turn = order[i]
      branches = [
        (lambda x=image, k=k, j=j: k(x, factors[j]))
        if b[j]
        else (lambda x=image: tf.identity(x))
        for j, k in enumerate(kernels)
      ]
      image = tf.ensure_shape(tf.switch_case(turn, branches), image.shape)
    return image

  return color_jitter


@Registry.register("preprocess_ops.three_augment")
@utils.InKeyOutKey()
def get_three_augment(jitter: float = 0.3) -> TensorFn:
  """Applies one of gray, inverted highlights and blur, then changes colors.

  Each of the three comes equally often: gray; values from 128 on inverted; a
  Gaussian blur of uniform standard deviation in [0.1, 2] pixels.

  Args:
    jitter: float, all strengths of `color_jitter`; 0 leaves that out.

  Returns:
    `uint8 [H, W, 3] -> uint8 [H, W, 3]`.

  Raises:
    ConfigError: `jitter` is negative, or the image is of another type.

  References: Touvron et al. 2022 (DeiT III), section 4,
    https://arxiv.org/abs/2204.07118.
  """
  _check_range("three_augment", "jitter", jitter, 0, float("inf"))
  change_colors = _jitter("three_augment", *[jitter] * 3)

  def three_augment(image):
    image = _check_image("three_augment", image)
    u = tf.random.stateless_uniform([2], rng.next_seed())
    sigma = _BLUR[0] + u[1] * (_BLUR[1] - _BLUR[0])
    out = tf.switch_case(
      tf.cast(u[0] * 3, tf.int32),
      [
        lambda: augment_color.color(image, 0.0),
        lambda: augment_bits.solarize(image, 128),
        lambda: gaussian_blur(image, sigma),
      ],
    )
    out = tf.ensure_shape(out, image.shape)
    return change_colors(out) if jitter else out

  return three_augment


def gaussian_blur(image: tf.Tensor, sigma: tf.Tensor | float) -> tf.Tensor:
  """Averages pixels with the weights of a Gaussian; the border is repeated.

  Args:
    image: uint8 [H, W, C].
    sigma: float, standard deviation in pixels, at most 2: weights beyond 6 pixels
      are left out.

  Returns:
    uint8 [H, W, C], rounded.
  """
  image = tf.convert_to_tensor(image)
  at = tf.range(-_REACH, _REACH + 1)
  weights = tf.exp(-0.5 * tf.square(tf.cast(at, tf.float32) / sigma))
  weights = tf.unstack(weights / tf.reduce_sum(weights))
  x = tf.cast(image, tf.float32)
  for axis in (0, 1):
    size = tf.shape(image)[axis]
    total = 0.0
    for i, w in enumerate(weights):
      index = tf.clip_by_value(tf.range(size) + i - _REACH, 0, size - 1)
      total += w * tf.gather(x, index, axis=axis)
    x = total
  return tf.cast(tf.clip_by_value(tf.round(x), 0.0, 255.0), tf.uint8)


def _check_image(op, image):
  """Refuses what is not an image of 8 bits."""
  image = tf.convert_to_tensor(image)
  if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[2] != 3:
    raise lookup.ConfigError(
      f"{op}: the image is {image.dtype.name} {image.shape}, but should be uint8 "
      "[H, W, 3]. Put the op before value_range."
    )
  return image
