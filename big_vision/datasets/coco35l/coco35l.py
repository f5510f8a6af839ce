"""COCO-35L: captions of COCO in English, and translations by a machine.

TFDS dataset `coco35l` with the splits `train_<language>` and `dev_<language>`.
The captions of a part, in all languages, are held in memory while it is built:
some 4 GB.

References:
  Thapliyal et al. 2022, Crossmodal-3600: a massively multilingual multimodal
  evaluation dataset, https://google.github.io/crossmodal-3600
"""

from __future__ import annotations

import bz2
import functools
import re
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from big_vision import fs, lookup, untrusted
from big_vision.datasets import building
from big_vision.datasets.building import Download

LANGUAGES = tuple(
  "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt "
  "ro ru sv sw te th tr uk vi zh".split()
)
_URL = "https://storage.googleapis.com/crossmodal-3600"
_PARTS = ("train", "dev")
# Each caption is the source of one translation into each other language.
_ENGLISH_FROM = "de"
# The images of both parts are in either folder of COCO 2014.
_FOLDERS = ("train2014", "val2014")
_IMAGE_ID = re.compile(r"(?:COCO_[a-z]+2014_)?0*(\d+)")


class Coco35L(building.Builder, skip_registration=True):
  """TFDS builder of `coco35l`: image, image/id, captions and language."""

  name = "coco35l"
  DESCRIPTION = "Captions of COCO in English, translated into 34 languages."
  HOMEPAGE = "https://google.github.io/crossmodal-3600"
  LICENSE = "see homepage; images: https://cocodataset.org/#termsofuse"
  DOWNLOADS = (
    *(
      Download(
        f"{_URL}/coco_mt_{part}.jsonl.bz2",
        f"coco_mt_{part}.jsonl.bz2",
        "captions, not unpacked",
        splits=tuple(f"{part}_{language}" for language in LANGUAGES),
      )
      for part in _PARTS
    ),
    *map(building.coco_images, _FOLDERS),
  )

  def features(self) -> dict[str, Any]:
    """See the base class; `image/id` is `<COCO's number>_<language>`."""
    return {
      "image/id": tfds.features.Text(),
      "image": tfds.features.Image(encoding_format="jpeg"),
      "captions": tfds.features.Sequence(tfds.features.Text()),
      "language": tfds.features.Text(),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class: a split for each part and language."""
    read = {
      p: functools.cache(functools.partial(self._read, p)) for p in _PARTS
    }
    return {
      f"{part}_{language}": self._examples(part, language, read[part])
      for part in _PARTS
      for language in LANGUAGES
    }

  def _read(self, part):
    """Reads a part: language -> COCO's number -> captions."""
    path = self.path(f"coco_mt_{part}.jsonl.bz2")
    captions = {language: {} for language in LANGUAGES}
    for row in _rows(path):
      found = _IMAGE_ID.match(str(row["image_id"]))
      if not found:
        raise lookup.ConfigError(
          f"{path}: image_id {row['image_id']!r:.200} has no number of COCO."
        )
      texts = {row["trg_lang"]: row["translation_tokenized"]}
      if row["trg_lang"] == _ENGLISH_FROM:
        texts["en"] = row["caption_tokenized"]
      for language in captions.keys() & texts:
        of_image = captions[language].setdefault(int(found[1]), [])
        of_image.append(texts[language])
    empty = [language for language in LANGUAGES if not captions[language]]
    if empty:
      raise lookup.ConfigError(
        f"{path} has no captions in {', '.join(empty)}: download it again."
      )
    return captions

  def _examples(self, part, language, read):
    for image_id, captions in read().pop(language).items():
      yield (
        image_id,
        {
          "image/id": f"{image_id}_{language}",
          "image": self._image(image_id),
          "captions": captions,
          "language": language,
        },
      )

  def _image(self, image_id):
    names = [(f, building.coco_name(image_id, f)) for f in _FOLDERS]
    for name in names:
      if self.exists(*name):
        return self.image(*name)
    return self.image(*names[0])  # Says what is missing.


def _rows(path: str) -> Iterator[Any]:
  """Yields the rows of a compressed file of JSON lines."""
  with fs.open(path, "rb") as f, bz2.open(f) as lines:
    try:
      for line in lines:
        yield untrusted.json_value(line)
    except (OSError, EOFError, ValueError) as e:
      raise lookup.ConfigError(
        f"{path} is damaged ({e!s:.200}): download it again."
      ) from e
