"""DocVQA: questions about scanned pages.

TFDS dataset `docvqa`, splits `val`, `train` and `test`, see
`big_vision.datasets.building`. The answers of `test` are not public.

References:
  Mathew et al. 2021, DocVQA: A dataset for VQA on document images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision.datasets import building

_URL = "https://rrc.cvc.uab.es/?ch=17&com=downloads"  # Needs an account.
_SPLITS = ("val", "train", "test")


def _file(split):
  return f"{split}_v1.0.json"


class DocVqa(building.Builder):
  """Builds `docvqa`."""

  name = "docvqa"
  DESCRIPTION = "Questions about scanned documents."
  HOMEPAGE = "https://www.docvqa.org"
  DOWNLOADS = (
    *(
      building.Download(
        _URL,
        _file(split),
        "of spdocvqa_qas.zip, task 1",
        manual=True,
        also=(f"{split}_v1.0_withQT.json", f"{split}/{_file(split)}"),
        splits=(split,),
      )
      for split in _SPLITS
    ),
    building.Download(
      _URL,
      "documents",
      "the pages of spdocvqa_images.tar.gz, task 1",
      manual=True,
      also=("spdocvqa_images",),
    ),
  )

  def features(self):
    return features()

  def splits(self):
    return {split: self._examples(split) for split in _SPLITS}

  def _examples(self, split):
    rows = building.read_json(self.path(_file(split)))["data"]
    for row in rows:
      # As in "documents/xnbl0037_1.png".
      file = row["image"].rpartition("/")[2]
      image = self.image("documents", file)
      yield example(row, file, image, split != "test")


def features() -> dict[str, Any]:
  """Describes an example of DocVQA, or of a dataset in its format.

  Returns:
    Dict of TFDS features.
  """
  f = tfds.features
  return {
    "image": f.Image(),
    "image/filename": f.Text(),
    "question_id": np.int64,
    "question": f.Text(),
    "answers": f.Sequence(f.Text()),
  }


def example(
  row: dict[str, Any], file: str, image: bytes, has_answers: bool
) -> tuple[int, dict[str, Any]]:
  """Makes an example of one of DocVQA's rows.

  Args:
    row: as in its JSON files.
    file: name of the image.
    image: encoded.
    has_answers: whether the row has answers.

  Returns:
    (key, features).
  """
  return row["questionId"], {
    "image": image,
    "image/filename": file,
    "question_id": row["questionId"],
    "question": row["question"],
    "answers": row["answers"] if has_answers else [],
  }
