"""Describes pictures of `shapes`: scenes as plain data, drawn at random.

Space: the picture is the unit square, x to the right, y down. The camera sees
a floor that meets a wall; objects are flat, face the camera, are all equally
large (radius `RADIUS` meters) and float or stand at different depths, so that
near ones are larger and hide far ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

SHAPES = (
  "circle",
  "square",
  "triangle",
  "diamond",
  "star",
  "cross",
  "ring",
  "heart",
)
COLORS = (
  "red",
  "green",
  "blue",
  "yellow",
  "orange",
  "purple",
  "cyan",
  "white",
)
SURFACES = ("grey", "beige", "brown", "black")
SPLITS = ("train", "validation", "test")
MAX_OBJECTS = 8

RADIUS = 0.5  # Of every object, meters.
FOCAL = 0.8  # Picture widths: apparent size = FOCAL * size / depth.
HORIZON = 0.42  # y of the horizon, picture heights.
CAMERA = 1.2  # Height of the camera above the floor, meters.
NEAR, FAR = 1.7, 4.2  # Range of object depths, meters, unless others are asked.
NEAREST = 0.85  # At which an object is nearly as wide as the picture.
WALL = (5.0, 7.0)  # Range of the depth of the wall, meters.
# The nearest object, which gives the picture its label, stands out by more.
GAP_FIRST, GAP = math.log(1.15), math.log(1.08)

_MAX_HIDDEN = 0.4  # Of the circumscribed disc of an object.
_MAX_TWINS = 2  # Objects of one shape and color, so that texts can name each.


@dataclasses.dataclass(frozen=True)
class Object:
  """One object; `x`, `y` its center in the unit square.

  `depth` in meters, `angle` in radians clockwise.
  """

  shape: str
  color: str
  x: float
  y: float
  depth: float
  angle: float

  @property
  def radius(self) -> float:
    """Of the circle around it, in picture widths."""
    return FOCAL * RADIUS / self.depth

  @property
  def kind(self) -> str:
    """Color and shape: "red star"."""
    return f"{self.color} {self.shape}"


@dataclasses.dataclass(frozen=True)
class Scene:
  """One picture. `objects` are sorted by depth, nearest first.

  `wall` and `floor` are from `SURFACES`, `wall_depth` is in meters, `noise`
  seeds the grain of the picture.
  """

  wall: str
  floor: str
  wall_depth: float
  objects: tuple[Object, ...]
  noise: int

  @property
  def main(self) -> Object:
    """The nearest object."""
    return self.objects[0]


def floor_y(depth: float) -> float:
  """Computes where the floor appears in the picture.

  Args:
    depth: meters.

  Returns:
    y in picture heights.
  """
  return HORIZON + FOCAL * CAMERA / depth


def generator(seed: int, split: str, index: int) -> np.random.Generator:
  """Makes the generator of one example's random numbers.

  Args:
    seed: of the dataset.
    split: name of the split.
    index: position in the split.

  Returns:
    Generator seeded with [seed, position of the split, index].
  """
  return np.random.default_rng([seed, SPLITS.index(split), index])


def sample_scene(
  rng: np.random.Generator,
  max_objects: int = 5,
  *,
  near: float = NEAR,
  far: float = FAR,
  main: Sequence[str] | None = None,
) -> Scene:
  """Draws a scene.

  Args:
    rng: generator of `generator`.
    max_objects: in [1, MAX_OBJECTS].
    near: smallest depth of an object in meters.
    far: largest depth.
    main: (shape, color) of the nearest object; None draws it, too.

  Returns:
    A Scene of 1 to `max_objects` objects. At least 60% of the disc around each
    object is visible.
  """
  wall, floor = rng.choice(SURFACES, 2, replace=False)
  wall_depth = rng.uniform(*WALL)
  objects = []
  for depth in _depths(rng, rng.integers(1, max_objects + 1), near, far):
    shape, color = _kind(rng, objects) if objects or not main else main
    place = _place(rng, depth, objects)
    angle = rng.uniform(-0.2, 0.2)
    if place is not None:
      objects.append(Object(shape, color, *place, depth, angle))
  noise = int(rng.integers(2**31))
  return Scene(str(wall), str(floor), float(wall_depth), tuple(objects), noise)


def depth_range(num: int) -> float:
  """The least ratio of the farthest to the nearest of `num` objects."""
  return math.exp(_gaps(num).sum())


def _gaps(num):
  """How far objects are behind each other at least, in logarithms."""
  return np.array([0, GAP_FIRST] + [GAP] * num)[:num]


def _depths(rng, num, near, far):
  """`num` increasing depths, uniform in their logarithm but for the gaps."""
  gaps = _gaps(num)
  free = math.log(far / near) - gaps.sum()
  logs = np.sort(rng.uniform(0, free, num)) + gaps.cumsum()
  return [float(d) for d in near * np.exp(logs)]


def _kind(rng, objects):
  """Draws shape and color of the next object, often a shape that is there."""
  while True:
    if objects and rng.random() < 0.35:
      shape = objects[rng.integers(len(objects))].shape
    else:
      shape = str(rng.choice(SHAPES))
    color = str(rng.choice(COLORS))
    twins = [o for o in objects if o.kind == f"{color} {shape}"]
    if len(twins) < _MAX_TWINS:
      return shape, color


def _place(rng, depth, nearer, attempts=30):
  """Draws a center (x, y) above the floor, not hidden; None if there is no place.

  What is hidden is judged by discs, not by pixels, so that a scene does not
  depend on the size at which it is drawn.
  """
  radius = FOCAL * RADIUS / depth
  low, high = (radius, radius), (1 - radius, min(1, floor_y(depth)) - radius)
  for _ in range(attempts):
    x, y = rng.uniform(low, high)
    points = _DISC * radius + (x, y)
    hidden = np.zeros(len(points), bool)
    for o in nearer:
      hidden |= ((points - (o.x, o.y)) ** 2).sum(-1) < o.radius**2
    if hidden.mean() <= _MAX_HIDDEN:
      return float(x), float(y)
  return None


def _disc_points(num=8):
  """Even grid over the unit disc, [N, 2]."""
  line = (np.arange(num) + 0.5) / num * 2 - 1
  grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
  return grid[(grid**2).sum(-1) <= 1]


_DISC = _disc_points()
