"""Preprocessing ops that cut a part out of an image; `ops_image` imports them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from big_vision.pp import (
  decoding,
  image_files,
  raw_images,
  resizing,
  rng,
  utils,
)
from big_vision.pp.registry import Registry
from big_vision.pp.types import TensorFn
from big_vision.tf import tf

InKeyOutKey = utils.InKeyOutKey


def inception_box(
  shape: tf.Tensor,
  area_min: float,
  area_max: float,
  seed: tf.Tensor,
  **kw: Any,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Draws a part of an image.

  Args:
    shape: int32 [3] of the image.
    area_min: least area, percent of the image.
    area_max: largest area, percent of the image.
    seed: int64 [2].
    **kw: for `tf.image.stateless_sample_distorted_bounding_box`.

  Returns:
    (begin, size), each int32 [3].
  """
  begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
    shape,
    tf.zeros([0, 0, 4], tf.float32),
    seed=seed,
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
  resizing.check_method("inception_crop", method)

  def inception_crop(image):
    image = tf.convert_to_tensor(image)
    begin, extent = inception_box(
      tf.shape(image), area_min, area_max, rng.next_seed()
    )
    crop = tf.slice(image, begin, extent)
    crop = tf.ensure_shape(crop, [None, None, image.shape[-1]])
    if size:
      hw = tuple(utils.maybe_repeat(size, 2))
      crop = resizing.resize(crop, hw, method, antialias)
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
  resizing.check_method("decode_jpeg_and_inception_crop", method)

  hw = tuple(utils.maybe_repeat(size, 2)) if size else None
  decoder = decoding.Decoder(max_pixels=max_pixels)

  def decode_jpeg_and_inception_crop(data):
    data = tf.convert_to_tensor(data)
    seed = rng.next_seed()  # The same box for any format.

    def box_of(shape):
      ratios = (ratio_min, ratio_max)
      return inception_box(
        shape, area_min, area_max, seed, aspect_ratio_range=ratios
      )

    # Few ops: many small ones would take as long as to resize.
    crop = tf.cond(
      decoding.is_jpeg(data),
      lambda: _of_jpeg(data, box_of, hw, dct_scale, decoder),
      lambda: _of_other(data, box_of, decoder),
    )
    return resizing.resize(crop, hw, method, antialias) if hw else crop

  return decode_jpeg_and_inception_crop


def _of_jpeg(data, box_of, hw, dct_scale, decoder):
  """Decodes a box of a JPEG; a call of Python does so for huge ones."""
  most = min(image_files.limit(decoder.max_pixels), decoding.HUGE_PIXELS)
  shape = tf.image.extract_jpeg_shape(data)
  begin, extent = box_of(shape)
  window = tf.concat([begin[:2], extent[:2]], 0)

  def huge(data, window):
    decoder.check_jpeg(data)
    ratio = decoding.largest_ratio(window[2:], hw) if hw else 1
    return [_decode_window(data, tf.constant(window), ratio).numpy()]

  return tf.cond(
    tf.reduce_prod(tf.cast(shape[:2], tf.int64)) <= most,
    lambda: _decode_small(data, window, hw if dct_scale else None),
    lambda: _call(huge, data, window),
  )


def _of_other(data, box_of, decoder):
  """Decodes an image in full, and cuts out a box."""
  most = image_files.limit(decoder.max_pixels)
  image = tf.cond(
    raw_images.is_good(data, most),
    lambda: raw_images.pixels(data),
    lambda: _call(decoder.read, data),
  )
  image = tf.ensure_shape(image, [None, None, 3])
  crop = tf.slice(image, *box_of(tf.shape(image)))
  return tf.ensure_shape(crop, [None, None, 3])


def _call(fn, *args):
  """Calls what makes an image in Python."""
  return decoding.call(fn, args, [tf.uint8], [[None, None, 3]])[0]


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


def _checked(op, height, width, image):
  """Returns the image; if it is smaller than the crop, that is an error."""
  return resizing.checked(
    image,
    tf.reduce_all(tf.shape(image)[:2] >= [height, width]),
    f"{op}: the image of {{}} x {{}} pixels is smaller than the crop of {width} x "
    f"{height}: resize it before, such as by resize_small({max(height, width)}).",
    image,
  )


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
    image = _checked("random_crop", height, width, image)
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
      image = _checked("central_crop", h, w, image)
    else:
      h = w = tf.minimum(height, width)
    top, left = (height - h) // 2, (width - w) // 2
    return tf.image.crop_to_bounding_box(image, top, left, h, w)

  return central_crop
