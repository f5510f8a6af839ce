"""A-OKVQA: questions about pictures of COCO, with choices and with reasons.

TFDS dataset `aokvqa`, splits `train`, `val` and `test`, see
`big_vision.datasets.building`. The answers of `test` are not public.

References:
  Schwenk et al. 2022, A-OKVQA: A benchmark for visual question answering using
  world knowledge.
"""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

from big_vision.datasets import building

_URL = "https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa"
_SPLITS = ("train", "val", "test")


def _file(split):
  return f"aokvqa_v1p0_{split}.json"


class AokVqa(building.Builder):
  """Builds `aokvqa`."""

  name = "aokvqa"
  DESCRIPTION = "Questions about images, with choices and with rationales."
  HOMEPAGE = "https://allenai.org/project/a-okvqa/home"
  DOWNLOADS = tuple(
    building.Download(
      f"{_URL}/aokvqa_v1p0.tar.gz",
      _file(split),
      also=(f"aokvqa/{_file(split)}",),
      splits=(split,),
    )
    for split in _SPLITS
  ) + tuple(building.coco_images(f"{s}2017", (s,)) for s in _SPLITS)

  def features(self):
    f = tfds.features
    texts = lambda: f.Sequence(f.Text())
    return {
      "image": f.Image(),
      "image/id": np.int64,
      "question_id": f.Text(),
      "question": f.Text(),
      "direct_answers": texts(),
      "direct_answer_is_difficult": np.bool_,
      "multiple_choice_possible_answers": texts(),
      "multiple_choice_correct_idx": np.int32,
      "answer_rationales": texts(),
    }

  def splits(self):
    return {split: self._examples(split) for split in _SPLITS}

  def _examples(self, split):
    for row in building.read_json(self.path(_file(split))):
      file = building.coco_name(row["image_id"])
      is_test = split == "test"  # Has none of these keys.
      yield (
        row["question_id"],
        {
          "image": self.image(f"{split}2017", file),
          "image/id": row["image_id"],
          "question_id": row["question_id"],
          "question": row["question"],
          "direct_answers": [] if is_test else row["direct_answers"],
          "direct_answer_is_difficult": row.get(
            "difficult_direct_answer", False
          ),
          "multiple_choice_possible_answers": row["choices"],
          "multiple_choice_correct_idx": (
            -1 if is_test else row["correct_choice_idx"]
          ),
          "answer_rationales": [] if is_test else row["rationales"],
        },
      )
