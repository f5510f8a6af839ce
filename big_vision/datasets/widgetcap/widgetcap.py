"""Widget Captioning: what parts of screens of Android apps are for.

TFDS dataset `widgetcap` with the splits `train`, `dev` and `test`; an example
is a part of a screen.

References:
  Li et al. 2020, Widget Captioning: generating natural language description for
  mobile user interface elements,
  https://github.com/google-research-datasets/widget-caption
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from big_vision import lookup
from big_vision.datasets import building
from big_vision.datasets.building import Download
from big_vision.datasets.screen2words import screen2words

_URL = "https://raw.githubusercontent.com/google-research-datasets"
_SPLITS = ("train", "dev", "test")
_HEIGHT = 2560  # Of all screens, in the units of view hierarchies.


class WidgetCap(building.Builder, skip_registration=True):
  """TFDS builder of `widgetcap`: image, bbox, texts and what they belong to."""

  name = "widgetcap"
  DESCRIPTION = "Captions of parts of screens of Android apps."
  HOMEPAGE = "https://github.com/google-research-datasets/widget-caption"
  LICENSE = "CC BY 4.0 (captions); images: see homepage of Rico"
  DOWNLOADS = (
    Download(
      f"{_URL}/widget-caption/HEAD/widget_captions.csv",
      "widget_captions.csv",
      "captions",
    ),
    *(
      Download(
        f"{_URL}/widget-caption/HEAD/split/{split}.txt",
        f"split/{split}.txt",
        f"screens of {split}",
        splits=(split,),
      )
      for split in _SPLITS
    ),
    screen2words.RICO,
  )

  def features(self) -> dict[str, Any]:
    """See the base class; `image/id` is `<screen_id>_<node_id>`.

    Returns:
      Features; `bbox` is relative to the image, (ymin, xmin, ymax, xmax), and
      `height` and `width` are the image's in pixels.
    """
    return {
      "image/id": tfds.features.Text(),
      "image": tfds.features.Image(encoding_format="jpeg"),
      "texts": tfds.features.Sequence(tfds.features.Text()),
      "bbox": tfds.features.BBoxFeature(),
      "screen_id": np.int64,
      "node_id": tfds.features.Text(),
      "height": np.int64,
      "width": np.int64,
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    rows = building.read_csv(self.path("widget_captions.csv"))
    rows = building.group_by(rows, lambda row: row["screenId"])
    return {split: self._examples(split, rows) for split in _SPLITS}

  def _examples(self, split, rows):
    for screen in screen2words.read_lines(self.path("split", f"{split}.txt")):
      if screen not in rows:  # None of its parts has a caption.
        continue
      path = self.path("combined", f"{screen}.json")
      root = building.read_json(path)["activity"]["root"]
      image = self.image("combined", f"{screen}.jpg")
      width, height = Image.open(io.BytesIO(image)).size
      for row in rows[screen]:
        node_id = row["nodeId"]
        key = f"{screen}_{node_id}"
        bounds = _node(root, node_id, path)["bounds"]
        yield (
          key,
          {
            "image/id": key,
            "image": image,
            "texts": row["captions"].split("|"),
            "bbox": relative_box(bounds, height, width),
            "screen_id": int(screen),
            "node_id": node_id,
            "height": height,
            "width": width,
          },
        )


def relative_box(
  bounds: list[float], height: int, width: int
) -> tfds.features.BBox:
  """Converts the bounds of a part of a screen.

  Args:
    bounds: left, top, right, bottom in the units of the view hierarchy.
    height: of the image in pixels.
    width: of the image in pixels.

  Returns:
    The box relative to the image, cut off at its edges.
  """
  scale = height / _HEIGHT
  left, top, right, bottom = (
    min(max(value * scale / size, 0.0), 1.0)
    for value, size in zip(bounds, (width, height) * 2, strict=True)
  )
  return tfds.features.BBox(ymin=top, xmin=left, ymax=bottom, xmax=right)


def _node(root, node_id, path):
  """The node of an id "0.2.1": the child 1 of the child 2 of the root."""
  node = root
  try:
    for position in node_id.split(".")[1:]:
      node = node["children"][int(position)]
    node["bounds"]
  except (IndexError, KeyError, TypeError, ValueError) as e:
    raise lookup.ConfigError(
      f"{path} has no part {node_id!r}, which widget_captions.csv names."
    ) from e
  return node
