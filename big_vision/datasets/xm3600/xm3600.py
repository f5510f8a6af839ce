"""Crossmodal-3600: 3,600 images with captions by people in 36 languages.

TFDS dataset `xm3600`, one split per language.

References:
  Thapliyal et al. 2022, Crossmodal-3600: a massively multilingual multimodal
  evaluation dataset, https://google.github.io/crossmodal-3600
"""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds

from big_vision.datasets import building
from big_vision.datasets.building import Download

LANGUAGES = tuple(
  "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt "
  "quz ro ru sv sw te th tr uk vi zh".split()
)


class Xm3600(building.Builder, skip_registration=True):
  """TFDS builder of `xm3600`: image, captions and captions/tokenized."""

  name = "xm3600"
  DESCRIPTION = "Captions by people in 36 languages for images of Open Images."
  HOMEPAGE = "https://google.github.io/crossmodal-3600"
  LICENSE = "CC BY 4.0 (captions); images: see homepage"
  VERSION = tfds.core.Version("1.0.1")
  RELEASE_NOTES = {"1.0.1": "First version."}
  DOWNLOADS = (
    Download(
      "https://google.github.io/crossmodal-3600/web-data/captions.zip",
      "captions.jsonl",
      "captions",
    ),
    Download(
      "https://open-images-dataset.s3.amazonaws.com/crossmodal-3600/images.tgz",
      "images",
      "images",
      into="images",
    ),
  )

  def features(self) -> dict[str, Any]:
    """See the base class; `image/id` is `<key of the image>_<language>`."""
    texts = lambda: tfds.features.Sequence(tfds.features.Text())
    return {
      "image/id": tfds.features.Text(),
      "image": tfds.features.Image(encoding_format="jpeg"),
      "captions": texts(),
      "captions/tokenized": texts(),
      "language": tfds.features.Text(),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class: a split for each language."""
    rows = list(building.read_jsonl(self.path("captions.jsonl")))
    return {language: self._examples(rows, language) for language in LANGUAGES}

  def _examples(self, rows, language):
    for row in rows:
      name, captions = row["image/key"], row[language]
      yield (
        name,
        {
          "image/id": f"{name}_{language}",
          "image": self.image("images", f"{name}.jpg"),
          "captions": captions["caption"],
          "captions/tokenized": captions["caption/tokenized"],
          "language": language,
        },
      )
