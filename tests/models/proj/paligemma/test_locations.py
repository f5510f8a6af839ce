"""Boxes and masks as text."""

import numpy as np
import pytest

from big_vision.models.proj.paligemma import locations
from big_vision.models.proj.paligemma.locations import Object

BOX = "<loc0102><loc0000><loc1023><loc0500>"
BOX_VALUES = (102 / 1023, 0.0, 1.0, 500 / 1023)
CODES = tuple(range(112, 128))
MASK = "".join(f"<seg{i:03d}>" for i in CODES)


def test_format_box():
  assert locations.format_box([0.1, 0.0, 1.0, 0.4888]) == BOX
  # Outside of the image, and halves, which go to the even number.
  box = np.float64([-0.3, 0.5 / 1023, 1.2, 1.5 / 1023])
  assert locations.format_box(box) == "<loc0000><loc0000><loc1023><loc0002>"


@pytest.mark.parametrize(
  "box", [[0, 1, 0.5], [[0, 0, 1, 1]], [0, 0, 1, np.nan]]
)
def test_boxes_that_are_none(box):
  with pytest.raises(ValueError, match="A box should be .ymin, xmin"):
    locations.format_box(box)


def test_parse():
  cat, dog = (
    Object(BOX_VALUES, None, "cat"),
    Object(BOX_VALUES, CODES, "a dog, old"),
  )
  assert locations.parse(f"{BOX} cat") == [cat]
  assert locations.parse(f"{BOX} cat ; {BOX} {MASK} a dog, old") == [cat, dog]
  # Spaces, line ends, nothing between objects, other text before them.
  text = f"I see: {BOX.replace('>', '> ')}cat;\n{BOX}{MASK}  a dog, old \n{BOX}"
  assert locations.parse(text) == [cat, dog, Object(BOX_VALUES, None, "")]
  assert locations.parse(BOX + MASK) == [Object(BOX_VALUES, CODES, "")]
  assert locations.parse(f"{BOX} a < b") == [Object(BOX_VALUES, None, "a < b")]


@pytest.mark.parametrize(
  "junk",
  [
    "",
    "a cat ; ;",
    BOX[:-9] + " cat",
    BOX + "<loc0001> cat",
    BOX.replace("1023", "1024") + " cat",
    BOX.replace("1023", "10230") + " cat",
    BOX.replace("1023", "²³²³") + " cat",
    "<loc0500><loc0000><loc0500><loc0500> no height",
    "<loc0000><loc0501><loc0500><loc0500> no width",
    BOX + MASK[:-8] + " cat",
    BOX + MASK + "<seg000> cat",
    BOX + MASK.replace("127", "128") + " cat",
    MASK + " cat",
    "<loc" * 1000 + "1" * 10000,
  ],
)
def test_junk_is_dropped(junk):
  assert locations.parse(junk) == []
  found = locations.parse(f"{junk} ; {BOX} cat ; {junk}")
  assert [x.label for x in found] == ["cat"]


def test_there_and_back():
  r = np.random.RandomState(0)
  for _ in range(100):
    (top, bottom), (left, right) = np.sort(r.uniform(0, 1, (2, 2)))
    box = np.float32([top, left, bottom, right])
    (found,) = locations.parse(locations.format_box(box) + " x")
    np.testing.assert_allclose(found.box, box, atol=0.5 / 1023 + 1e-6)
