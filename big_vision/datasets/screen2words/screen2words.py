"""Screen2Words: summaries of screens of Android apps.

TFDS dataset `screen2_words` with the splits `train`, `dev` and `test`.

References:
  Wang et al. 2021, Screen2Words: automatic mobile UI summarization with
  multimodal learning, https://github.com/google-research-datasets/screen2words;
  Deka et al. 2017, Rico: a mobile app dataset for building data-driven design
  applications, http://www.interactionmining.org/rico
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision import lookup
from big_vision.datasets import building
from big_vision.datasets.building import Download

_URL = "https://raw.githubusercontent.com/google-research-datasets/screen2words"
_SPLITS = ("train", "dev", "test")
RICO = Download(
  "https://storage.googleapis.com/crowdstf-rico-uiuc-4540/rico_dataset_v0.1/"
  "unique_uis.tar.gz",
  "combined",
  "screens and view hierarchies of Rico",
)


class Screen2Words(building.Builder, skip_registration=True):
  """TFDS builder of `screen2_words`: image, image/id and summary."""

  name = "screen2_words"
  DESCRIPTION = "Summaries of screens of Android apps."
  HOMEPAGE = "https://github.com/google-research-datasets/screen2words"
  LICENSE = "CC BY 4.0 (summaries); images: see homepage of Rico"
  DOWNLOADS = (
    Download(
      f"{_URL}/HEAD/screen_summaries.csv", "screen_summaries.csv", "summaries"
    ),
    *(
      Download(
        f"{_URL}/HEAD/split/{split}_screens.txt",
        f"split/{split}_screens.txt",
        f"screens of {split}",
        splits=(split,),
      )
      for split in _SPLITS
    ),
    RICO,
  )

  def features(self) -> dict[str, Any]:
    """See the base class; `image/id` is Rico's number of the screen."""
    return {
      "image/id": np.int64,
      "image": tfds.features.Image(encoding_format="jpeg"),
      "summary": tfds.features.Sequence(tfds.features.Text()),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    path = self.path("screen_summaries.csv")
    rows = building.read_csv(path)
    rows = building.group_by(rows, lambda row: row["screenId"])
    return {split: self._examples(split, rows, path) for split in _SPLITS}

  def _examples(self, split, rows, path):
    listed = self.path("split", f"{split}_screens.txt")
    for screen in read_lines(listed):
      if screen not in rows:
        raise lookup.ConfigError(
          f"{path} has no summary of the screen {screen} of {listed}."
        )
      yield (
        screen,
        {
          "image/id": int(screen),
          "image": self.image("combined", f"{screen}.jpg"),
          "summary": [row["summary"] for row in rows[screen]],
        },
      )


def read_lines(path: str) -> list[str]:
  """Reads a text file.

  Args:
    path: path.

  Returns:
    Its words: the lines of a list of names.
  """
  return building.read_bytes(path).decode("utf-8").split()
