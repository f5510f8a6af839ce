"""TallyQA: how many objects there are.

TFDS dataset `tallyqa` with the splits `train` and `test`.

References:
  Acharya et al. 2019, TallyQA: answering complex counting questions,
  https://github.com/manoja328/TallyQA_dataset
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision.datasets import building
from big_vision.datasets.building import Download

_SPLITS = ("train", "test")


class TallyQA(building.Builder, skip_registration=True):
  """TFDS builder of `tallyqa`: image, question, answer and issimple."""

  name = "tallyqa"
  DESCRIPTION = "Questions how many objects there are, simple and complex."
  HOMEPAGE = "https://github.com/manoja328/TallyQA_dataset"
  DOWNLOADS = (
    *(
      Download(
        "https://github.com/manoja328/TallyQA_dataset/raw/HEAD/tallyqa.zip",
        f"{split}.json",
        "questions",
        splits=(split,),
      )
      for split in _SPLITS
    ),
    *map(building.coco_images, ("train2014", "val2014")),
    *(
      Download(
        f"https://cs.stanford.edu/people/rak248/VG_100K_2/{name}.zip",
        folder,
        "images of Visual Genome",
      )
      for name, folder in {"images": "VG_100K", "images2": "VG_100K_2"}.items()
    ),
  )

  def features(self) -> dict[str, Any]:
    """See the base class.

    Returns:
      Features; `issimple` is 1 or 0, and -1 in `train`, where it is not known.
    """
    return {
      "question_id": np.int64,
      "image": tfds.features.Image(encoding_format="jpeg"),
      "image/filename": tfds.features.Text(),
      "question": tfds.features.Text(),
      "answer": np.int32,
      "issimple": np.int32,
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    return {split: self._examples(split) for split in _SPLITS}

  def _examples(self, split):
    rows = building.read_json(self.path(f"{split}.json"))
    # Questions are from several datasets, each with numbers of its own.
    for key, row in enumerate(rows):
      yield (
        key,
        {
          "question_id": row["question_id"],
          "image": self.image(*row["image"].split("/")),
          "image/filename": row["image"],
          "question": row["question"],
          "answer": row["answer"],
          "issimple": int(row.get("issimple", -1)),
        },
      )
