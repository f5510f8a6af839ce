"""ChartQA: questions about charts, of people and of a language model.

TFDS dataset `chartqa`, configs `human` and `augmented`.

Reference: Masry et al. 2022, ChartQA: A Benchmark for Question Answering about
Charts with Visual and Logical Reasoning, https://arxiv.org/abs/2203.10244
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision.datasets import building

_FOLDER = "ChartQA Dataset"


class ChartQa(building.Builder):
  """TFDS builder of `chartqa`: a question about a chart, and its answer."""

  name = "chartqa"
  DESCRIPTION = "Questions about charts, with visual and logical reasoning."
  HOMEPAGE = "https://github.com/vis-nlp/ChartQA"
  LICENSE = "GPL-3.0"
  DOWNLOADS = (
    building.Download(
      "https://huggingface.co/datasets/ahmed-masry/ChartQA/resolve/main/"
      "ChartQA%20Dataset.zip",
      _FOLDER,
    ),
  )
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="human", description="Asked by people."),
    tfds.core.BuilderConfig(name="augmented", description="Made by a model."),
  ]

  def features(self) -> dict[str, Any]:
    """See the base class."""
    return {
      "question_id": np.int64,
      "image": tfds.features.Image(encoding_format="png"),
      "image/filename": tfds.features.Text(),
      "question": tfds.features.Text(),
      "answer": tfds.features.Text(),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    return {split: self._examples(split) for split in ("val", "train", "test")}

  def _examples(self, split):
    file = f"{split}_{self.builder_config_name}.json"
    rows = building.read_json(self.path(_FOLDER, split, file))
    for index, row in enumerate(rows):
      yield (
        index,
        {
          "question_id": index,
          "image": self.image(_FOLDER, split, "png", row["imgname"]),
          "image/filename": row["imgname"],
          "question": row["query"],
          "answer": row["label"],
        },
      )
