"""Preprocessing ops for images: [H, W, C], or encoded as a string."""

from __future__ import annotations

import math
from collections.abc import Sequence

from big_vision.pp import (
  batched,
  decoding,
  image_files,
  ops_augment,  # noqa: F401  (Registers its ops.)
  resizing,
  rng,
  utils,
)
from big_vision.pp.ops_crop import (  # noqa: F401  (Registers them, too.)
  get_central_crop,
  get_decode_jpeg_and_inception_crop,
  get_inception_crop,
  get_random_crop,
)
from big_vision.pp.registry import Registry
from big_vision.pp.types import TensorFn
from big_vision.tf import tf

InKeyOutKey = utils.InKeyOutKey


@Registry.register("preprocess_ops.decode")
@InKeyOutKey()
def get_decode(
  channels: int = 3,
  precise: bool = False,
  exif: bool = False,
  background: str | int | Sequence[int] | None = None,
  max_pixels: int | None = None,
  followed_by: str | None = None,
) -> TensorFn:
  """Decodes an image file: JPEG, PNG, WebP, GIF (first frame), BMP and others.

  Args:
    channels: int, of the result; 0 for as many as the image has.
    precise: bool, decodes JPEG with the most accurate method.
    exif: bool, turns photographs that were taken on the side.
    background: "white", "black", "gray", a brightness or three of them: the
      color behind transparent images. None drops alpha: a clear pixel has
      whatever color the file stores for it.
    max_pixels: int, images with more pixels are errors; None means the
      environment variable BV_MAX_IMAGE_PIXELS, else 178,956,970.
    followed_by: str, the next op, which the builder fills in: JPEGs of more than
      67 million pixels are decoded at a fraction if it makes them small.

  Returns:
    `string [] -> uint8 [H, W, channels]`.

  Raises:
    ConfigError: an argument cannot be used.
  """
  return decoding.Decoder(
    channels=channels,
    precise=precise,
    exif=exif,
    background=background,
    max_pixels=max_pixels,
    wanted=decoding.wanted_by(followed_by),
  )


@Registry.register("preprocess_ops.resize")
@InKeyOutKey()
def get_resize(
  size: int | Sequence[int],
  method: str = "bilinear",
  antialias: bool = False,
  pil: bool = False,
) -> TensorFn:
  """Resizes to a fixed size, whatever the aspect ratio.

  Args:
    size: int or (int, int), pixels; height, width.
    method: str, one of `tf.image.ResizeMethod`.
    antialias: bool, whether to smooth when making images smaller.
    pil: bool, whether to do as Pillow: to smooth, and to round to the nearest
      integers.

  Returns:
    `[H, W, C] -> [*size, C]` of the same dtype; integers are rounded down, unless
    `pil`.

  Raises:
    ValueError: unknown method.
  """
  size = tuple(utils.maybe_repeat(size, 2))
  resizing.check_method("resize", method)
  return lambda image: resizing.resize(image, size, method, antialias, pil)


