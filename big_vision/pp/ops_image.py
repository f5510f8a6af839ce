"""Preprocessing ops for images: [H, W, C], or encoded as a string."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from big_vision import lookup
from big_vision.pp import decoding, rng, utils
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


# These methods average with positive weights: results stay in the range of the
# input, up to rounding errors that the cast to integers cuts off.
_AVERAGING = ("area", "bilinear", "gaussian", "nearest")
# These take integers; all other ways to resize make float32 of the image.
_WITHOUT_FLOATS = ("area", "bicubic", "bilinear", "nearest")
_SMALL_INTEGERS = ("uint8", "int8", "uint16", "int16")


def _check_method(op, method):
  """Raises ValueError for a name that `tf.image.resize` does not know."""
  known = [
    v for k, v in vars(tf.image.ResizeMethod).items() if not k.startswith("_")
  ]
  if method not in known:
    hint = lookup.did_you_mean(method, known)
    raise ValueError(f"{op}: unknown resize method {method!r}{hint}")


def _resize(image, size, method, antialias):
  """Resizes to [h, w] without changing the dtype."""
  image = tf.convert_to_tensor(image)
  dtype = image.dtype
  if antialias or method not in _WITHOUT_FLOATS:
    image = _shrink_huge(image, size)
  resized = tf.image.resize(image, size, method=method, antialias=antialias)
  if method not in _AVERAGING or dtype.name not in _SMALL_INTEGERS:
    resized = tf.clip_by_value(resized, dtype.min, dtype.max)
  return tf.cast(resized, dtype)


def _shrink_huge(image, size):
  """Averages pixels of what would take gigabytes as float32, down to 4x `size`."""
  sides, wanted = tf.shape(image)[:2], 4 * tf.convert_to_tensor(size)
  smaller = tf.reduce_all(sides >= 2 * wanted)
  shrink = lambda: tf.cast(tf.image.resize(image, wanted, "area"), image.dtype)
  return tf.cond(decoding.is_huge(sides) & smaller, shrink, lambda: image)


@Registry.register("preprocess_ops.resize")
@InKeyOutKey()
def get_resize(
  size: int | Sequence[int], method: str = "bilinear", antialias: bool = False
) -> TensorFn:
  """Resizes to a fixed size, whatever the aspect ratio.

  Args:
    size: int or (int, int), pixels; height, width.
    method: str, one of `tf.image.ResizeMethod`.
    antialias: bool, whether to smooth when making images smaller.

  Returns:
    `[H, W, C] -> [*size, C]` of the same dtype; integers are rounded down.

  Raises:
    ValueError: unknown method.
  """
  size = tuple(utils.maybe_repeat(size, 2))
  _check_method("resize", method)
  return lambda image: _resize(image, size, method, antialias)


def _resize_side(op, side_fn, target, method, antialias):
  """Resizes so that `side_fn(h, w)` becomes `target` pixels."""
  _check_method(op, method)

  def resize_side(image):
    image = tf.convert_to_tensor(image)
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    factor = tf.cast(target, tf.float32) / side_fn(sides)
    size = tf.cast(tf.round(sides * factor), tf.int32)
    return _resize(image, size, method, antialias)

  return resize_side


@Registry.register("preprocess_ops.resize_small")
@InKeyOutKey()
def get_resize_small(
  smaller_size: int, method: str = "area", antialias: bool = False
) -> TensorFn:
  """Resizes the smaller side to `smaller_size`, keeping the aspect ratio.

  Args:
    smaller_size: int, pixels.
    method: str, one of `tf.image.ResizeMethod`.
    antialias: bool, whether to smooth when making images smaller; "area" does
      so in any case.

  Returns:
    `[H, W, C] -> [h, w, C]` of the same dtype; integers are rounded down.

  Raises:
    ValueError: unknown method.
  """
  return _resize_side(
    "resize_small", tf.reduce_min, smaller_size, method, antialias
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


def _inception_box(shape, area_min, area_max, **kw):
  """Draws a part of an image: (begin, size), each int32 [3]."""
  begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
    shape,
    tf.zeros([0, 0, 4], tf.float32),
    seed=rng.next_seed(),
    area_range=(area_min / 100, area_max / 100),
    min_object_covered=0,  # There are no objects, do not enforce anything.
    use_image_if_no_bounding_boxes=True,
    **kw,
  )
  return begin, size


@Registry.register("preprocess_ops.inception_crop")
@InKeyOutKey()
def get_inception_crop(
  size: int | Sequence[int] | None = None,
  area_min: float = 5,
  area_max: float = 100,
  method: str = "bilinear",
  antialias: bool = False,
) -> TensorFn:
  """Crops a random part of random area and aspect ratio (in [0.75, 1.33]).

  Args:
    size: int or (int, int), pixels to resize the crop to; None keeps it.
    area_min: float, least area, percent of the image.
    area_max: float, largest area, percent of the image.
    method: str, as for `resize`.
    antialias: bool, as for `resize`.

  Returns:
    `[H, W, C] -> [h, w, C]` of the same dtype. If no crop like this is found in
    100 attempts, the whole image.

  Raises:
    ValueError: unknown method.

  References: Szegedy et al. 2014, section 6, https://arxiv.org/abs/1409.4842.
  """
  _check_method("inception_crop", method)

  def inception_crop(image):
    image = tf.convert_to_tensor(image)
    begin, extent = _inception_box(tf.shape(image), area_min, area_max)
    crop = tf.slice(image, begin, extent)
    crop = tf.ensure_shape(crop, [None, None, image.shape[-1]])
    if size:
      hw = tuple(utils.maybe_repeat(size, 2))
      crop = _resize(crop, hw, method, antialias)
    return crop

  return inception_crop


@Registry.register("preprocess_ops.decode_jpeg_and_inception_crop")
@InKeyOutKey()
def get_decode_jpeg_and_inception_crop(
  size: int | Sequence[int] | None = None,
  area_min: float = 5,
  area_max: float = 100,
  ratio_min: float = 0.75,
  ratio_max: float = 1.33,
  method: str = "bilinear",
  antialias: bool = False,
  dct_scale: bool = False,
  max_pixels: int | None = None,
) -> TensorFn:
  """Decodes only the part that `inception_crop` crops.

  Args:
    size: int or (int, int), pixels to resize the crop to; None keeps it.
    area_min: float, least area, percent of the image.
    area_max: float, largest area, percent of the image.
    ratio_min: float, least aspect ratio, width / height.
    ratio_max: float, largest aspect ratio, width / height.
    method: str, as for `resize`.
    antialias: bool, as for `resize`.
    dct_scale: bool, whether crops of at least 2, 4 or 8 times `size` are
      decoded at 1/2, 1/4 or 1/8 of the resolution: faster, and smoother than
      `resize` without antialias; docs/benchmarks.md has by how much. Crops of
      more than 67 million pixels are in any case.
    max_pixels: int, as for `decode`.

  Returns:
    `string [] -> uint8 [h, w, 3]`. Other formats than JPEG are decoded in full,
    as `decode` does it, and cropped by the same box.

  Raises:
    ValueError: unknown method.

  References: Szegedy et al. 2014, section 6, https://arxiv.org/abs/1409.4842.
  """
  _check_method("decode_jpeg_and_inception_crop", method)

  hw = tuple(utils.maybe_repeat(size, 2)) if size else None
  decoder = decoding.Decoder(max_pixels=max_pixels)
  most = min(decoder.max_pixels, decoding.HUGE_PIXELS)

  def decode_jpeg_and_inception_crop(data):
    data = tf.convert_to_tensor(data)
    sides, is_jpeg, _ = decoding.read_header(data)
    plain = is_jpeg & (tf.reduce_prod(sides) <= most)
    sides, image = tf.cond(
      plain,
      lambda: [tf.cast(sides, tf.int32), tf.zeros([0, 0, 3], tf.uint8)],
      lambda: decoding.call(
        decoder.sides_and_pixels,
        [data],
        [tf.int32, tf.uint8],
        [[2], [None, None, 3]],
      ),
    )
    begin, extent = _inception_box(
      tf.concat([sides, [3]], 0),
      area_min,
      area_max,
      aspect_ratio_range=(ratio_min, ratio_max),
    )
    window = tf.concat([begin[:2], extent[:2]], 0)
    crop = tf.cond(
      plain,
      lambda: _decode_small(data, window, hw if dct_scale else None),
      lambda: decoding.call(
        lambda *args: [_crop(*args, hw)],
        [data, image, window],
        [tf.uint8],
        [[None, None, 3]],
      )[0],
    )
    return _resize(crop, hw, method, antialias) if hw else crop

  return decode_jpeg_and_inception_crop


def _crop(data, image, window, hw):
  """Cuts a window out of an image, or out of a huge JPEG."""
  if not image.size:
    ratio = decoding.largest_ratio(window[2:], hw) if hw else 1
    return _decode_window(data, tf.constant(window), ratio).numpy()
  top, left, height, width = window
  return image[top : top + height, left : left + width]


def _decode_small(data, window, hw):
  """Decodes part of a JPEG, at the lowest resolution of at least `hw`."""
  if hw is None:
    return _decode_window(data, window, 1)
  # The largest of 2^0 ... 2^3 that leaves as many pixels as are wanted.
  factor = tf.reduce_min(window[2:] // hw)
  branch = tf.reduce_sum(tf.cast(factor >= decoding.RATIOS[1:], tf.int32))
  ratios = [
    functools.partial(_decode_window, data, window, ratio)
    for ratio in decoding.RATIOS
  ]
  return tf.switch_case(branch, ratios)


def _decode_window(jpeg, window, ratio):
  """Decodes part of a JPEG, at 1 / `ratio` of its resolution.

  Args:
    jpeg: string [].
    window: int32 [4], (top, left, height, width) in pixels of the image.
    ratio: int, 1, 2, 4 or 8.

  Returns:
    uint8 [height / ratio, width / ratio, 3], rounded.
  """
  if ratio > 1:
    full = -(-tf.image.extract_jpeg_shape(jpeg)[:2] // ratio)  # Rounded up.
    begin, end = window[:2], window[:2] + window[2:]
    nearest = lambda x: (x + ratio // 2) // ratio
    begin = tf.minimum(nearest(begin), full - 1)
    extent = tf.clip_by_value(nearest(end) - begin, 1, full - begin)
    window = tf.concat([begin, extent], 0)
  # As `tf.image.decode_and_crop_jpeg`, but with the argument `ratio`.
  return tf.io.decode_and_crop_jpeg(jpeg, window, channels=3, ratio=ratio)


@Registry.register("preprocess_ops.random_crop")
@InKeyOutKey()
def get_random_crop(crop_size: int | Sequence[int]) -> TensorFn:
  """Crops a random part of fixed size; smaller images are an error.

  Args:
    crop_size: int or (int, int), pixels; height, width.

  Returns:
    `[H, W, C] -> [*crop_size, C]`.
  """
  height, width = utils.maybe_repeat(crop_size, 2)

  def random_crop(image):
    image = tf.convert_to_tensor(image)
    channels = image.shape[-1]
    channels = tf.shape(image)[-1] if channels is None else channels
    return tf.image.stateless_random_crop(
      image, (height, width, channels), rng.next_seed()
    )

  return random_crop


@Registry.register("preprocess_ops.central_crop")
@InKeyOutKey()
def get_central_crop(crop_size: int | Sequence[int] | None = None) -> TensorFn:
  """Crops the middle; smaller images are an error.

  Args:
    crop_size: int or (int, int), pixels; height, width. None for the largest
      square.

  Returns:
    `[H, W, C] -> [*crop_size, C]`.
  """

  def central_crop(image):
    image = tf.convert_to_tensor(image)
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    if crop_size:
      h, w = utils.maybe_repeat(crop_size, 2)
    else:
      h = w = tf.minimum(height, width)
    top, left = (height - h) // 2, (width - w) // 2
    return tf.image.crop_to_bounding_box(image, top, left, h, w)

  return central_crop


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

  return standardize


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
