"""Renders text as images, which CLIPPO reads: `render_unifont`.

References:
  Tschannen et al. 2022, CLIPPO, https://arxiv.org/abs/2212.08045

Shapes: `n` glyphs, `S` side of the image, `F` size of the font, `R` rows of
text.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from absl import logging

import big_vision.pp.archive.randaug  # noqa: F401 (CLIPPO names no other module)
from big_vision.pp.proj.clippo import unifont
from big_vision.pp.registry import Registry
from big_vision.pp.types import TensorFn
from big_vision.pp.utils import InKeyOutKey
from big_vision.tf import tf


@Registry.register("preprocess_ops.render_unifont")
@InKeyOutKey(indefault="texts", outdefault="image")
def get_pp_render_text(
  image_size: int,
  font_size: int = 16,
  max_chars: int | None = 768,
  background_brightness: float | Sequence[float] = 127,
  text_brightness: float | Sequence[float] = 0,
  lower: bool = True,
  monospace: bool = False,
  spacing: int = 1,
  min_width: int = 4,
  resize_method: str = "area",
  *,
  font: str | None = None,
) -> TensorFn:
  """Renders a text with the glyphs of GNU Unifont, from left to right.

  Rows break anywhere, not only between words. The image cuts off text that does
  not fit, and characters without a glyph are blank.

  Args:
    image_size: int, side of the image, pixels; larger than `font_size`.
    font_size: int, height of a row, pixels. Other sizes than 16 resize and blur
      the glyphs.
    max_chars: int, uses only so many characters of a text; None or 0 for all.
    background_brightness: number in [0, 255], or three for a color.
    text_brightness: number in [0, 255], or three for a color.
    lower: bool, whether to turn A to Z into lower case first.
    monospace: bool, whether each glyph takes `font_size` pixels; otherwise
      blank columns at its sides are removed.
    spacing: int, blank columns to leave on the left of each glyph; on the right
      it is one less. Not for `monospace`.
    min_width: int, least width of a glyph, pixels. Not for `monospace`.
    resize_method: str, one of `tf.image.ResizeMethod`.
    font: str, which glyphs: see the top of `unifont.py`.

  Returns:
    `text -> uint8 [image_size, image_size, 3]`; text is a string tensor of any
    shape (UTF-8), of which the first is rendered, no text as the empty one.

  Raises:
    ValueError: a size, a brightness or the resize method is not possible, or
      the font is unknown.
  """
  size, background, ink = image_size, background_brightness, text_brightness
  _check_sizes(size, font_size, max_chars, spacing, min_width)
  colors = _colors(background, ink)
  glyphs = unifont.get(font)
  if font_size == unifont.HEIGHT:
    lay_out = _original(glyphs, monospace, spacing, min_width)
    paint = _paint_bits(size, colors)
  else:
    logging.warning(
      "render_unifont: font_size=%s is not %s, glyphs will be resized.",
      font_size,
      unifont.HEIGHT,
    )
    resize = _resizer(font_size, resize_method)
    lay_out = _resized(glyphs, resize, monospace, spacing, min_width)
    paint = _paint(size, colors)

  def render(text):
    text = _first(text)
    if lower:
      text = tf.strings.lower(text)
    code_points = tf.strings.unicode_decode(text, "UTF-8")
    if max_chars:
      code_points = code_points[:max_chars]
    last = len(glyphs.index) - 1
    numbers = tf.gather(_tensors(glyphs)[0], tf.minimum(code_points, last))
    if glyphs.only_ascii:
      _warn_of_blanks(code_points, numbers)
    columns, begin, width = lay_out(numbers)
    return paint(columns, _place(begin, width, size, font_size))

  return render


def _check_sizes(image_size, font_size, max_chars, spacing, min_width):
  """Raises ValueError for impossible sizes."""
  for name, value, low in (
    ("font_size", font_size, 1),
    ("image_size", image_size, 1),
    ("max_chars", max_chars or 0, 0),
    ("spacing", spacing, 0),
    ("min_width", min_width, 0),
  ):
    if not isinstance(value, int) or value < low:
      raise ValueError(
        f"render_unifont: {name}={value!r} must be an integer of at least "
        f"{low}."
      )
  if image_size <= font_size:
    raise ValueError(
      f"render_unifont: image_size={image_size} must be larger than font_size="
      f"{font_size}, which a glyph may be wide."
    )


def _colors(background, ink):
  """Converts two brightnesses to float32 [2, 3]."""
  for name, value in (("background", background), ("text", ink)):
    value = np.asarray(value)
    if value.shape not in ((), (3,)) or np.any((value < 0) | (value > 255)):
      raise ValueError(
        f"render_unifont: {name}_brightness={value.tolist()!r} must be a "
        "number in [0, 255], or three of them."
      )
  both = [np.broadcast_to(np.float32(c), [3]) for c in (background, ink)]
  return np.stack(both)


@functools.cache  # All ops share the tables.
def _tensors(glyphs):
  """Makes (index int32 [M], columns int64 [N * 16, 2]), see `unifont.Glyphs`.

  A column is 16 bytes, each 0 or 1.
  """
  with tf.init_scope():
    columns = glyphs.ink.reshape(-1, unifont.HEIGHT).view(np.int64)
    return tf.constant(glyphs.index), tf.constant(columns)


def _original(glyphs, monospace, spacing, min_width):
  """Makes the layout of glyphs of their original size.

  Returns:
    `numbers int32 [n] -> (columns, begin, width)`: columns of glyphs, the first
    of which is blank; the number of the first column of each glyph of the text,
    int32 [n]; and how many columns it shows, int32 [n].
  """
  columns = _tensors(glyphs)[1]
  with tf.init_scope():
    begin, width = _extent(
      tf.constant(glyphs.ink), monospace, spacing, min_width
    )
    begin += tf.range(len(glyphs.ink)) * unifont.HEIGHT
    table = tf.stack([begin, width], 1)

  def lay_out(numbers):
    begin, width = tf.unstack(tf.gather(table, numbers), axis=1)
    return columns, begin, width

  return lay_out


def _resized(glyphs, resize, monospace, spacing, min_width):
  """Makes the layout of resized glyphs, see `_original`."""
  columns = _tensors(glyphs)[1]

  def lay_out(numbers):
    # The first one is blank.
    numbers = tf.concat([[0], numbers], 0)
    ink = tf.gather(tf.reshape(columns, [-1, unifont.HEIGHT, 2]), numbers)
    ink = tf.reshape(tf.bitcast(ink, tf.uint8), [-1, *[unifont.HEIGHT] * 2])
    ink = resize(ink)
    font_size = ink.shape[1]
    begin, width = _extent(ink, monospace, spacing, min_width)
    begin += tf.range(tf.size(numbers)) * font_size
    return tf.reshape(ink, [-1, font_size]), begin[1:], width[1:]

  return lay_out


def _resizer(font_size, method):
  """Makes `uint8 [n, 16, 16] -> float32 [n, F, F]`, both column by column."""
  turn = functools.partial(tf.transpose, perm=[0, 2, 1])

  def resize(ink):
    rows = turn(tf.cast(ink, tf.float32))[..., None]
    size = (font_size, font_size)
    return turn(tf.image.resize(rows, size, method, antialias=True)[..., 0])

  with tf.init_scope():  # Raises errors of unknown methods now.
    resize(tf.zeros([1, unifont.HEIGHT, unifont.HEIGHT], tf.uint8))
  return resize


def _first(texts):
  """Returns the first of any number of texts, a string scalar."""
  if isinstance(texts, tf.RaggedTensor):
    texts = texts.flat_values
  texts = tf.convert_to_tensor(texts, tf.string)
  if texts.shape.rank == 0:
    return texts
  return tf.concat([tf.reshape(texts, [-1])[:1], [""]], 0)[0]


def _warn_of_blanks(code_points, numbers):
  """Logs, once, that there are characters without a glyph."""

  def warn():
    first = tf.boolean_mask(code_points, numbers == 0)[0]
    # Python holds up other threads, so this runs only for such characters.
    tf.numpy_function(_log_blank, [first], [])
    return True

  tf.cond(tf.reduce_all(numbers > 0), lambda: False, warn)


def _log_blank(code_point):
  logging.log_first_n(
    logging.WARNING,
    "render_unifont: U+%04X, and whatever else is not ASCII, is blank. %s.",
    1,
    code_point,
    unifont.HOW_TO_GET,
  )


def _extent(ink, monospace, spacing, min_width):
  """Computes which columns of each glyph to show.

  Args:
    ink: [n, F, F], column by column.
    monospace: bool, see `get_pp_render_text`.
    spacing: int, see `get_pp_render_text`.
    min_width: int, see `get_pp_render_text`.

  Returns:
    (begin, width): int32 [n] each; the columns begin, ..., begin + width - 1.
  """
  font_size = ink.shape[1]
  filled = tf.reduce_any(ink > 0, 2)
  if monospace:
    zero = tf.zeros_like(filled[:, 0], tf.int32)
    return zero, zero + font_size
  position = tf.range(font_size)[None]
  last = tf.reduce_max(tf.where(filled, position, 0), 1)
  # The remainder is 0 for blank glyphs.
  first = tf.reduce_min(tf.where(filled, position, font_size), 1) % font_size
  begin = tf.maximum(first - spacing, 0)
  end = tf.maximum(last + spacing, begin + min_width)
  return begin, tf.minimum(end, font_size) - begin


def _place(begin, width, size, font_size):
  """Computes which column of a glyph each column of each row of text shows.

  A glyph is in the row `floor(e / (S - w))`, where e is the sum of the widths
  up to and with its own, and w the largest width. So rows fit into the image.

  Args:
    begin: int32 [n], number of the first column of each glyph.
    width: int32 [n], of each glyph.
    size: int, S.
    font_size: int, F.

  Returns:
    int32 [R, S], numbers of columns, 0 where there is none.
  """
  num_rows = -(-size // font_size)
  end = tf.cumsum(width)  # On a strip with all glyphs side by side.
  usable = size - tf.reduce_max(tf.concat([width, [0]], 0))
  row = tf.cast(end, tf.float32) / tf.cast(usable, tf.float32)
  row = tf.cast(row, tf.int32)  # Rounded down.
  first = tf.searchsorted(row, tf.range(num_rows + 1))  # Glyph of each row.
  start = tf.gather(
    tf.concat([[0], end], 0), first
  )  # Of each row on the strip.

  strip = tf.ragged.range(begin, begin + width).values[: start[-1]]
  rows = tf.RaggedTensor.from_row_splits(strip, start, validate=False)
  return rows.to_tensor(0, shape=[num_rows, size])


def _paint(size, colors):
  """Makes images of columns of any values in [0, 1].

  Args:
    size: int, S.
    colors: float32 [2, 3], background and text.

  Returns:
    `(columns [m, F], which int32 [R, S]) -> uint8 [S, S, 3]`.
  """
  is_gray = (colors == colors[:, :1]).all()
  background, text = colors[:, :1] if is_gray else colors  # [K], K is 1 or 3.

  def paint(columns, which):
    columns = tf.cast(columns, tf.float32)[..., None]  # [m, F, 1]
    # Clipped, because some ways of resizing go beyond [0, 1].
    color = columns * (text - background) + background
    color = tf.cast(tf.clip_by_value(color, 0, 255), tf.uint8)
    rows = tf.transpose(tf.gather(color, which), [0, 2, 1, 3])  # [R, F, S, K]
    rows = tf.reshape(rows, [-1, size, len(text)])[:size]
    return tf.broadcast_to(rows, [size, size, 3])

  return paint


def _paint_bits(size, colors):
  """Makes images of columns of 16 bytes that are 0 or 1.

  The same as `_paint`, but several times as fast: eight pixels at once.

  Args:
    size: int, S.
    colors: float32 [2, 3], background and text.

  Returns:
    `(columns int64 [m, 2], which int32 [R, S]) -> uint8 [S, S, 3]`.
  """
  # What each of the bytes looks like, the highest bit first.
  bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
  pixels = colors.astype(np.uint8)[bits].reshape(256, -1)  # [256, 8 * 3]
  num_bytes = -(-size // 8)
  weights = 1 << np.arange(7, -1, -1, dtype=np.int64)[:, None]  # [8, 1]

  def paint(columns, which):
    which = tf.pad(which, [[0, 0], [0, num_bytes * 8 - size]])
    which = tf.reshape(which, [-1, num_bytes, 8])
    # [R, S / 8, 8, 2]; no sum of eight neighbors exceeds its byte.
    packed = tf.reduce_sum(tf.gather(columns, which) * weights, 2)
    packed = tf.reshape(tf.bitcast(packed, tf.uint8), [-1, num_bytes, 16])
    packed = tf.transpose(
      tf.cast(packed, tf.int32), [0, 2, 1]
    )  # [R, 16, S / 8]
    image = tf.reshape(tf.gather(pixels, packed), [-1, num_bytes * 8, 3])
    return image[:size, :size]

  return paint