def _resize_side(op, side_fn, target, method, antialias, pil=False):
  """Resizes so that `side_fn(h, w)` becomes `target` pixels."""
  resizing.check_method(op, method)
  limit = image_files.limit()

  def resize_side(image):
    image = tf.convert_to_tensor(image)
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    sides *= tf.cast(target, tf.float32) / side_fn(sides)
    sides = resizing.checked(
      sides,
      tf.reduce_prod(sides) <= limit,
      f"{op}({target}) of an image of {{}} x {{}} pixels, so long and thin, has "
      f"more than {limit:,}: leave it out, or allow more by the environment "
      f"variable {image_files.ENV}.",
      image,
    )
    size = tf.cast(tf.round(sides), tf.int32)
    if pil:  # In whole numbers: 353.99997 should be 354.
      whole = tf.shape(image, tf.int64)[:2]
      size = tf.cast(target * whole // side_fn(whole), tf.int32)
    return resizing.resize(image, size, method, antialias, pil)

  return resize_side


@Registry.register("preprocess_ops.resize_small")
@InKeyOutKey()
def get_resize_small(
  smaller_size: int,
  method: str = "area",
  antialias: bool = False,
  pil: bool = False,
) -> TensorFn:
  """Resizes the smaller side to `smaller_size`, keeping the aspect ratio.

  Args:
    smaller_size: int, pixels.
    method: str, one of `tf.image.ResizeMethod`.
    antialias: bool, whether to smooth when making images smaller; "area" does
      so in any case.
    pil: bool, whether to do as Pillow and PyTorch: to smooth, to round to the
      nearest integers, and the longer side down, which is rounded to the nearest
      number of pixels otherwise.

  Returns:
    `[H, W, C] -> [h, w, C]` of the same dtype; integers are rounded down, unless
    `pil`.

  Raises:
    ValueError: unknown method.
  """
  return _resize_side(
    "resize_small", tf.reduce_min, smaller_size, method, antialias, pil
  )


@Registry.register("preprocess_ops.resize_long")
@InKeyOutKey()
def get_resize_long(
  longer_size: int, method: str = "area", antialias: bool = True
) -> TensorFn:
  """Resizes the longer side to `longer_size`, keeping the aspect ratio.

  Args:
    longer_size: int, pixels.
    method: str, one of `tf.image.ResizeMethod`.
    antialias: bool, whether to smooth when making images smaller.

  Returns:
    `[H, W, C] -> [h, w, C]` of the same dtype; integers are rounded down.

  Raises:
    ValueError: unknown method.
  """
  return _resize_side(
    "resize_long", tf.reduce_max, longer_size, method, antialias
  )


@Registry.register("preprocess_ops.flip_lr")
@InKeyOutKey()
def get_random_flip_lr() -> TensorFn:
  """Exchanges left and right with probability 0.5."""
  return lambda image: tf.image.stateless_random_flip_left_right(
    image, rng.next_seed()
  )


@Registry.register("preprocess_ops.random_affine")
@InKeyOutKey()
def get_random_affine(
  degrees: float = 0.0,
  shear: float = 0.0,
  scale: float = 0.0,
  shift: float = 0.0,
) -> TensorFn:
  """Rotates, shears, stretches and shifts, each by a uniform random amount.

  All changes are relative to the center. Pixels are interpolated linearly, and
  0 outside the image.

  Args:
    degrees: float, largest angle in both directions.
    shear: float, largest slope that vertical lines get, in both directions.
    scale: float, each side becomes 1 / (1 + scale) to 1 + scale times as long,
      independently (the logarithm is uniform).
    shift: float, largest shift in each direction, as a fraction of that side.

  Returns:
    `[H, W, C] -> [H, W, C]` of the same dtype; integers are rounded.
  """

  def random_affine(image):
    image = tf.convert_to_tensor(image)
    u = tf.random.stateless_uniform([6], rng.next_seed(), -1, 1)
    angle = u[0] * degrees * (math.pi / 180)
    slope = u[1] * shear
    stretch = tf.exp(u[2:4] * math.log1p(scale))
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    center, way = (size - 1) / 2, u[4:] * shift * size  # Row, column.

    # Pixel (x, y) of the result comes from A (x - center - way) + center.
    cos, sin = tf.cos(angle) / stretch, tf.sin(angle) / stretch
    a = [cos[1], sin[0], -sin[1], cos[0]]
    a = [a[0] + slope * a[2], a[1] + slope * a[3], a[2], a[3]]
    y, x = tf.unstack(center + way)
    offset = [
      center[1] - a[0] * x - a[1] * y,
      center[0] - a[2] * x - a[3] * y,
    ]
    zero = tf.zeros([])
    transform = [*a[:2], offset[0], *a[2:], offset[1], zero, zero]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
      images=tf.cast(image, tf.float32)[None],
      transforms=tf.stack(transform)[None],
      output_shape=tf.shape(image)[:2],
      fill_value=zero,
      interpolation="BILINEAR",
      fill_mode="CONSTANT",
    )[0]
    if image.dtype.is_integer:
      moved = tf.round(moved)
    return tf.ensure_shape(tf.cast(moved, image.dtype), image.shape)

  return random_affine


def _standardize(mean, std):
  """Makes `(x - mean) / std`, per channel."""

  def standardize(image):
    image = tf.cast(image, tf.float32) - tf.constant(mean, tf.float32)
    return image / tf.constant(std, tf.float32)

  return batched.OfBytes(standardize)


@Registry.register("preprocess_ops.vgg_value_range")
@InKeyOutKey()
def get_vgg_value_range(
  mean: Sequence[float] = (0.485 * 255, 0.456 * 255, 0.406 * 255),
  std: Sequence[float] = (0.229 * 255, 0.224 * 255, 0.225 * 255),
) -> TensorFn:
  """Subtracts the mean of ImageNet and divides by its standard deviation.

  Args:
    mean: 3 floats, one per channel, for values in [0, 255].
    std: 3 floats, one per channel, for values in [0, 255].

  Returns:
    `[H, W, 3] -> float32 [H, W, 3]`.
  """
  return _standardize(mean, std)


@Registry.register("preprocess_ops.clip_value_range")
@InKeyOutKey()
def get_clip_value_range() -> TensorFn:
  """Subtracts mean, divides by standard deviation, as the CLIP models expect.

  Returns:
    `[H, W, 3] -> float32 [H, W, 3]`, for inputs in [0, 255].

  References: Radford et al. 2021, https://arxiv.org/abs/2103.00020.
  """
  mean = [m * 255 for m in (0.48145466, 0.4578275, 0.40821073)]
  std = [s * 255 for s in (0.26862954, 0.26130258, 0.27577711)]
  return _standardize(mean, std)


@Registry.register("preprocess_ops.convert_to_video")
@InKeyOutKey()
def get_convert_to_video(num_frames: int) -> TensorFn:
  """Makes a video of an image, with black frames (zeros) after it.

  Args:
    num_frames: int.

  Returns:
    `[H, W, C] -> [num_frames, H, W, C]` of the same dtype.
  """
  return lambda image: tf.pad(
    tf.expand_dims(image, 0), [[0, num_frames - 1], [0, 0], [0, 0], [0, 0]]
  )
