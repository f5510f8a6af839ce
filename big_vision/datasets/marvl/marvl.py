"""MaRVL: the task of NLVR2 in five languages and with images of their regions.

TFDS dataset `marvl` with the splits `test_<language>`.

References:
  Liu et al. 2021, Visually grounded reasoning across languages and cultures,
  https://marvl-challenge.github.io
"""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from big_vision.datasets import building
from big_vision.datasets.building import Download

LANGUAGES = ("id", "sw", "ta", "tr", "zh")


class Marvl(building.Builder, skip_registration=True):
  """TFDS builder of `marvl`, whose examples are like those of `nlvr2`."""

  name = "marvl"
  DESCRIPTION = (
    "Sentences in five languages that are true of two images or not."
  )
  HOMEPAGE = "https://marvl-challenge.github.io"
  DOWNLOADS = tuple(
    Download(
      "https://marvl-challenge.github.io/download",
      path.format(language),
      what,
      manual=True,
      splits=(f"test_{language}",),
    )
    for language in LANGUAGES
    for path, what in {
      "{0}/annotations/marvl-{0}.jsonl": "sentences",
      "{0}/images": "images, in a folder per concept",
    }.items()
  )

  def features(self) -> dict[str, Any]:
    """See the base class; `label` is "True" or "False"."""
    image = lambda: tfds.features.Image(encoding_format="jpeg")
    return {
      "example_id": tfds.features.Text(),
      "image_left": image(),
      "image_right": image(),
      "sentence": tfds.features.Text(),
      "label": tfds.features.Text(),
      "language": tfds.features.Text(),
      "concept": tfds.features.Text(),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    return {f"test_{k}": self._examples(k) for k in LANGUAGES}

  def _examples(self, language):
    path = self.path(language, "annotations", f"marvl-{language}.jsonl")
    for row in building.read_jsonl(path):
      folder = (language, "images", row["concept"])
      yield (
        row["id"],
        {
          "example_id": row["id"],
          "image_left": self.image(*folder, row["left_img"]),
          "image_right": self.image(*folder, row["right_img"]),
          "sentence": row["caption"],
          "label": str(row["label"]),
          "language": language,
          "concept": row["concept"],
        },
      )
