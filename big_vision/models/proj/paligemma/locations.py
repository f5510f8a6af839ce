"""Boxes and masks of PaliGemma as text: `<loc0012><loc0000>… cat ; <loc05…`.

A box is (ymin, xmin, ymax, xmax) in [0, 1], four tokens of 1024. 16 tokens of
128 may follow, `<seg000>`, the codes of a mask within the box, see
`mask_codec.py`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from big_vision import lookup

NUM_LOCATIONS = 1024
NUM_CODES = 128
CODES_PER_MASK = 16

# All location tokens in a row, all codes in a row, what is said about them.
_OBJECT = re.compile(
  r"((?:<loc[0-9]{4}>\s*)+)((?:<seg[0-9]{3}>\s*)*)"
  r"((?:(?!<loc[0-9]|<seg[0-9]|;).)*)",
  re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Object:
  """An object that a text names.

  Attributes:
    box: (ymin, xmin, ymax, xmax), floats in [0, 1].
    codes: 16 ints in [0, 128), or None without a mask.
    label: str, "" if nothing is said about it.
  """

  box: tuple[float, ...]
  codes: tuple[int, ...] | None
  label: str


def format_box(box: Sequence[float] | np.ndarray) -> str:
  """Writes a box as four location tokens.

  Args:
    box: (ymin, xmin, ymax, xmax), relative to the image; what is outside of it
      is moved to its border.

  Returns:
    str, "<loc0012><loc0000><loc1023><loc0500>".

  Raises:
    ConfigError: they are not four finite numbers.
  """
  relative = np.asarray(box, np.float32)
  if relative.shape != (4,) or not np.isfinite(relative).all():
    raise lookup.ConfigError(
      f"A box should be (ymin, xmin, ymax, xmax) in [0, 1], not {box!r:.200}."
    )
  last = NUM_LOCATIONS - 1
  at = np.clip(np.round(relative * last), 0, last).astype(int)
  return "".join(f"<loc{i:04d}>" for i in at)


def parse(text: str) -> list[Object]:
  """Finds the objects in a text that a model has written.

  Args:
    text: str, objects separated by ";". Each has four location tokens, 16 codes
      or none, and a label or none.

  Returns:
    List of `Object`, without those that have another number of tokens, tokens
    that do not exist, or a box without an area.
  """
  objects = []
  for locations, codes, label in _OBJECT.findall(text):
    at, mask = _numbers(locations), _numbers(codes)
    if (
      len(at) == 4
      and max(at) < NUM_LOCATIONS
      and at[0] < at[2]
      and at[1] < at[3]
      and len(mask) in (0, CODES_PER_MASK)
      and max(mask, default=0) < NUM_CODES
    ):
      box = tuple(i / (NUM_LOCATIONS - 1) for i in at)
      objects.append(Object(box, mask or None, label.strip()))
  return objects


def _numbers(tokens):
  return tuple(int(n) for n in re.findall("[0-9]+", tokens))
