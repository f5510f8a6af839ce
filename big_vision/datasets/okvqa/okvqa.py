"""OK-VQA: questions about pictures of COCO that need outside knowledge.

TFDS dataset `okvqa`, splits `train` and `val`, see
`big_vision.datasets.building`.

References:
  Marino et al. 2019, OK-VQA: A visual question answering benchmark requiring
  external knowledge.
"""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

from big_vision.datasets import building

_URL = "https://okvqa.allenai.org/static/data"
# Split -> COCO's name of its images.
_PARTS = {"train": "train2014", "val": "val2014"}
# As annotations have it -> what it stands for.
QUESTION_TYPES = {
  "one": "Vehicles and Transportation",
  "two": "Brands, Companies and Products",
  "three": "Objects, Material and Clothing",
  "four": "Sports and Recreation",
  "five": "Cooking and Food",
  "six": "Geography, History, Language and Culture",
  "seven": "People and Everyday life",
  "eight": "Plants and Animals",
  "nine": "Science and Technology",
  "ten": "Weather and Climate",
  "other": "Other",
}


def _questions(part):
  return f"OpenEnded_mscoco_{part}_questions.json"


def _annotations(part):
  return f"mscoco_{part}_annotations.json"


class OkVqa(building.Builder):
  """Builds `okvqa`."""

  name = "okvqa"
  DESCRIPTION = "Questions about images that need outside knowledge."
  HOMEPAGE = "https://okvqa.allenai.org"
  DOWNLOADS = tuple(
    building.Download(f"{_URL}/{file}.zip", file, splits=(split,))
    for split, part in _PARTS.items()
    for file in (_questions(part), _annotations(part))
  ) + tuple(building.coco_images(p, (s,)) for s, p in _PARTS.items())

  def features(self):
    f = tfds.features
    return {
      "image": f.Image(),
      "image/id": np.int64,
      "question_id": np.int64,
      "question": f.Text(),
      "question_type": f.Text(),
      "question_type_readable": f.Text(),
      "answer_type": f.Text(),
      "answers": f.Sequence(f.Text()),
      "raw_answers": f.Sequence(f.Text()),
      "answer_confidences": f.Sequence(np.bool_),
    }

  def splits(self):
    return {split: self._examples(part) for split, part in _PARTS.items()}

  def _examples(self, part):
    questions = building.read_json(self.path(_questions(part)))["questions"]
    texts = {q["question_id"]: q["question"] for q in questions}
    for row in building.read_json(self.path(_annotations(part)))["annotations"]:
      answers = row["answers"]
      file = building.coco_name(row["image_id"], part)
      yield (
        row["question_id"],
        {
          "image": self.image(part, file),
          "image/id": row["image_id"],
          "question_id": row["question_id"],
          "question": texts[row["question_id"]],
          "question_type": row["question_type"],
          "question_type_readable": QUESTION_TYPES[row["question_type"]],
          "answer_type": row["answer_type"],
          "answers": [a["answer"] for a in answers],
          "raw_answers": [a["raw_answer"] for a in answers],
          "answer_confidences": [
            a["answer_confidence"] == "yes" for a in answers
          ],
        },
      )
