"""InfographicVQA: questions about infographics.

TFDS dataset `infovqa`, splits `train` (23,946), `val` (2,801) and `test`
(3,288), see `big_vision.datasets.building`. The answers of `test` are not
public. Answers of `val` that list several things are there in each order of the
things.

References:
  Mathew et al. 2022, InfographicVQA.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import tensorflow_datasets as tfds

from big_vision.datasets import building
from big_vision.datasets.docvqa import docvqa

_URL = "https://rrc.cvc.uab.es/?ch=17&com=downloads"  # Needs an account.
_SPLITS = ("train", "val", "test")
_COMMA = ", "


def _file(split):
  return f"infographicsVQA_{split}_v1.0.json"


class InfoVqa(building.Builder):
  """Builds `infovqa`."""

  name = "infovqa"
  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES = {"1.1.0": "Lists in answers of val in each order."}
  DESCRIPTION = "Questions about infographics."
  HOMEPAGE = "https://www.docvqa.org/datasets/infographicvqa"
  DOWNLOADS = (
    *(
      building.Download(
        _URL,
        _file(split),
        "of infographicsvqa_qas.zip, task 3",
        manual=True,
        also=(f"infographicsVQA_{split}_v1.0_withQT.json",),
        splits=(split,),
      )
      for split in _SPLITS
    ),
    building.Download(
      _URL,
      "infographicsvqa_images",
      "the images of infographicsvqa_images.tar.gz, task 3",
      manual=True,
      also=("images",),
    ),
  )

  def features(self):
    return docvqa.features()

  def splits(self):
    return {split: self._examples(split) for split in _SPLITS}

  def _examples(self, split):
    rows = building.read_json(self.path(_file(split)))["data"]
    for row in rows:
      if split == "val":
        row["answers"] = in_each_order(row["answers"])
      file = row["image_local_name"]
      image = self.image("infographicsvqa_images", file)
      yield docvqa.example(row, file, image, split != "test")


def in_each_order(answers: Sequence[str]) -> list[str]:
  """Replaces answers that list things by all orders of the things.

  Args:
    answers: such as ["a, b", "c"].

  Returns:
    Such as ["a, b", "b, a", "c"].
  """
  return [
    _COMMA.join(parts)
    for answer in answers
    for parts in itertools.permutations(answer.split(_COMMA))
  ]
