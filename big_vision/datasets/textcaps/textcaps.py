"""TextCaps: captions that need the text in the image to be read.

TFDS dataset `text_caps` with the splits `train`, `val` and `test`.

References:
  Sidorov et al. 2020, TextCaps: a dataset for image captioning with reading
  comprehension, https://textvqa.org/textcaps
"""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from big_vision.datasets import building
from big_vision.datasets.building import Download

_URL = "https://dl.fbaipublicfiles.com/textvqa"
_FOLDERS = {
  "train": "train_images",
  "val": "train_images",
  "test": "test_images",
}


class TextCaps(building.Builder, skip_registration=True):
  """TFDS builder of `text_caps`: image, image/id and texts."""

  name = "text_caps"
  DESCRIPTION = "Captions that need the text in the image to be read."
  HOMEPAGE = "https://textvqa.org/textcaps"
  LICENSE = "CC BY 4.0"
  DOWNLOADS = (
    *(
      Download(
        f"{_URL}/data/textcaps/TextCaps_0.1_{split}.json",
        f"TextCaps_0.1_{split}.json",
        "captions",
        splits=(split,),
      )
      for split in _FOLDERS
    ),
    Download(
      f"{_URL}/images/train_val_images.zip",
      "train_images",
      "images",
      splits=("train", "val"),
    ),
    Download(
      f"{_URL}/images/test_images.zip",
      "test_images",
      "images",
      splits=("test",),
    ),
  )

  def features(self) -> dict[str, Any]:
    """See the base class; `texts` is empty in `test`."""
    return {
      "image/id": tfds.features.Text(),
      "image": tfds.features.Image(encoding_format="jpeg"),
      "texts": tfds.features.Sequence(tfds.features.Text()),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    return {split: self._examples(split) for split in _FOLDERS}

  def _examples(self, split):
    content = building.read_json(self.path(f"TextCaps_0.1_{split}.json"))
    rows = building.group_by(content["data"], lambda row: row["image_id"])
    for image_id, captions in rows.items():
      texts = [] if split == "test" else [c["caption_str"] for c in captions]
      yield (
        image_id,
        {
          "image/id": image_id,
          "image": self.image(_FOLDERS[split], f"{image_id}.jpg"),
          "texts": texts,
        },
      )
