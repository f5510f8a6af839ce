"""POPE: whether an object is in an image, to find models that imagine them.

TFDS datasets `pope_random`, `pope_popular` and `pope_adversarial`, which differ
in how the absent objects were chosen; one split, `test`. They are built with
`python -m big_vision.tools.prepare`: `tfds build` wants a file for each.

References:
  Li et al. 2023, Evaluating object hallucination in large vision-language
  models, https://github.com/RUCAIBox/POPE
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision.datasets import building
from big_vision.datasets.building import Download

_FOLDER = "val2014"
# All questions are "Is there a … in the image?"; some copies have a misprint.
_TEMPLATE = re.compile(r"\bis there an?\b|\bin the im\w*ge\b|\?", re.I)


class _Pope(building.Builder, skip_registration=True):
  """Builds one of the three, which have names of their own in configs."""

  DESCRIPTION = "Questions whether an object is in an image."
  HOMEPAGE = "https://github.com/RUCAIBox/POPE"
  LICENSE = "MIT (questions); images: https://cocodataset.org/#termsofuse"

  def features(self) -> dict[str, Any]:
    """See the base class; `thing` is what the question asks for."""
    return {
      "question_id": np.int64,
      "image": tfds.features.Image(encoding_format="jpeg"),
      "image/filename": tfds.features.Text(),
      "question": tfds.features.Text(),
      "thing": tfds.features.Text(),
      "answer": tfds.features.Text(),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    return {"test": self._examples()}

  def _examples(self):
    for row in building.read_jsonl(self.path(_file(self.name))):
      yield (
        row["question_id"],
        {
          "question_id": row["question_id"],
          "image": self.image(_FOLDER, row["image"]),
          "image/filename": row["image"],
          "question": row["text"],
          "thing": _TEMPLATE.sub("", row["text"]).strip(),
          "answer": row["label"],
        },
      )


def _file(name):
  return f"coco_{name}.json"


def _downloads(name):
  url = "https://raw.githubusercontent.com/RUCAIBox/POPE/HEAD/output/coco"
  return (
    Download(f"{url}/{_file(name)}", _file(name), "questions"),
    building.coco_images(_FOLDER),
  )


class PopeRandom(_Pope, skip_registration=True):
  """TFDS builder of `pope_random`: absent objects are any."""

  name = "pope_random"
  DOWNLOADS = _downloads(name)


class PopePopular(_Pope, skip_registration=True):
  """TFDS builder of `pope_popular`: absent objects are frequent in COCO."""

  name = "pope_popular"
  DOWNLOADS = _downloads(name)


class PopeAdversarial(_Pope, skip_registration=True):
  """TFDS builder of `pope_adversarial`: those that often occur with others."""

  name = "pope_adversarial"
  DOWNLOADS = _downloads(name)
