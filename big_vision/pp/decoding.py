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
from big_vision.pp import fast_jpeg, image_files, raw_images, registry, utils
from big_vision.tf import tf

# JPEGs above this many pixels are decoded at a fraction of their resolution if
# that leaves `_MARGIN` times the sides that are wanted.
HUGE_PIXELS = 1 << 26
_MARGIN = 2
_MOST_JPEG_PIXELS = 1 << 27  # TensorFlow stops at 2^29 bytes; CMYK has 4 each.
RATIOS = (1, 2, 4, 8)
# Ops that keep the picture as a whole -> their argument for its size.
_SIZE_OF = {
  "resize": "size",
  "resize_small": "smaller_size",
  "resize_long": "longer_size",
}
# The first four bytes of a PNG and the first three of a JPEG, as int32.
_PNG, _JPEG = (
  int.from_bytes(b, signed=True) for b in (b"\x89PNG", b"\xff\xd8\xff")
)


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
    size, is_jpeg, is_png = read_header(data)
    num_pixels = tf.reduce_prod(size)
    finishes = self.exif or self.background is not None  # That needs copies.
    most = image_files.limit(self.max_pixels)
    most_png = min(most, HUGE_PIXELS) if finishes else most
    most_jpeg = HUGE_PIXELS if finishes or self.wanted else _MOST_JPEG_PIXELS
    plain = (is_jpeg & (num_pixels <= min(most, most_jpeg))) | (
      is_png & (num_pixels <= most_png)
    )
    if self.channels == 1:
      plain &= ~(is_jpeg & has_four_colors(data, is_jpeg))
    if self.channels == 4:
      plain &= is_png
    if 4 in (self.channels, self._channels):
      plain &= is_jpeg | (bits_of_png(data) >= 8)
    # `read` would do for all, but takes a call of Python for each image.
    image = tf.cond(
      plain,
      lambda: self._plain(data, is_jpeg),
      lambda: self._other(data, most),
    )
    return tf.ensure_shape(image, [None, None, self.channels or None])

  @property
  def _channels(self):
    """Number of channels to read: four to show what is behind them."""
    return self.channels if self.background is None else 4

  def _plain(self, data, is_jpeg):
    if self.background is None:
      image = self._decode(data, self.channels)
    else:
      image = tf.cond(
        is_jpeg,
        lambda: self._decode(data, 3),
        lambda: self._decode(data, 4),
      )
    if not self.exif and self.background is None:
      return image
    return call(self._finish, [image, data], [tf.uint8], [[None] * 3])[0]

  def _other(self, data, max_pixels):
    read = lambda: call(self.read, [data], [tf.uint8], [[None] * 3])[0]
    if self.channels not in (0, 3):
      return read()
    is_raw = raw_images.is_good(data, max_pixels)
    return tf.cond(is_raw, lambda: raw_images.pixels(data), read)

  def _decode(self, data, channels, ratio=1):
    if ratio > 1 or (self.precise and channels < 4):
      method = "INTEGER_ACCURATE" if self.precise else ""
      return tf.io.decode_jpeg(data, channels, ratio, dct_method=method)
    return tf.io.decode_image(data, channels, expand_animations=False)

  def _finish(self, image, data, ratio=1):
    channels, background = self.channels, self.background
    image = image_files.finish(image, channels, background, ratio)
    turns = self.exif and not raw_images.is_raw(data)
    return [image_files.turn(image, data) if turns else image]

  def read(self, data: bytes) -> list[np.ndarray]:
    """Decodes one file outside of a graph; TensorFlow's decoders go first.

    Args:
      data: content of the file.

    Returns:
      List of one array, uint8 [H, W, C].

    Raises:
      ValueError: it cannot be read, or has more than `max_pixels`.
    """
    max_pixels, channels = image_files.limit(self.max_pixels), self._channels
    name, image, damaged = image_files.format_of(data), None, False
    # The fourth byte of a pixel of BMP may be anything, and is rarely alpha.
    unsure = name == "BMP" and self.background is not None
    try:
      if name == "JPEG":
        image = self._read_jpeg(data, max_pixels)
      elif raw_images.is_raw(data):
        image = raw_images.read(data, max_pixels)
      elif not unsure:
        num = image_files.channels_for_tensorflow(data, channels, max_pixels)
        if num is not None:
          image = tf.io.decode_image(data, num, expand_animations=False)
          image = np.asarray(image)
    except tf.errors.InvalidArgumentError:
      damaged = name == "PNG"  # Pillow ignores some checksums, the op does not.
    if image is None:
      # Pillow can read it, or says better why it cannot be read.
      image = image_files.read(data, max_pixels)
    if damaged:
      raise ValueError("This image cannot be read: the PNG is damaged.")
    size = (
      image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]
    )
    return self._finish(image, data, 1 if name == "JPEG" else self._ratio(size))

  def read_with_pillow(self, data: bytes) -> np.ndarray:
    """Decodes one file without TensorFlow, to the pixels that `read` returns.

    They differ, by few levels, for JPEG of rare kinds (see `fast_jpeg`) and of
    more than `HUGE_PIXELS`.

    Args:
      data: content of the file.

    Returns:
      uint8 [H, W, C].

    Raises:
      ValueError: it cannot be read, or has more than `max_pixels`.
    """
    max_pixels, channels = image_files.limit(self.max_pixels), self._channels
    name, image = image_files.format_of(data), None
    if name == "JPEG" and not self.precise:
      most = min(max_pixels, HUGE_PIXELS)
      image = fast_jpeg.read(data, channels, most)
    if raw_images.is_raw(data):
      image = raw_images.read(data, max_pixels)
    if image is None:
      image = image_files.read(data, max_pixels)
      if name == "PNG" and channels == 1:
        image = image_files.gray_of_png(image)
    size = (
      image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]
    )
    return self._finish(image, data, self._ratio(size))[0]

  def finish(self, image: np.ndarray) -> np.ndarray:
    """Gives pixels the channels, and the background, of the files' ones.

    Args:
      image: uint8 [H, W, C], or of Pillow.

    Returns:
      uint8 [H, W, C].
    """
    return image_files.finish(image, self.channels, self.background)

  def _ratio(self, size):
    """Selects the fraction of its resolution that a large image needs."""
    if not self.wanted or size[0] * size[1] <= HUGE_PIXELS:
      return 1
    sides = (max(self.wanted),) * 2 if self.exif else self.wanted
    return largest_ratio(size, [_MARGIN * side for side in sides])

  def check_jpeg(self, data: bytes) -> None:
    """Refuses a JPEG that is too large.

    Args:
      data: content of the file.

    Raises:
      ValueError: it has more than `max_pixels`.
    """
    height, width = tf.image.extract_jpeg_shape(data)[:2].numpy().tolist()
    image_files.check_size(width, height, image_files.limit(self.max_pixels))

  def tensor(self, data: bytes) -> tf.Tensor:
    """Decodes one file now, without a copy of large images.

    Args:
      data: content of the file.

    Returns:
      uint8 [H, W, C].

    Raises:
      ValueError: it cannot be read, or has more than `max_pixels`.
    """
    try:
      return self(data)
    except tf.errors.InvalidArgumentError:
      return tf.convert_to_tensor(self.read(data)[0])

  def _read_jpeg(self, data, max_pixels):
    """Decodes a JPEG; None if it is too large."""
    height, width, colors = tf.image.extract_jpeg_shape(data).numpy().tolist()
    if height * width > max_pixels:
      return None
    # TensorFlow makes neither gray of CMYK nor four channels.
    to_convert = self.channels == 4 or (colors == 4 and self.channels == 1)
    channels = 3 if to_convert else self.channels
    return np.asarray(
      self._decode(data, channels, self._ratio((height, width)))
    )


