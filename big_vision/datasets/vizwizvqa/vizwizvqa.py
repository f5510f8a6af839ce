"""VizWiz-VQA: questions of blind people about photos that they took.

TFDS dataset `vizwizvqa`, splits `val`, `train` and `test`, see
`big_vision.datasets.building`. The answers of `test` are not public; empty
answers of the others are left out. `answerable` is 0 or 1, -1 in `test`.

References:
  Gurari et al. 2018, VizWiz grand challenge: Answering visual questions from
  blind people.
"""

from __future__ import annotations

import re

import numpy as np
import tensorflow_datasets as tfds

from big_vision import lookup
from big_vision.datasets import building

_URL = "https://vizwiz.cs.colorado.edu/VizWiz_final"
_SPLITS = ("val", "train", "test")


class VizWizVqa(building.Builder):
  """Builds `vizwizvqa`."""

  name = "vizwizvqa"
  DESCRIPTION = "Questions of blind people about their photos."
  HOMEPAGE = "https://vizwiz.org/tasks-and-datasets/vqa"
  LICENSE = "CC BY 4.0"
  DOWNLOADS = (
    *(
      building.Download(
        f"{_URL}/vqa_data/Annotations.zip",
        f"{split}.json",
        also=(f"Annotations/{split}.json",),
        splits=(split,),
      )
      for split in _SPLITS
    ),
    *(
      building.Download(
        f"{_URL}/images/{split}.zip", split, "photos", splits=(split,)
      )
      for split in _SPLITS
    ),
  )

  def features(self):
    f = tfds.features
    return {
      "image": f.Image(),
      "image/filename": f.Text(),
      "question_id": np.int64,
      "question": f.Text(),
      "answers": f.Sequence(f.Text()),
      "answer_confidences": f.Sequence(f.Text()),
      "answer_type": f.Text(),
      "answerable": np.int32,
    }

  def splits(self):
    return {split: self._examples(split) for split in _SPLITS}

  def _examples(self, split):
    is_test = split == "test"
    path = self.path(f"{split}.json")
    for row in building.read_json(path):
      file = row["image"]
      number = re.fullmatch(r"VizWiz_\w+_(\d+)\.\w+", file)
      if not number:
        raise lookup.ConfigError(
          f"{path}: the name of the image {file!r} is not like "
          "VizWiz_train_00000000.jpg, whose number is the question's."
        )
      answers = [] if is_test else [a for a in row["answers"] if a["answer"]]
      yield (
        file,
        {
          "image": self.image(split, file),
          "image/filename": file,
          "question_id": int(number[1]),
          "question": row["question"],
          "answers": [a["answer"] for a in answers],
          "answer_confidences": [a["answer_confidence"] for a in answers],
          "answer_type": "" if is_test else row["answer_type"],
          "answerable": -1 if is_test else row["answerable"],
        },
      )
