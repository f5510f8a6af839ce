"""Reads image files that TensorFlow cannot read or reads wrong, with Pillow.

`decoding.py` decides which those are. Nothing here needs TensorFlow or JAX.
Axes: H height, W width, C channels.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from PIL import Image

MAX_PIXELS = 178_956_970  # What Pillow refuses: 512 MiB of 3 bytes a pixel.
ENV = "BV_MAX_IMAGE_PIXELS"

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Pixels without programs: EPS and the like start an interpreter.
_OTHER_FORMATS = "TIFF PPM JPEG2000 AVIF TGA ICO PCX SGI QOI".split()
_COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128,) * 3}
_ORIENTATION = 0x0112  # Tag of EXIF.
# What files with an orientation contain.
_EXIF = {
  "JPEG": (b"Exif\0", b"tiff:Orientation"),
  "PNG": (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp"),
  "WEBP": (b"EXIF", b"tiff:Orientation"),
}


def format_of(data: bytes) -> str | None:
  """Tells the format of a file by its first bytes, whatever its name.

  Args:
    data: content of the file, or its beginning.

  Returns:
    One of `FORMATS`, None for all others.
  """
  if data[:3] == b"\xff\xd8\xff":
    return "JPEG"
  if data[:8] == b"\x89PNG\r\n\x1a\n":
    return "PNG"
  if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
    return "WEBP"
  if data[:6] in (b"GIF87a", b"GIF89a"):
    return "GIF"
  return "BMP" if data[:2] == b"BM" else None


def check_format(data: bytes, formats: Sequence[str]) -> None:
  """Refuses a file, which may be from a stranger, of other formats.

  Args:
    data: content of the file.
    formats: those that it may have, out of `FORMATS`.

  Raises:
    ValueError: it has another format.
  """
  if format_of(data) not in formats:
    raise ValueError(
      "There is no image in this file that can be read: it should be of the "
      f"format {', '.join(formats[:-1])} or {formats[-1]}."
    )


def limit(max_pixels: int | None = None) -> int:
  """Returns the largest number of pixels that an image may have.

  Args:
    max_pixels: what the user asks for; None for the environment variable
      `BV_MAX_IMAGE_PIXELS`, else 178,956,970.

  Returns:
    The number.

  Raises:
    ConfigError: it is not a positive integer.
  """
  where, value = "decode(max_pixels=...)", max_pixels
  if value is None:
    where, value = f"The environment variable {ENV}", os.environ.get(ENV)
    if not value:
      return MAX_PIXELS
    value = int(value) if value.isdecimal() else value
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise _config_error(
      f"{where} is {value!r}: it should be a number of pixels, such as "
      f"{MAX_PIXELS}."
    )
  return value


def _config_error(message):
  from big_vision import lookup  # Takes JAX with it.

  return lookup.ConfigError(message)


def color(background: str | int | Sequence[int]) -> tuple[int, ...]:
  """Returns the color that a config names.

  Args:
    background: "white", "black" or "gray", a brightness, or three of them (red,
      green, blue), in [0, 255].

  Returns:
    Three integers.

  Raises:
    ConfigError: it is something else.
  """
  if isinstance(background, str) and background in _COLORS:
    return _COLORS[background]
  values = background
  if isinstance(background, int):
    values = (background,) * 3
  if (
    not isinstance(values, list | tuple)
    or len(values) != 3
    or any(type(v) is not int or not 0 <= v <= 255 for v in values)
  ):
    raise _config_error(
      f"decode(background={background!r}): it should be one of "
      f"{', '.join(map(repr, _COLORS))}, or red, green and blue in [0, 255], "
      "such as (255, 255, 255)."
    )
  return tuple(values)


def channels_for_tensorflow(
  data: bytes, channels: int, max_pixels: int
) -> int | None:
  """Tells how TensorFlow reads a file that is not a JPEG right.

  It shows the indices of palettes in BMP as gray, refuses WebP of another
  number of channels, reads all frames of a GIF to show the first, and gives a
  PNG of few bits almost no opacity.

  Args:
    data: content of the file.
    channels: 0, 1, 3 or 4, as for the op `decode`.
    max_pixels: see `limit`.

  Returns:
    The number of channels for `tf.io.decode_image`, from which `finish` makes
    `channels`; None if Pillow has to read the file.
  """
  name, found, width, height = format_of(data), None, 0, 0
  if name == "WEBP" and (header := _webp_header(data)):
    width, height, alpha, animated = header
    found = None if animated else 3 + alpha
  elif name == "PNG" and len(data) > 24:
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    found = channels if bits >= 8 or channels < 4 else None
  elif name == "BMP" and len(data) > 34:
    header, width, height = struct.unpack_from("<Iii", data, 14)
    bits, compression = struct.unpack_from("<HI", data, 28)
    plain = header >= 40 and bits in (24, 32) and compression == 0
    found = (3 if channels == 1 else channels) if plain else None
  if found is None or abs(width * height) > max_pixels:
    return None
  return found


def _webp_header(data):
  """Reads (width, height, has alpha, is animated); None if it cannot."""
  chunk, bits = data[12:16], int.from_bytes(data[20:30], "little")
  if len(data) < 30:
    return None
  if chunk == b"VP8X":
    alpha, animated = bool(bits & 0x10), bool(bits & 0x02)
    side = lambda shift: (bits >> shift & 0xFFFFFF) + 1
    return side(32), side(56), alpha, animated
  if chunk == b"VP8L":
    side = lambda shift: (bits >> shift & 0x3FFF) + 1
    return side(8), side(22), bool(bits >> 36 & 1), False
  if chunk == b"VP8 ":
    return bits >> 48 & 0x3FFF, bits >> 64 & 0x3FFF, False, False
  return None


def read(data: bytes, max_pixels: int) -> Image.Image:
  """Reads an image (of an animation, the first one) with Pillow.

  Only formats that hold nothing but pixels are opened.

  Args:
    data: content of the file.
    max_pixels: see `limit`.

  Returns:
    The image in any mode that `finish` takes.

  Raises:
    ValueError: it is not an image, is damaged, or has too many pixels.
  """
  if not data:
    raise ValueError("This is not an image that can be read: it is empty.")
  name = format_of(data)
  if name == "WEBP" and (header := _webp_header(data)):
    check_size(*header[:2], max_pixels)  # Pillow makes room when it opens it.
  try:
    image = _open(data, [name] if name else _OTHER_FORMATS)
    if image is not None:
      check_size(*image.size, max_pixels)
      image.load()
      check_size(*image.size, max_pixels)  # An ICO may hold a larger PNG.
      image = _eight_bits(image)
  except TooLarge:
    raise
  except Exception as e:  # Pillow has no class for what it cannot read.
    raise _unreadable(e) from e
  if image is not None:
    return image
  beginning = re.sub(r"[^ -~]", ".", data[:12].decode("latin1"))
  raise ValueError(
    f"This is not an image that can be read: it begins with {beginning}"
  )


def _unreadable(e):
  reason = str(e).partition("\n")[0] or type(e).__name__
  return ValueError(f"This image cannot be read: {reason}")


class TooLarge(ValueError):
  """An image has more pixels than it may have."""


def check_size(width: int, height: int, max_pixels: int) -> None:
  """Refuses images with too many pixels.

  Args:
    width: of the image.
    height: of the image.
    max_pixels: see `limit`.

  Raises:
    TooLarge: it has more.
  """
  if width * height > max_pixels:
    raise TooLarge(
      f"This image has {width} x {height} = {width * height:,} pixels, at most "
      f"{max_pixels:,} can be: leave it out, make it smaller, or allow more by "
      f"decode(max_pixels={width * height}) or the environment variable {ENV}."
    )


def _open(data, names):
  """Opens a file as the first format that accepts it; None if none does.

  As `PIL.Image.open`, whose own limit has to be changed for all threads.
  """
  from PIL import Image

  Image.init()
  for name in names:
    factory, accept = Image.OPEN.get(name, (None, None))
    if factory is None:  # This Pillow does not know the format.
      continue
    accepted = accept is None or accept(data[:16])
    if accepted and not isinstance(accepted, str):  # A str is a complaint.
      try:
        return factory(io.BytesIO(data), "")
      except (SyntaxError, IndexError, TypeError, KeyError, struct.error):
        continue  # What Pillow raises for files of other formats.
  return None


def gray_of_png(image: Image.Image) -> np.ndarray | Image.Image:
  """Makes a PNG gray as TensorFlow does: by fractions, rounded down.

  Args:
    image: as `read` returns it.

  Returns:
    uint8 [H, W, 1], or the image, if that has no colors.
  """
  if image.mode in ("1", "L", "LA"):
    return image
  weights = np.array([9797, 19234, 3737], np.int32)  # Of 2^15.
  gray = np.asarray(image.convert("RGB")) @ weights
  return (gray >> 15).astype(np.uint8)[..., None]


def finish(
  image: np.ndarray | Image.Image,
  channels: int,
  background: tuple[int, ...] | None = None,
  ratio: int = 1,
) -> np.ndarray:
  """Makes an array of an image: of these channels, on a background, smaller.

  Args:
    image: uint8 [H, W, C], or of Pillow.
    channels: 1, 3 or 4; 0 for as many as the image has. With 1 and 3, alpha is
      dropped: a transparent pixel has the color that is stored for it.
    background: what is seen through transparent pixels; None drops alpha.
    ratio: both sides become 1 / `ratio` as long, rounded up: each pixel is the
      mean of so many squared.

  Returns:
    uint8 [H / ratio, W / ratio, channels].

  Raises:
    ValueError: it cannot be converted.
  """
  if isinstance(image, np.ndarray):
    if background is not None and image.shape[-1] != 4:
      background = None
    if background is None and channels in (0, image.shape[-1]) and ratio == 1:
      return image
    height, width = image.shape[:2]
    mode = _mode(_pillow(image[:1]), channels)
    rows_of = lambda top, end: _pillow(image[top:end])
  else:
    width, height = image.size
    mode = _mode(image, channels)
    rows_of = lambda top, end: image.crop((0, top, width, end))
  # Pillow would need several copies of the image, of 4 bytes a pixel each.
  step = max(1, (1 << 20) // (width * ratio)) * ratio
  strips = (
    _strip(rows_of(top, min(top + step, height)), mode, background, ratio)
    for top in range(0, height, step)
  )
  try:
    first = next(strips)
    out = np.empty([-(-height // ratio), *first.shape[1:]], np.uint8)
    out[: len(first)] = first
    for i, strip in enumerate(strips, 1):
      begin = i * len(first)
      out[begin : begin + len(strip)] = strip
  except ValueError as e:  # Of Pillow: there is no way between two modes.
    raise _unreadable(e) from e
  return out


def _pillow(pixels):
  """Wraps an array [H, W, C] as an image of Pillow."""
  from PIL import Image

  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _strip(image, mode, background, ratio):
  """Turns some rows of an image into an array, see `finish`."""
  if background is not None:
    pixels = np.asarray(image.convert("RGBA"))
    image = _pillow(_on_background(pixels, np.array(background, np.uint16)))
  image = image.convert(mode)
  if ratio > 1:
    image = image.reduce(ratio)
  pixels = np.asarray(image)
  return pixels if pixels.ndim == 3 else pixels[..., None]


def _on_background(pixels, background):
  """Mixes [H, W, 4] with a color."""
  pixels, alpha = pixels[..., :3], pixels[..., 3:]
  if (alpha == 255).all():
    return pixels
  mixed = pixels.astype(np.uint16) * alpha + background * (255 - alpha)
  return ((mixed + 127) // 255).astype(np.uint8)  # At most 65152: it fits.


def _eight_bits(image):
  """Keeps the upper 8 of 16 bits."""
  from PIL import Image

  deep = image.mode.startswith("I;16") or (
    # Integers of 32 bits up to version 11 of Pillow.
    image.mode == "I" and image.format in ("PNG", "PPM")
  )
  if deep:
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  if image.mode in ("I", "F"):
    raise ValueError(
      f"its pixels are numbers of 32 bits (Pillow's mode {image.mode!r}), whose "
      "range is not known: save it with 8 or 16 bits"
    )
  return image


def _mode(image, channels):
  """Returns the mode of Pillow for so many channels."""
  if channels:
    return {1: "L", 3: "RGB", 4: "RGBA"}[channels]
  if image.mode in ("1", "L"):
    return "L"
  if image.mode in ("LA", "RGBA"):
    return image.mode
  alpha = image.mode in ("PA", "La", "RGBa") or (
    image.mode == "P"
    and "transparency" in image.info
    and image.format != "GIF"  # TensorFlow shows it without.
  )
  return "RGBA" if alpha else "RGB"


def turn(pixels: np.ndarray, data: bytes) -> np.ndarray:
  """Turns and mirrors an image as the camera's EXIF data say.

  Args:
    pixels: uint8 [H, W, C] of a file.
    data: content of the file.

  Returns:
    uint8 [H, W, C], of other sides if it was turned on its side.
  """
  orientation = _orientation(data)
  if orientation in (5, 6, 7, 8):
    pixels = pixels.swapaxes(0, 1)
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  return np.ascontiguousarray(pixels)


def _orientation(data):
  """Reads the orientation of EXIF, 1 to 8; 1 if there is none."""
  name = format_of(data)
  # Most files have none, and to search is faster than to parse.
  if name and not any(mark in data for mark in _EXIF.get(name, ())):
    return 1
  try:
    image = _open(data, [name] if name else _OTHER_FORMATS)
    # Pillow turns TIFF whenever it reads it: the tag is its own.
    if image is None or image.format == "TIFF":
      return 1
    return int(image.getexif().get(_ORIENTATION, 1))
  except Exception:  # Damaged EXIF data: the image is as good as without.
    return 1