def read_header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Reads what the header of a JPEG or PNG says.

  Args:
    data: string scalar.

  Returns:
    (int64 [2], height and width in pixels; bool [], whether it is a JPEG; bool
    [], whether it is a PNG). The size is meaningless if it is neither.

  Raises:
    tf.errors.InvalidArgumentError: (when it is run) it is a broken JPEG.
  """
  words = _words(data)
  is_jpeg, is_png = tf.equal(words[0] // 256, _JPEG), tf.equal(words[0], _PNG)
  shape = _jpeg_shape(data, is_jpeg)
  size = tf.where(is_jpeg, shape[:2], words[5:3:-1])
  return tf.cast(size, tf.int64), is_jpeg, is_png


def is_jpeg(data: tf.Tensor) -> tf.Tensor:
  """Tells whether a file is a JPEG.

  Args:
    data: string scalar.

  Returns:
    bool scalar.
  """
  return tf.equal(tf.strings.substr(data, 0, 3), b"\xff\xd8\xff")


def _words(data):
  """The first 28 bytes as numbers, or fewer and zeros: int32 [7]."""
  return tf.io.decode_raw(data, tf.int32, little_endian=False, fixed_length=28)


def _jpeg_shape(data, is_jpeg):
  # Of other files, the header of some JPEG; a condition would take longer.
  return tf.image.extract_jpeg_shape(tf.where(is_jpeg, data, _any_jpeg()))


@functools.cache
def _any_jpeg():
  """Makes a JPEG of one pixel."""
  with tf.init_scope():
    return tf.io.encode_jpeg(np.zeros([1, 1, 1], np.uint8)).numpy()


def has_four_colors(data: tf.Tensor, is_jpeg: tf.Tensor) -> tf.Tensor:
  """Tells whether a JPEG is CMYK, which TensorFlow cannot make gray.

  Args:
    data: string scalar.
    is_jpeg: bool scalar.

  Returns:
    bool scalar.
  """
  return tf.equal(_jpeg_shape(data, is_jpeg)[2], 4)


def bits_of_png(data: tf.Tensor) -> tf.Tensor:
  """Reads the bits per color of a PNG.

  Of less than 8, TensorFlow makes the alpha of opaque pixels 1, 3 or 15.

  Args:
    data: string scalar.

  Returns:
    int32 scalar.
  """
  return _words(data)[6] // (1 << 24)


def largest_ratio(size: Sequence[int], wanted: Sequence[int]) -> int:
  """Selects the fraction of its resolution to decode a JPEG at.

  Args:
    size: height and width in pixels.
    wanted: height and width that should be left, at least.

  Returns:
    One of `RATIOS`.
  """
  factor = min(s // max(w, 1) for s, w in zip(size, wanted, strict=True))
  return max(ratio for ratio in RATIOS if ratio == 1 or ratio <= factor)


def call(
  fn: Any, args: Sequence[Any], dtypes: Sequence[Any], shapes: Sequence[Any]
) -> list[tf.Tensor]:
  """Calls a function of NumPy in a graph, or now; its errors are one line.

  Args:
    fn: maps arrays, and bytes for strings, to a list of arrays; may raise
      ValueError.
    args: tensors.
    dtypes: of the results.
    shapes: of the results, as far as they are known.

  Returns:
    List of tensors.

  Raises:
    tf.errors.InvalidArgumentError: (when it is run) with the message of the
      ValueError.
  """

  def run(*args):
    try:
      return [*fn(*map(_plain_bytes, args)), b""]
    except ValueError as e:  # TensorFlow would add its traceback.
      nothing = zip(shapes, dtypes, strict=True)
      nothing = [np.zeros([0] * len(s), t.as_numpy_dtype) for s, t in nothing]
      return [*nothing, str(e).encode()]

  *results, message = tf.numpy_function(
    run, args, [*dtypes, tf.string], stateful=False
  )
  if tf.executing_eagerly():
    if text := message.numpy().decode():
      raise tf.errors.InvalidArgumentError(None, None, text)
    return results
  good = tf.debugging.Assert(tf.equal(message, ""), [message])
  with tf.control_dependencies([good]):
    return [
      tf.ensure_shape(tf.identity(x), shape)
      for x, shape in zip(results, shapes, strict=True)
    ]


def _plain_bytes(x):
  """Content of a string; outside of graphs TensorFlow puts it into an array."""
  return x.item() if isinstance(x, np.ndarray) and x.dtype.kind == "O" else x


def decode(data: bytes, **kw: Any) -> np.ndarray:
  """Reads an image file: the same pixels as those of the op `decode`.

  Args:
    data: content of the file.
    **kw: `channels`, `precise`, `exif`, `background`, `max_pixels` of `Decoder`.

  Returns:
    uint8 [H, W, C].

  Raises:
    ValueError: it cannot be read, or has more than `max_pixels`.
    ConfigError: an argument cannot be used.
  """
  return Decoder(**kw).read(data)[0]


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
