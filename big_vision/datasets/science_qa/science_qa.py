"""ScienceQA: questions of school science with explanations.

TFDS dataset `science_qa`; only the problems that come with an image.

Reference: Lu et al. 2022, Learn to Explain: Multimodal Reasoning via Thought
Chains for Science Question Answering, https://arxiv.org/abs/2209.09513
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision.datasets import building

_SPLITS = ("train", "test", "val")
# What a problem has as one text, here under the same names.
_TEXTS = (
  "question", "task", "grade", "subject", "topic", "category", "skill",
  "lecture", "solution",
)  # fmt: skip
_CODE = "https://raw.githubusercontent.com/lupantech/ScienceQA/main/data"
_IMAGES = "https://scienceqa.s3.us-west-1.amazonaws.com/images"


class ScienceQa(building.Builder):
  """TFDS builder of `science_qa`: a problem, its choices and its solution."""

  name = "science_qa"
  DESCRIPTION = "Problems of school science with images and explanations."
  HOMEPAGE = "https://scienceqa.github.io"
  LICENSE = "CC BY-NC-SA 4.0"
  DOWNLOADS = (
    building.Download(f"{_CODE}/scienceqa/problems.json", "problems.json"),
    building.Download(f"{_CODE}/scienceqa/pid_splits.json", "pid_splits.json"),
    *(
      building.Download(
        f"{_IMAGES}/{s}.zip", f"images/{s}", into="images", splits=(s,)
      )
      for s in _SPLITS
    ),
  )

  def features(self) -> dict[str, Any]:
    """See the base class."""
    text = tfds.features.Text
    return {
      "id": text(),
      "image": tfds.features.Image(encoding_format="png"),
      **{name: text() for name in _TEXTS},
      "hint": text(),
      "choices": tfds.features.Sequence(text()),
      "answer": np.int32,
      "indexed_choices": text(),
      "indexed_answer": text(),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    problems = building.read_json(self.path("problems.json"))
    ids = building.read_json(self.path("pid_splits.json"))
    return {split: self._examples(split, ids, problems) for split in _SPLITS}

  def _examples(self, split, ids, problems):
    for pid in ids[split]:
      problem = problems[pid]
      if not problem["image"]:
        continue
      # No problem has more choices than there are letters.
      letters = string.ascii_uppercase[: len(problem["choices"])]
      choices = zip(letters, problem["choices"], strict=True)
      yield (
        pid,
        {
          "id": pid,
          "image": self.image("images", split, pid, problem["image"]),
          **{name: problem[name] for name in _TEXTS},
          "hint": problem["hint"] or "N/A",
          "choices": problem["choices"],
          "answer": problem["answer"],
          "indexed_choices": ", ".join(f"({a}) {c}" for a, c in choices),
          "indexed_answer": letters[problem["answer"]],
        },
      )
