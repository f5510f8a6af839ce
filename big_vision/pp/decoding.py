"""Decides what the pixels of an image file are, in training and everywhere else.

JPEG and PNG are read by TensorFlow, within the graph; of the other formats what
it reads right, too, and the rest by Pillow. docs/images.md has the table.
Axes: H height, W width, C channels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision import lookup
from big_vision.pp import image_files, registry, utils
from big_vision.tf import tf

_PNG = b"\x89PNG\r\n\x1a\n"
# JPEGs above this many pixels are decoded at a fraction of their resolution if
# that leaves `_MARGIN` times the sides that are wanted.
HUGE_PIXELS = 1 << 26
_MARGIN = 2
_BIG_ENDIAN = (1 << 24, 1 << 16, 1 << 8, 1)
RATIOS = (1, 2, 4, 8)
# Ops that keep the picture as a whole -> their argument for its size.
_SIZE_OF = {
  "resize": "size",
  "resize_small": "smaller_size",
  "resize_long": "longer_size",
}


@dataclasses.dataclass(frozen=True)
class Decoder:
  """Decodes image files; calls map `string [] -> uint8 [H, W, C]` tensors.

  Attributes:
    channels: of the result: 1, 3 or 4; 0 for as many as the image has.
    precise: whether to decode JPEG with the most accurate method.
    exif: whether to turn images as the EXIF data of the camera say.
    background: color behind transparent images, see `image_files.color`; None
      drops alpha, and what is stored as the color of a clear pixel appears.
    max_pixels: images with more are errors, see `image_files.limit`.
    wanted: (height, width) that the image will be resized to; None if it may be
      needed in full.

  Raises:
    ConfigError: an argument cannot be used.
  """

  channels: int = 3
  precise: bool = False
  exif: bool = False
  background: Any = None
  max_pixels: int | None = None
  wanted: tuple[int, int] | None = None

  def __post_init__(self) -> None:
    if self.channels not in (0, 1, 3, 4):
      raise lookup.ConfigError(
        f"decode(channels={self.channels!r}): it should be 1 (gray), 3 (RGB), 4 "
        "(RGB and alpha), or 0 for as many as the image has."
      )
    if self.background is not None and self.channels != 3:
      raise lookup.ConfigError(
        f"decode(channels={self.channels}, background={self.background!r}): "
        "images on a background have 3 channels."
      )
    set_ = functools.partial(object.__setattr__, self)  # It is frozen.
    set_("max_pixels", image_files.limit(self.max_pixels))
    if self.background is not None:
      set_("background", image_files.color(self.background))

  def __call__(self, data: Any) -> tf.Tensor:
    """Decodes one file.

    Args:
      data: string scalar.

    Returns:
      uint8 [H, W, C].

    Raises:
      tf.errors.InvalidArgumentError: (when it is run) it cannot be read.
    """
    data = tf.convert_to_tensor(data)
    image = tf.cond(
      is_jpeg(data),
      lambda: self._jpeg(data),
      lambda: tf.cond(
        _begins(data, _PNG), lambda: self._png(data), lambda: self._other(data)
      ),
    )
    if self.exif or self.background is not None:
      image = tf.numpy_function(
        self._finish, [image, data], tf.uint8, stateful=False
      )
    return tf.ensure_shape(image, [None, None, self.channels or None])

  def _finish(self, image, data):
    """Turns an array and lays it on the background."""
    return image_files.finish(image, _bytes(data), self.exif, self.background)

  def reads_as_jpeg(self, data: tf.Tensor) -> tf.Tensor:
    """Tells whether TensorFlow reads a file as JPEG, in part if need be.

    Args:
      data: string scalar.

    Returns:
      bool scalar; False also for a JPEG that is too large.
    """
    return tf.cond(
      is_jpeg(data), lambda: self._checks(data)[1], lambda: tf.constant(False)
    )

  def _checks(self, data):
    """Reads the (height, width) of a JPEG, and whether TensorFlow can."""
    shape = tf.image.extract_jpeg_shape(data)
    size = tf.cast(shape[:2], tf.int64)
    good = tf.reduce_prod(size) <= self.max_pixels
    if self.channels == 1:
      good &= shape[2] != 4  # TensorFlow cannot make four colors gray.
    return size, good

  def _jpeg(self, data):
    size, good = self._checks(data)
    decode = functools.partial(self._decode_jpeg, data)
    whole = functools.partial(decode, 1)
    if self.wanted is None:
      return tf.cond(good, whole, lambda: self._pillow(data))
    wanted = [_MARGIN * max(side, 1) for side in self.wanted]

    def reduced():
      fractions = [functools.partial(decode, ratio) for ratio in RATIOS]
      return tf.switch_case(ratio_branch(size, wanted), fractions)

    read = lambda: tf.cond(is_huge(size), reduced, whole)
    return tf.cond(good, read, lambda: self._pillow(data))

  def _decode_jpeg(self, data, ratio):
    """Decodes a JPEG at 1 / `ratio` of its resolution."""
    channels = min(self.channels, 3)
    if self.precise or ratio > 1:
      method = "INTEGER_ACCURATE" if self.precise else ""
      image = tf.io.decode_jpeg(data, channels, ratio, dct_method=method)
    else:
      image = _decode(data, channels)
    if self.channels < 4:
      return image
    opaque = tf.fill(tf.shape(image[..., :1]), tf.constant(255, tf.uint8))
    return tf.concat([image, opaque], -1)

  def _png(self, data):
    head = tf.strings.substr(data, 0, 25)
    head = tf.cast(tf.io.decode_raw(head, tf.uint8, fixed_length=25), tf.int64)
    side = lambda i: tf.reduce_sum(head[i : i + 4] * _BIG_ENDIAN)
    good = side(16) * side(20) <= self.max_pixels
    channels = self.channels_of_file
    if channels == 4:
      # Of colors of few bits, it takes 1, 3 or 15 of 255 as fully opaque.
      good &= head[24] >= 8
    return tf.cond(
      good, lambda: _decode(data, channels), lambda: self._pillow(data)
    )

  def _other(self, data):
    def judge(data):
      return self.background is None and image_files.tensorflow_reads(
        _bytes(data), self.channels, self.max_pixels
      )

    return tf.cond(
      tf.numpy_function(judge, [data], tf.bool, stateful=False),
      lambda: _decode(data, self.channels),
      lambda: self._pillow(data),
    )

  @property
  def channels_of_file(self) -> int:
    """Number of channels to read: four to show what is behind them."""
    return self.channels if self.background is None else 4

  def _pillow(self, data):
    def read(data):
      try:
        channels = self.channels_of_file
        image = image_files.read(_bytes(data), channels, self.max_pixels)
        return image, b""
      except ValueError as e:  # TensorFlow would add a traceback.
        return np.zeros([0, 0, 0], np.uint8), str(e).encode()

    image, message = tf.numpy_function(
      read, [data], [tf.uint8, tf.string], stateful=False
    )
    if tf.executing_eagerly():
      if text := message.numpy().decode():
        raise tf.errors.InvalidArgumentError(None, None, text)
      return image
    good = tf.debugging.Assert(tf.equal(message, ""), [message])
    with tf.control_dependencies([good]):
      return tf.ensure_shape(tf.identity(image), [None, None, None])


def _bytes(data):
  """Content of a string that a NumPy function gets; an array if it is eager."""
  return data if isinstance(data, bytes) else data.item()


def _decode(data, channels):
  return tf.io.decode_image(data, channels, expand_animations=False)


def is_jpeg(data: tf.Tensor) -> tf.Tensor:
  """Tells whether a file is a JPEG, by its first bytes.

  Args:
    data: string scalar.

  Returns:
    bool scalar.
  """
  return _begins(data, b"\xff\xd8\xff")


def _begins(data, signature):
  return tf.equal(tf.strings.substr(data, 0, len(signature)), signature)


def is_huge(size: tf.Tensor) -> tf.Tensor:
  """Tells whether an image takes so much memory that a fraction is decoded.

  Args:
    size: int [2], height and width in pixels.

  Returns:
    bool scalar.
  """
  return tf.reduce_prod(tf.cast(size, tf.int64)) > HUGE_PIXELS


def ratio_branch(size: tf.Tensor, wanted: Sequence[int]) -> tf.Tensor:
  """Selects the largest of `RATIOS` that leaves the size that is wanted.

  Args:
    size: int [2], height and width in pixels.
    wanted: two integers: height and width that should be left.

  Returns:
    int32 scalar, position in `RATIOS`.
  """
  wanted = tf.constant(list(wanted), size.dtype)
  factor = tf.reduce_min(size // wanted)
  return tf.reduce_sum(tf.cast(factor >= RATIOS[1:], tf.int32))


def decode(data: bytes, **kw: Any) -> np.ndarray:
  """Reads an image file: the same pixels as those of the op `decode`.

  Args:
    data: content of the file.
    **kw: arguments of the op: `channels`, `precise`, `exif`, `background`,
      `max_pixels`; see `Decoder`.

  Returns:
    uint8 [H, W, C].

  Raises:
    ValueError: it cannot be read, or has more than `max_pixels`.
    ConfigError: an argument cannot be used.
  """
  decoder = Decoder(**kw)
  try:
    return decoder(data).numpy()
  except tf.errors.InvalidArgumentError:
    return repair(data, decoder).numpy()


def repair(data: bytes, decoder: Decoder) -> tf.Tensor:
  """Reads what TensorFlow has failed to read, or says why nobody can.

  Args:
    data: content of the file.
    decoder: what has failed.

  Returns:
    uint8 [H, W, C].

  Raises:
    ValueError: it cannot be read, or has more than `max_pixels`.
  """
  limit = image_files.limit(decoder.max_pixels)
  image = image_files.read(data, decoder.channels_of_file, limit)
  return tf.constant(
    image_files.finish(image, data, decoder.exif, decoder.background)
  )


def wanted_by(section: str | None) -> tuple[int, int] | None:
  """Finds the size to which the next op of a preprocessing string resizes.

  Args:
    section: the op that follows `decode`, such as "resize(224)"; None if there
      is none.

  Returns:
    (height, width), which the image should have at least; None if the op needs
    all of the image, or reads another entry.
  """
  try:
    name, args, kw = registry.parse_name(section or "")
    size = args[0] if args else kw.get(_SIZE_OF.get(name, ""))
    if name not in _SIZE_OF or {"key", "inkey"} & set(kw) or not size:
      return None
    height, width = utils.maybe_repeat(size, 2)
    return int(height), int(width)
  except (SyntaxError, TypeError, ValueError):
    return None  # The op itself says what is wrong with it.
