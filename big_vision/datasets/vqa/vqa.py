"""VQA v2: questions about pictures of COCO, with ten answers each.

TFDS dataset `vqa`, splits `train`, `validation`, `test` and `test-dev`, see
`big_vision.datasets.building`. The answers of the tests are not public; their
questions about images that are missing are left out.

References:
  Goyal et al. 2017, Making the V in VQA matter: Elevating the role of image
  understanding in visual question answering.
"""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from big_vision.datasets import building

_URL = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
# Split -> name of its part of COCO, in names of files.
_PARTS = {
  "train": "train2014",
  "validation": "val2014",
  "test": "test2015",
  "test-dev": "test-dev2015",
}
_TESTS = ("test", "test-dev")
_ARCHIVES = {"train": "Train", "validation": "Val"}


def _questions(split):
  return f"v2_OpenEnded_mscoco_{_PARTS[split]}_questions.json"


def _annotations(split):
  return f"v2_mscoco_{_PARTS[split]}_annotations.json"


class Vqa(building.Builder):
  """Builds `vqa`."""

  name = "vqa"
  VERSION = tfds.core.Version("3.0.0")
  RELEASE_NOTES = {"3.0.0": "VQA v2 with all answers."}
  DESCRIPTION = "Open questions about images."
  HOMEPAGE = "https://visualqa.org"
  LICENSE = "annotations: CC BY 4.0"
  DOWNLOADS = (
    *(
      building.Download(
        f"{_URL}/v2_Questions_{_ARCHIVES.get(split, 'Test')}_mscoco.zip",
        _questions(split),
        splits=(split,),
      )
      for split in _PARTS
    ),
    *(
      building.Download(
        f"{_URL}/v2_Annotations_{archive}_mscoco.zip",
        _annotations(split),
        splits=(split,),
      )
      for split, archive in _ARCHIVES.items()
    ),
    building.coco_images("train2014", ("train",)),
    building.coco_images("val2014", ("validation",)),
    building.coco_images("test2015", _TESTS),
  )

  def features(self):
    f = tfds.features
    return {
      "image": f.Image(),
      "image/id": np.int64,
      "question_id": np.int64,
      "question_text": f.Text(),
      "question_type": f.Text(),
      "answer_type": f.Text(),
      "answers": f.Sequence(f.Text()),
      "answer_confidences": f.Sequence(f.Text()),
      "top_answer": f.Text(),
    }

  def splits(self):
    return {split: self._examples(split) for split in _PARTS}

  def _examples(self, split):
    is_test, annotations = split in _TESTS, {}
    if not is_test:
      rows = building.read_json(self.path(_annotations(split)))["annotations"]
      annotations = {row["question_id"]: row for row in rows}
    part = "test2015" if is_test else _PARTS[split]
    left_out = 0
    for row in building.read_json(self.path(_questions(split)))["questions"]:
      file = building.coco_name(row["image_id"], part)
      if is_test and not self.exists(part, file):
        left_out += 1
        continue
      number = row["question_id"]
      answer = {} if is_test else annotations[number]
      answers = [] if is_test else answer["answers"]
      yield (
        number,
        {
          "image": self.image(part, file),
          "image/id": row["image_id"],
          "question_id": number,
          "question_text": row["question"],
          "question_type": "" if is_test else answer["question_type"],
          "answer_type": "" if is_test else answer["answer_type"],
          "answers": [a["answer"] for a in answers],
          "answer_confidences": [a["answer_confidence"] for a in answers],
          "top_answer": "" if is_test else answer["multiple_choice_answer"],
        },
      )
    if left_out:
      logging.warning(
        "%s: left out %d questions of %r, whose images are not in %s.",
        self.name,
        left_out,
        split,
        self.path(part),
      )
