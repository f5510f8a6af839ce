"""Colors for segments: near each other within a class, and each used once.

The color of a segment is its number, too: red + 256 green + 256^2 blue, as in
COCO's PNG files of panoptic segmentation.
"""

import functools

import numpy as np

Color = tuple[int, int, int]

_LEVELS = range(30, 256, 32)  # Of each channel, from which classes choose.
_JITTER = 16  # Of each channel, at first.


@functools.cache
def _palette() -> tuple[Color, ...]:
  """Orders colors so that each is far from all before it."""
  colors = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS), -1).reshape(-1, 3)
  order = [int(np.argmax(colors @ [1, -1, -1]))]  # It begins with red.
  nearest = np.full(len(colors), np.inf)
  while len(order) < len(colors):
    away = np.abs(colors - colors[order[-1]]).sum(axis=1)
    nearest = np.minimum(nearest, away)
    order.append(int(np.argmax(nearest)))
  return tuple((r, g, b) for r, g, b in colors[order].tolist())


def of_class(index: int) -> Color:
  """Chooses the color of a class, different ones for 512 classes.

  Args:
    index: of the class, from 0.

  Returns:
    (red, green, blue) in [0, 255], not black.
  """
  colors = _palette()
  return colors[index % len(colors)]


class SegmentColors:
  """Hands out colors; the same ones in every program for the same calls."""

  def __init__(self) -> None:
    self._taken = {(0, 0, 0)}  # Black is for pixels without a segment.
    self._counts: dict[int, int] = {}

  def next(self, index: int) -> tuple[int, Color]:
    """Chooses the color of another segment of a class.

    Args:
      index: of the class, from 0. Its first segment gets the color of the class.

    Returns:
      (number of the segment, its color (red, green, blue)), neither of which was
      handed out before.
    """
    color = base = of_class(index)
    count = self._counts.get(index, 0)
    while color in self._taken:
      count += 1
      rng = np.random.default_rng((index, count))
      spread = _JITTER + count // 100  # Where there are very many.
      shifted = np.array(base) + rng.integers(-spread, spread + 1, 3)
      red, green, blue = np.clip(shifted, 0, 255).tolist()
      color = (red, green, blue)
    self._counts[index] = count
    self._taken.add(color)
    red, green, blue = color
    return red + 256 * green + 256**2 * blue, color
