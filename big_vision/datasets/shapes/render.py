"""Draws a scene of `shapes`: the picture and what each of its pixels shows.

Letters: S side of the picture in pixels, N number of objects.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from big_vision.datasets.shapes import scene as ss

# Meaning of the first panoptic channel; 0 is left for pixels without a label.
SEMANTICS = ("void", *ss.SHAPES, "wall", "floor")
MIN_SIZE = 32  # Pixels: smaller objects would lose their shape, or vanish.

_COLORS = {
  "red": (214, 38, 40),
  "green": (40, 150, 56),
  "blue": (38, 84, 214),
  "yellow": (248, 216, 48),
  "orange": (248, 130, 20),
  "purple": (142, 54, 184),
  "cyan": (64, 214, 224),
  "white": (246, 246, 246),
}
_SURFACES = {
  "grey": (150, 152, 156),
  "beige": (206, 190, 156),
  "brown": (116, 88, 66),
  "black": (44, 44, 48),
}
_OVERSAMPLE = 4  # Per axis, for anti-aliasing.


@dataclasses.dataclass(frozen=True)
class Picture:
  """A drawn scene.

  image: [S, S, 3] uint8 RGB.
  panoptic: [S, S, 2] uint8; index into SEMANTICS, then 1 + position of the
    object in `scene.objects`, 0 on wall and floor.
  depth: [S, S] float32 meters.
  boxes: [N, 4] float32 (ymin, xmin, ymax, xmax) in [0, 1]: the tightest boxes
    around the visible pixels of each object.
  visible: [N] float32 share in [0, 1] of the pixels of each object that is not
    hidden by nearer ones.
  """

  image: np.ndarray
  panoptic: np.ndarray
  depth: np.ndarray
  boxes: np.ndarray
  visible: np.ndarray


def render(scene: ss.Scene, size: int) -> Picture:
  """Draws a scene.

  Args:
    scene: scene.Scene.
    size: side of the picture in pixels, at least MIN_SIZE.

  Returns:
    A Picture.

  Raises:
    ValueError: `size` is too small.
  """
  if size < MIN_SIZE:
    raise ValueError(
      f"image_size={size}: shapes are recognisable from {MIN_SIZE} pixels on."
    )
  image, semantic, depth = _background(scene, size)
  instance = np.zeros((size, size), np.uint8)
  _shadows(scene, image)
  own_pixels = []
  # Far to near, so that near objects cover what they hide.
  for number, obj in reversed(list(enumerate(scene.objects, start=1))):
    window, fill, inner = _coverage(obj, size)
    _paint(image[window], obj, scene, fill, inner)
    own = fill >= 0.5
    semantic[window][own] = SEMANTICS.index(obj.shape)
    instance[window][own] = number
    depth[window][own] = obj.depth
    own_pixels.append(own.sum())
  image += np.random.default_rng(scene.noise).normal(0, 2.5, image.shape)
  boxes, counts = _boxes(instance, len(scene.objects))
  return Picture(
    image=np.clip(np.round(image), 0, 255).astype(np.uint8),
    panoptic=np.stack([semantic, instance], axis=-1),
    depth=depth,
    boxes=boxes,
    visible=(counts / np.array(own_pixels[::-1])).astype(np.float32),
  )


def _background(scene, size):
  """Wall above, floor below: colors, semantic ids and depths."""
  y = (np.arange(size) + 0.5) / size
  is_floor = y > ss.floor_y(scene.wall_depth)
  down = np.where(is_floor, y, 1) - ss.HORIZON
  depth = np.where(is_floor, ss.FOCAL * ss.CAMERA / down, scene.wall_depth)
  wall = np.outer(1.08 - 0.16 * y, _SURFACES[scene.wall])
  # Light falls off with distance, which lets the eye read the floor's depth.
  light = 1.12 - 0.32 * depth / scene.wall_depth
  floor = np.outer(light, _SURFACES[scene.floor])
  color = np.where(is_floor[:, None], floor, wall)
  semantic = np.where(
    is_floor, SEMANTICS.index("floor"), SEMANTICS.index("wall")
  )

  def spread(rows, dtype):
    shape = (size, size, *rows.shape[1:])
    return np.broadcast_to(rows[:, None], shape).astype(dtype)

  return (
    spread(color, np.float32),
    spread(semantic, np.uint8),
    spread(depth, np.float32),
  )


def _shadows(scene, image):
  """Darkens the floor below each object, in place."""
  size = len(image)
  center = (np.arange(size, dtype=np.float32) + 0.5) / size
  for o in scene.objects:
    x = (center - o.x) / (0.8 * o.radius)
    y = (center - ss.floor_y(o.depth)) / (0.2 * o.radius)
    r = x[None, :] ** 2 + y[:, None] ** 2
    image *= (1 - 0.45 * np.clip(1.5 - r, 0, 1))[..., None]


def _coverage(obj, size):
  """How much of each pixel an object covers.

  Returns:
    window: pair of slices, the part of the picture that the object touches.
    fill: [h, w] in [0, 1], covered share of each pixel in the window.
    inner: the same without the outline.
  """
  center, radius = np.array([obj.x, obj.y]) * size, obj.radius * size * 1.1
  low = np.maximum(np.floor(center - radius).astype(int), 0)
  high = np.minimum(np.ceil(center + radius).astype(int) + 1, size)
  shape = tuple(int(n) for n in (high - low) * _OVERSAMPLE)
  line = max(_OVERSAMPLE, round(0.16 * obj.radius * size * _OVERSAMPLE))
  turn = np.array(
    [
      [np.cos(obj.angle), np.sin(obj.angle)],
      [-np.sin(obj.angle), np.cos(obj.angle)],
    ]
  )
  whole, inner = Image.new("L", shape), Image.new("L", shape)
  draw_whole, draw_inner = ImageDraw.Draw(whole), ImageDraw.Draw(inner)
  # The second outline, if there is one, is a hole.
  for outline, color in zip(_OUTLINES[obj.shape], (255, 0), strict=False):
    points = outline @ turn * obj.radius * size + center - low
    # Pillow's coordinates name the centers of pixels.
    points = [tuple(p) for p in (points * _OVERSAMPLE - 0.5).tolist()]
    draw_whole.polygon(points, fill=color)
    draw_inner.polygon(points, fill=color)
    draw_inner.line([*points, *points[:2]], fill=0, width=line, joint="curve")
  window = (slice(low[1], high[1]), slice(low[0], high[0]))
  fill, inner = (
    np.asarray(m.reduce(_OVERSAMPLE), np.float32) / 255 for m in (whole, inner)
  )
  return window, fill, np.minimum(fill, inner)


def _paint(patch, obj, scene, fill, inner):
  """Blends an object into its window of the picture, in place."""
  color = np.array(_COLORS[obj.color], np.float32)
  # Haze: far objects take on a little of the wall's color.
  haze = 0.22 * (obj.depth - ss.NEAR) / (ss.FAR - ss.NEAR)
  wall = np.array(_SURFACES[scene.wall], np.float32)
  color = color * (1 - haze) + wall * haze
  edge = fill - inner
  patch *= 1 - fill[..., None]
  patch += inner[..., None] * color + edge[..., None] * (0.45 * color)


def _boxes(instance, num):
  """Tightest boxes and pixel counts of the instances 1..num."""
  size = len(instance)
  boxes, counts = np.zeros((num, 4), np.float32), np.zeros(num, np.int64)
  for i in range(num):
    mask = instance == i + 1
    counts[i] = mask.sum()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    boxes[i] = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
  return boxes / size, counts


def _outlines():
  """Outlines of the shapes in the unit disc: name to list of [P, 2] points."""

  def circle(radius, num=48):
    t = np.linspace(0, 2 * np.pi, num, endpoint=False)
    return radius * np.stack([np.sin(t), -np.cos(t)], axis=-1)

  def star(inner):
    points = circle(1, 10)
    points[1::2] *= inner
    return points

  def heart(num=40):
    t = np.linspace(0, 2 * np.pi, num, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    points = np.stack([x, -(y + 2.5)], axis=-1)
    return points / np.linalg.norm(points, axis=-1).max()

  a, b = 0.3, 0.92  # Half the width and the length of the arms of the cross.
  cross = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
  cross += [(-x, -y) for x, y in cross]
  outlines = {
    "circle": [circle(0.9)],
    "square": [0.7 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])],
    "triangle": [circle(1, 3)],
    "diamond": [np.array([(0, -1), (0.58, 0), (0, 1), (-0.58, 0)])],
    "star": [star(0.46)],
    "cross": [np.array(cross)],
    "ring": [circle(0.95), circle(0.45)],
    "heart": [heart()],
  }
  return {
    name: [np.asarray(o, float) for o in v] for name, v in outlines.items()
  }


_OUTLINES = _outlines()
