"""nocaps: captions of objects that captions of COCO do not mention.

TFDS dataset `nocaps` with the splits `val` and `test`. Images that are missing
or cannot be read are left out: they are links to pictures of others.

References:
  Agrawal et al. 2019, nocaps: novel object captioning at scale,
  https://nocaps.org
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from big_vision import lookup
from big_vision.datasets import building
from big_vision.datasets.building import Download

_FILES = {
  "val": "nocaps_val_4500_captions.json",
  "test": "nocaps_test_image_info.json",
}
_UNKNOWN = "N/A"  # Captions of `test` are not published.


class NoCaps(building.Builder, skip_registration=True):
  """TFDS builder of `nocaps`: image, image/id and texts."""

  name = "nocaps"
  DESCRIPTION = "Captions of novel objects in images of Open Images."
  HOMEPAGE = "https://nocaps.org"
  DOWNLOADS = (
    Download(
      "https://nocaps.s3.amazonaws.com/nocaps_val_4500_captions.json",
      _FILES["val"],
      "captions",
      splits=("val",),
    ),
    Download(
      "https://s3.amazonaws.com/nocaps/nocaps_test_image_info.json",
      _FILES["test"],
      "list of images",
      splits=("test",),
    ),
    *(
      Download(
        "https://nocaps.org/download",
        split,
        f"images, each from its `coco_url` in {name}",
        manual=True,
        splits=(split,),
      )
      for split, name in _FILES.items()
    ),
  )

  def features(self) -> dict[str, Any]:
    """See the base class."""
    return {
      "image/id": np.int64,
      "image": tfds.features.Image(encoding_format="jpeg"),
      "texts": tfds.features.Sequence(tfds.features.Text()),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    return {split: self._examples(split) for split in _FILES}

  def _examples(self, split):
    content = building.read_json(self.path(_FILES[split]))
    texts = building.group_by(
      content.get("annotations", ()), lambda row: row["image_id"]
    )
    dropped = 0
    for row in content["images"]:
      try:
        image = self.image(split, row["file_name"])
      except lookup.ConfigError as e:
        dropped += 1
        logging.warning("Left out (%d so far): %s", dropped, e)
        continue
      captions = [t["caption"] for t in texts.get(row["id"], ())]
      yield (
        row["id"],
        {
          "image/id": row["id"],
          "image": image,
          "texts": captions if split == "val" else [_UNKNOWN],
        },
      )
    if dropped == len(content["images"]):
      raise lookup.ConfigError(
        f"{self.name}: none of the {dropped} images of {split!r} is in "
        f"{self.path(split)}. They are at the `coco_url` of {_FILES[split]}."
      )
