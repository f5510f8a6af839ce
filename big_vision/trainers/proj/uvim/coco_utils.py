"""Pictures of panoptic segmentations, for notebooks and reports.

Shapes: H, W size of the picture.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision import drawing, fs, segment_colors
from big_vision.datasets import panoptic_categories
from big_vision.lookup import ConfigError

_FILE = "panoptic_coco_categories.json"
_VOID = {"id": -1, "name": "void", "isthing": False}


def rgb_panoptic_from_twochannels(
  twochannels: Any,
  boundaries: bool = False,
  categories: Sequence[Mapping[str, Any]]
  | panoptic_categories.Categories
  | None = None,
) -> tuple[np.ndarray, dict[int, dict[str, Any]]]:
  """Colors a segmentation: a color for each segment, similar ones within a class.

  Args:
    twochannels: [H, W, 2] ints: 1 + position of the class in `categories`, or at
      most 0 for pixels without a class; and a number that tells instances apart.
    boundaries: whether to paint the boundaries of segments black, two pixels wide.
    categories: the classes, such as `datasets.panoptic_categories.shapes()`, or
      dicts with `id`, `name` and `isthing`. None means those of COCO: of the file
      panoptic_coco_categories.json in $COCO_DATA_DIR, if it is there.

  Returns:
    (uint8 [H, W, 3], dict of segments): the number of each segment, red + 256
    green + 256^2 blue, -> a dict of `id`, `color`, `category_id`, `name` and
    `isthing`. Pixels without a class are black, and the segment -1.

  Raises:
    ConfigError: the shape is another one, or there is no such class.
  """
  maps = np.asarray(twochannels)
  if maps.ndim != 3 or maps.shape[-1] != 2:
    raise ConfigError(
      "twochannels should be a map [height, width, 2] of classes and instances, "
      f"got {maps.shape}."
    )
  classes = _classes(categories)
  semantics, instances = np.moveaxis(maps.astype(np.int64), -1, 0)
  if semantics.max(initial=0) > len(classes):
    raise ConfigError(
      f"Semantics should be at most {len(classes)}, the number of categories, got "
      f"{semantics.max()}: categories=… are those of the dataset."
    )
  ids = np.full(semantics.shape, -1)
  rgb = np.zeros((*ids.shape, 3), np.uint8)
  colors = segment_colors.SegmentColors()
  segments = {}
  if (semantics <= 0).any():
    segments[-1] = _info(-1, (0, 0, 0), _VOID)
  labeled = semantics > 0
  pairs = np.stack([semantics[labeled], instances[labeled]], axis=-1)
  for label, instance in np.unique(pairs, axis=0).tolist():
    number, color = colors.next(label - 1)
    mask = (semantics == label) & (instances == instance)
    ids[mask], rgb[mask] = number, color
    segments[number] = _info(number, color, classes[label - 1])
  if boundaries:
    rgb[drawing.edges(ids, both=True)] = 0
  return rgb, segments


def _info(number, color, category):
  return {
    "id": number,
    "color": color,
    "category_id": category["id"],
    "name": category["name"],
    "isthing": bool(category["isthing"]),
  }


def _classes(categories):
  """Returns the classes as dicts."""
  if categories is None:
    return _coco(os.environ.get("COCO_DATA_DIR", "."))
  if all(isinstance(c, Mapping) for c in categories):
    categories = panoptic_categories.of_json(categories, "categories")
  return panoptic_categories.to_json(tuple(categories))


@functools.cache
def _coco(folder):
  """Returns the classes of COCO, those of its file if there is one."""
  path = os.path.join(folder, _FILE)
  if fs.exists(path):
    return panoptic_categories.to_json(panoptic_categories.of_file(path))
  return panoptic_categories.to_json(panoptic_categories.coco())
