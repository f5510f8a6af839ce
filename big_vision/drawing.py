"""Draws label maps, depth and colors of pixels as pictures.

All pictures are uint8 [H, W, 3]. Shapes: H height, W width, in pixels.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision import lookup, segment_colors

# From far to near: each step is lighter than the one before.
_DEPTH_COLORS = (
  (12, 8, 38), (45, 20, 86), (86, 24, 110), (128, 38, 112), (168, 52, 100),
  (204, 72, 78), (230, 103, 52), (246, 144, 32), (250, 190, 58), (250, 232, 150),
)  # fmt: skip
_NOTHING = (0, 0, 0)  # Pixels without a class, or whose depth is unknown.
_GAP = 4  # White pixels between pictures.
_LEAST = 128  # Smaller pictures of a grid are enlarged to at least this side.


def draw(
  labels: Any, max_depth: float | None = None, boundaries: bool = True
) -> np.ndarray:
  """Draws what a task predicts, or its ground truth.

  Args:
    labels: int [H, W, 2] (class and instance), `{"depth": [H, W]}` in meters, or
      `{"color": [H, W, 3]}` in [-1, 1].
    max_depth: see `draw_depth`.
    boundaries: see `draw_panoptic`.

  Returns:
    The picture.

  Raises:
    ConfigError: they are nothing of this.
  """
  if isinstance(labels, Mapping) and "depth" in labels:
    return draw_depth(labels["depth"], max_depth)
  if isinstance(labels, Mapping) and "color" in labels:
    return to_uint8(labels["color"])
  if not isinstance(labels, Mapping):
    labels = np.asarray(labels)
    if labels.ndim == 3 and labels.shape[2] == 2:
      return draw_panoptic(labels, boundaries)
    found = f"{labels.dtype} {list(labels.shape)}"
  else:
    found = f"a dict of {', '.join(map(repr, labels))}"
  raise lookup.ConfigError(
    "Labels to draw should be int [height, width, 2], {'depth': ...} or "
    f"{{'color': ...}}, got {found}."
  )


def draw_panoptic(labels: np.ndarray, boundaries: bool = True) -> np.ndarray:
  """Draws classes as colors and instances as shades of them.

  Args:
    labels: int [H, W, 2], class and instance; class 0 or less is black.
    boundaries: whether pixels at the edge of an instance are white.

  Returns:
    The picture.
  """
  labels = np.asarray(labels)
  pairs, index = np.unique(labels.reshape(-1, 2), axis=0, return_inverse=True)
  colors = [segment_color(int(c), int(i)) for c, i in pairs]
  shape = labels.shape[:2]
  out = np.array(colors, np.uint8)[index.reshape(-1)].reshape(*shape, 3)
  if boundaries:
    out[edges(index.reshape(shape)) & (labels[..., 0] > 0)] = 255
  return out


def segment_color(label: int, instance: int = 0) -> tuple[int, int, int]:
  """Chooses the color of a segment: that of its class, darkened by instance.

  Args:
    label: number of the class, from 1.
    instance: number of the instance.

  Returns:
    (red, green, blue), each at most 255.
  """
  if label <= 0:
    return _NOTHING
  # Multiples of the golden ratio never come close to each other.
  shade = 0.55 + 0.45 * ((0.5 + instance * (math.sqrt(5) - 1) / 2) % 1)
  r, g, b = (round(shade * x) for x in segment_colors.of_class(label - 1))
  return r, g, b


def edges(segments: np.ndarray, both: bool = False) -> np.ndarray:
  """Finds the last pixel of each segment before another one, right or below.

  Args:
    segments: int [H, W].
    both: whether to find the first pixel of the other one, too.

  Returns:
    bool [H, W].
  """
  out = np.zeros(segments.shape, bool)
  right = segments[:, :-1] != segments[:, 1:]
  below = segments[:-1] != segments[1:]
  out[:, :-1] |= right
  out[:-1] |= below
  if both:
    out[:, 1:] |= right
    out[1:] |= below
  return out


def draw_depth(depth: np.ndarray, max_depth: float | None = None) -> np.ndarray:
  """Draws distances: the nearer, the lighter.

  Args:
    depth: [H, W] or [H, W, 1], meters; what is not positive or not finite is
      unknown, and black.
    max_depth: distance that is darkest; None is the largest one.

  Returns:
    The picture.
  """
  depth = np.asarray(depth, np.float32)
  depth = depth[..., 0] if depth.ndim == 3 else depth
  known = np.isfinite(depth) & (depth > 0)
  depth = np.where(known, depth, 0)
  top = max_depth or float(depth.max()) or 1.0
  index = np.clip(np.round(255 * (1 - depth / top)), 0, 255).astype(int)
  return np.where(known[..., None], _depth_table()[index], np.uint8(0))


@functools.cache
def _depth_table() -> np.ndarray:
  """Interpolates the colors of depth, uint8 [256, 3]."""
  colors = np.array(_DEPTH_COLORS, np.float64)
  at = np.linspace(0, 255, len(colors))
  channels = [np.interp(np.arange(256), at, c) for c in colors.T]
  return np.round(np.stack(channels, axis=1)).astype(np.uint8)


def to_uint8(image: np.ndarray) -> np.ndarray:
  """Turns an image of the range [-1, 1] into a picture.

  Args:
    image: float [H, W, 3] or [H, W, 1]; or uint8, which stays as it is.

  Returns:
    The picture.
  """
  image = np.asarray(image)
  if image.dtype != np.uint8:
    image = np.clip(np.round((image.astype(np.float32) + 1) * 127.5), 0, 255)
    image = image.astype(np.uint8)
  return np.broadcast_to(image, (*image.shape[:2], 3))


def grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
  """Puts pictures side by side, and rows of them below each other.

  Args:
    rows: pictures, as many in each row; small ones are enlarged.

  Returns:
    One picture, the cells as large as the largest one.
  """
  rows = [[_enlarged(picture) for picture in row] for row in rows]
  height = max(len(picture) for row in rows for picture in row)
  width = max(picture.shape[1] for row in rows for picture in row)
  columns = max(map(len, rows))
  out = np.full(
    [len(rows) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3],
    255,
    np.uint8,
  )
  for i, row in enumerate(rows):
    for j, picture in enumerate(row):
      top, left = i * (height + _GAP), j * (width + _GAP)
      h, w = picture.shape[:2]
      out[top : top + h, left : left + w] = picture
  return out


def _enlarged(picture):
  """Repeats the pixels of a small picture."""
  times = math.ceil(_LEAST / max(picture.shape[:2]))
  return picture.repeat(times, axis=0).repeat(times, axis=1)
