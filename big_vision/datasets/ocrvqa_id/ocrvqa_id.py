"""OCR-VQA: questions about covers of books.

TFDS dataset `ocrvqa_id`, splits `train`, `val` and `test`, see
`big_vision.datasets.building`. `int_id` is the position of the question in the
authors' file, from 0.

References:
  Mishra et al. 2019, OCR-VQA: Visual question answering by reading text in
  images.
"""

from __future__ import annotations

import os

import numpy as np
import tensorflow_datasets as tfds

from big_vision.datasets import building

_FILE = "dataset.json"
_SPLITS = {"train": 1, "val": 2, "test": 3}  # As the file has it.


class OcrVqa(building.Builder):
  """Builds `ocrvqa_id`."""

  name = "ocrvqa_id"
  DESCRIPTION = "Questions about covers of books."
  HOMEPAGE = "https://ocr-vqa.github.io"
  DOWNLOADS = (
    building.Download(HOMEPAGE, _FILE, manual=True),
    building.Download(
      HOMEPAGE,
      "images",
      "covers, named as the keys of the file, with the suffix of their URL",
      manual=True,
    ),
  )

  def features(self):
    f = tfds.features
    return {
      "image": f.Image(),
      "image/filename": f.Text(),
      "int_id": np.int64,
      "question": f.Text(),
      "answer": f.Text(),
    }

  def splits(self):
    return {s: self._examples(number) for s, number in _SPLITS.items()}

  def _examples(self, split):
    int_id = -1
    for book, row in building.read_items(self.path(_FILE)):
      file = f"{book}{os.path.splitext(row['imageURL'])[1]}"
      pairs = zip(row["questions"], row["answers"], strict=True)
      for question, answer in pairs:
        int_id += 1
        if row["split"] == split:
          yield (
            int_id,
            {
              "image": self.image("images", file),
              "image/filename": file,
              "int_id": int_id,
              "question": question,
              "answer": answer,
            },
          )
