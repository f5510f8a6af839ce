"""Reads JPEG with Pillow as TensorFlow reads it by default, pixel by pixel.

TensorFlow asks libjpeg for its fast transform, Pillow for the accurate one: one
level of 255 apart on average, in places fifteen. Pillow has the fast transform,
too, for drafts, in which colors of half resolution are not smoothed. Here they are
smoothed afterwards, with the integers of libjpeg.

Axes: H height, W width, C channels.
"""

from __future__ import annotations

import io

import numpy as np

_FAST_DRAFT = (1, 1)  # No smaller; a draft.


def read(data: bytes, channels: int, max_pixels: int) -> np.ndarray | None:
  """Reads a JPEG as `tf.io.decode_jpeg` does.

  Args:
    data: content of the file.
    channels: 0 (as many as there are), 1, 3 or 4, which is as 3.
    max_pixels: of larger images, nothing is read.

  Returns:
    uint8 [H, W, channels]; None for the rare kinds whose colors are not stored as
    brightness and two differences, such as CMYK; and for what cannot be read.
  """
  from PIL import JpegImagePlugin

  try:
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data), "")
    kind = _sampling(image)
    if kind is None or image.width * image.height > max_pixels:
      return None
    if image.mode != "L":
      image.draft("L" if channels == 1 else "YCbCr", None)
    # Pillow reads the attribute when it starts the decoder.
    image.decoderconfig = _FAST_DRAFT
    y, *differences = (np.asarray(plane) for plane in image.split())
  except Exception:  # Whoever reads it with Pillow is told why that fails.
    return None
  if not differences:
    return np.repeat(y[..., None], 3 if channels > 1 else 1, axis=-1)
  across, down = kind
  cb, cr = (
    _smooth(x[::down, ::across], y.shape, down, across) for x in differences
  )
  return _rgb(y, cb, cr)


def _sampling(image):
  """Finds how many pixels share a color: (across, down); None for others."""
  if image.mode == "L":
    return 1, 1
  layers = image.layer  # Of each: identifier, samples across, samples down.
  if image.mode != "RGB" or len(layers) != 3:
    return None
  is_rgb = [layer[0] for layer in layers] == list(b"RGB")
  if is_rgb or image.info.get("adobe_transform", 1) != 1:
    return None
  first, *rest = [tuple(layer[1:3]) for layer in layers]
  usual = max(first) <= 2 and rest == [(1, 1)] * 2
  return first if usual else None


def _smooth(x, size, down, across):
  """Brings differences to the resolution of the brightness: uint8 [*size].

  The nearer of two neighbors counts three times. What is half of the result is
  rounded down at one of two pixels and up at the other.
  """
  height, width = size
  if across == 2 and x.shape[1] <= 2:  # So narrow, libjpeg only repeats.
    return x.repeat(down, axis=0).repeat(across, axis=1)[:height, :width]
  if (across, down) == (1, 1):
    return x
  x = x.astype(np.int16)
  if down == 2:
    x = _between(x)
  if across == 2:
    x = _between(x.T).T
  first, second = (8, 7) if down == across else (1, 2)
  axis = 1 if across == 2 else 0
  even, odd = (np.moveaxis(x, axis, 0)[i::2] for i in (0, 1))
  even += first
  odd += second
  shift = 4 if down == across else 2
  return np.right_shift(x[:height, :width], shift).astype(np.uint8)


def _between(x):
  """Doubles the number of rows: three times the nearer one and the next one."""
  out = np.empty([2 * len(x), *x.shape[1:]], x.dtype)
  triple = 3 * x
  np.add(triple[1:], x[:-1], out=out[2::2])
  np.add(triple[:-1], x[1:], out=out[1:-1:2])
  out[0], out[-1] = 4 * x[0], 4 * x[-1]
  return out


def _table(factor, rounding=0):
  """Computes what a difference of 0 to 255 adds, times 2^16."""
  value = np.arange(-128, 128, dtype=np.int32)
  return value * round(factor * 65536) + rounding


_HALF = 1 << 15
_RED = (_table(1.402, _HALF) >> 16).astype(np.int16)
_BLUE = (_table(1.772, _HALF) >> 16).astype(np.int16)
_GREEN_OF_CR = -_table(0.71414)
_GREEN_OF_CB = -_table(0.34414) + _HALF


def _rgb(y, cb, cr):
  """Converts brightness and differences, each [H, W], to uint8 [H, W, 3]."""
  out = np.empty([*y.shape, 3], np.uint8)
  rows = max(1, (1 << 16) // y.shape[1])  # What stays in the cache.
  for top in range(0, len(y), rows):
    part = slice(top, top + rows)
    light, b, r = y[part].astype(np.int16), cb[part], cr[part]
    green = _GREEN_OF_CB.take(b)
    green += _GREEN_OF_CR.take(r)
    green >>= 16
    for i, add in enumerate((_RED.take(r), green, _BLUE.take(b))):
      np.clip(light + add, 0, 255, out=out[part, :, i], casting="unsafe")
  return out
