"""Questions about pictures from above: what the two RSVQA datasets share.

Reference: Lobry et al. 2020, RSVQA: Visual Question Answering for Remote Sensing
Data, https://arxiv.org/abs/2003.07333
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from big_vision import lookup
from big_vision.datasets import building
from big_vision.pp import decoding

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*(m2)?")
# Files may have been converted, which makes those of RSVQA HR much smaller.
_CONVERTED = ("png", "jpg", "jpeg")


class Rsvqa(building.Builder):
  """Builds one of the datasets; their builders are below this.

  Attributes:
    PARTS: split -> how it is called in names of files.
    FILE: name of the files of a split, with `{part}` and `{kind}`.
    IMAGES: folder with the images.
    NUMERIC: types of questions that the config `nonum` leaves out.
  """

  HOMEPAGE = "https://rsvqa.sylvainlobry.com"
  VERSION = tfds.core.Version("1.0.2")
  RELEASE_NOTES = {"1.0.2": "Numbers are binned; raw answers are kept."}
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="all", description="All questions."),
    tfds.core.BuilderConfig(name="nonum", description="None about numbers."),
  ]
  PARTS: Mapping[str, str] = {}
  FILE: str = ""
  IMAGES: str = ""
  NUMERIC: tuple[str, ...] = ()

  def features(self) -> dict[str, Any]:
    """See the base class."""
    text = tfds.features.Text
    return {
      "question_id": np.int64,
      "image": tfds.features.Image(encoding_format="png"),
      "image/id": np.int64,
      "question": text(),
      "question_type": text(),
      "answers": tfds.features.Sequence(text()),
      "raw_answers": tfds.features.Sequence(text()),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    return {name: self._examples(part) for name, part in self.PARTS.items()}

  def _examples(self, part):
    answers = {row["id"]: row["answer"] for row in self._rows(part, "answers")}
    left_out = self.NUMERIC if self.builder_config_name == "nonum" else ()
    questions = [
      row
      for row in self._rows(part, "questions")
      if row["type"] not in left_out
    ]
    # An image, which may have a hundred questions, is read once.
    by_image = building.group_by(questions, lambda row: row["img_id"])
    for image_id, rows in by_image.items():
      image = self._image(image_id)
      for row in rows:
        raw = [answers[i] for i in row["answers_ids"]]
        yield (
          row["id"],
          {
            "question_id": row["id"],
            "image": image,
            "image/id": image_id,
            "question": row["question"],
            "question_type": row["type"],
            "answers": [bin_numbers(a) for a in raw],
            "raw_answers": raw,
          },
        )

  def _rows(self, part, kind):
    """Yields those that are active."""
    path = self.path(self.FILE.format(part=part, kind=kind))
    yield from (row for row in building.read_json(path)[kind] if row["active"])

  def _image(self, image_id):
    """Returns the file, or a PNG of it, since TFDS cannot decode TIFF."""
    for suffix in _CONVERTED:
      if self.exists(self.IMAGES, f"{image_id}.{suffix}"):
        return self.image(self.IMAGES, f"{image_id}.{suffix}")
    path = self.path(self.IMAGES, f"{image_id}.tif")
    try:
      pixels = decoding.decode(building.read_bytes(path))
    except ValueError as e:
      raise lookup.ConfigError(f"{self.name}: {path}: {e}") from e
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def downloads(
  record: int, archive: str, images: str, file: str, parts: Mapping[str, str]
) -> tuple[building.Download, ...]:
  """Lists the files of a dataset.

  Args:
    record: its number at zenodo.org.
    archive: name of the file with the images.
    images: folder that it has.
    file: see `Rsvqa.FILE`.
    parts: see `Rsvqa.PARTS`.

  Returns:
    For `DOWNLOADS` of a builder.
  """
  files = f"https://zenodo.org/records/{record}/files"
  rows = [
    (split, file.format(part=part, kind=kind))
    for split, part in parts.items()
    for kind in ("questions", "answers")
  ]
  return (
    building.Download(f"{files}/{archive}", images),
    *(
      building.Download(f"{files}/{name}", name, splits=(split,))
      for split, name in rows
    ),
  )


def bin_numbers(answer: str) -> str:
  """Replaces a number of things or of square meters by the range it is in.

  Args:
    answer: for example "12" or "12m2".

  Returns:
    For example "between 11 and 100" or "between 11 m2 and 100 m2"; `answer` if
    it is not a number.
  """
  match = _NUMBER.fullmatch(answer)
  if match is None:
    return answer
  number, unit = float(match[1]), " m2" if match[2] else ""
  if not number:
    return f"0{unit}"
  for low, high in ((1, 10), (11, 100), (101, 1000)):
    if number <= high:
      return f"between {low}{unit} and {high}{unit}"
  return f"more than 1000{unit}"
