"""GQA: questions about pictures that were made from scene graphs.

TFDS dataset `gqa`, eight splits such as `train_balanced`, see
`big_vision.datasets.building`. An image is stored with each of its questions:
`train_all` has 14 million. The answers of `challenge_*` are not public.

References:
  Hudson and Manning 2019, GQA: A new dataset for real-world visual reasoning
  and compositional question answering.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision.datasets import building

_URL = "https://downloads.cs.stanford.edu/nlp/data/gqa"
IMAGES = building.Download(
  f"{_URL}/images.zip", "images", "images of Visual Genome and Flickr"
)
_NUM_PARTS = 10  # Of the questions of `train_all`.


def _files(split):
  """Paths of the files with the questions of a split."""
  if split != "train_all":
    return [f"{split}_questions.json"]
  name = "train_all_questions"
  return [f"{name}/{name}_{i}.json" for i in range(_NUM_PARTS)]


SPLITS = {
  f"{part}_{kind}": _files(f"{part}_{kind}")
  for part in ("train", "val", "testdev", "challenge")
  for kind in ("all", "balanced")
}


class Gqa(building.Builder):
  """Builds `gqa`."""

  name = "gqa"
  DESCRIPTION = "Questions about images, made from scene graphs."
  HOMEPAGE = "https://cs.stanford.edu/people/dorarad/gqa"
  DOWNLOADS = (
    *(
      building.Download(f"{_URL}/questions1.2.zip", file, splits=(split,))
      for split, files in SPLITS.items()
      for file in files
    ),
    IMAGES,
  )

  def features(self):
    return features()

  def splits(self):
    return {
      split: examples(self, files, not split.startswith("challenge"))
      for split, files in SPLITS.items()
    }


def features() -> dict[str, Any]:
  """Describes an example of GQA, or of a dataset in its format.

  Returns:
    Dict of TFDS features.
  """
  text = tfds.features.Text
  return {
    "image": tfds.features.Image(),
    "image/id": text(),
    "example_id": np.int64,
    "question": text(),
    "answer": text(),
    "full_answer": text(),
    "is_balanced": np.bool_,
  }


def examples(
  builder: building.Builder, files: Sequence[str], has_answers: bool = True
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Reads questions in GQA's format, for which a file may be large.

  Args:
    builder: whose source folder has the files, and `images`.
    files: relative paths of JSON files.
    has_answers: whether they have answers; else these are "".

  Yields:
    (key, features), the key being GQA's id of the question.
  """
  for file in files:
    for key, row in building.read_items(builder.path(file)):
      yield (
        key,
        {
          "image": builder.image("images", f"{row['imageId']}.jpg"),
          "image/id": row["imageId"],
          "example_id": int(key),
          "question": row["question"],
          "answer": row["answer"] if has_answers else "",
          "full_answer": row.get("fullAnswer", ""),
          "is_balanced": row.get("isBalanced", False),
        },
      )
