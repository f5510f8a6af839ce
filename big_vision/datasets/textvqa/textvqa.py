"""TextVQA: questions about text in pictures.

TFDS dataset `textvqa`, splits `train`, `val` and `test`, see
`big_vision.datasets.building`. The answers of `test` are not public. The
pictures are of Open Images, whose list of those that lie on their side is used
to turn them. `image/id` is the number of the question, as is `question_id`.

References:
  Singh et al. 2019, Towards VQA models that can read.
"""

from __future__ import annotations

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from big_vision import lookup
from big_vision.datasets import building

_URL = "https://dl.fbaipublicfiles.com/textvqa"
_ROTATIONS = "image_ids_and_rotation.csv"
# Split -> folder of its images.
_FOLDERS = {
  "train": "train_images",
  "val": "train_images",
  "test": "test_images",
}
_QUALITY = 100  # Of JPEG.
_TURNS = {
  90: Image.Transpose.ROTATE_90,
  180: Image.Transpose.ROTATE_180,
  270: Image.Transpose.ROTATE_270,
}


def _file(split):
  return f"TextVQA_0.5.1_{split}.json"


class TextVqa(building.Builder):
  """Builds `textvqa`."""

  name = "textvqa"
  VERSION = tfds.core.Version("1.0.1")
  RELEASE_NOTES = {"1.0.1": "Images are upright."}
  DESCRIPTION = "Questions about text in images."
  HOMEPAGE = "https://textvqa.org"
  LICENSE = "CC BY 4.0"
  DOWNLOADS = (
    *(
      building.Download(f"{_URL}/data/{_file(s)}", _file(s), splits=(s,))
      for s in _FOLDERS
    ),
    building.Download(
      f"{_URL}/images/train_val_images.zip",
      "train_images",
      splits=("train", "val"),
    ),
    building.Download(
      f"{_URL}/images/test_images.zip", "test_images", splits=("test",)
    ),
    building.Download(
      f"https://storage.googleapis.com/openimages/2018_04/{_ROTATIONS}",
      _ROTATIONS,
      "which images of Open Images are to be turned",
    ),
  )

  def features(self):
    f = tfds.features
    return {
      "image": f.Image(),
      "image/id": np.int64,
      "question_id": np.int64,
      "question": f.Text(),
      "answers": f.Sequence(f.Text()),
    }

  def splits(self):
    return {split: self._examples(split) for split in _FOLDERS}

  def _examples(self, split):
    rows = building.read_json(self.path(_file(split)))["data"]
    turns = self._turns({row["image_id"] for row in rows})
    for row in rows:
      image_id = row["image_id"]
      image = self.image(_FOLDERS[split], f"{image_id}.jpg")
      if image_id in turns:
        image = turned(image, turns[image_id])
      yield (
        row["question_id"],
        {
          "image": image,
          "image/id": row["question_id"],
          "question_id": row["question_id"],
          "question": row["question"],
          "answers": [] if split == "test" else row["answers"],
        },
      )

  def _turns(self, image_ids):
    """Image id -> degrees to turn it, of those that are to be turned."""
    path, turns = self.path(_ROTATIONS), {}
    for row in building.read_csv(path):
      if row["ImageID"] in image_ids:
        degrees = float(row["Rotation"] or 0) % 360  # "" is unknown.
        if degrees and degrees not in _TURNS:
          raise lookup.ConfigError(
            f"{path}: the image {row['ImageID']} has the rotation "
            f"{row['Rotation']!r}, which is not a multiple of 90."
          )
        if degrees:
          turns[row["ImageID"]] = int(degrees)
    return turns


def turned(image: bytes, degrees: int) -> bytes:
  """Turns an image.

  Args:
    image: encoded.
    degrees: 90, 180 or 270, against the clock.

  Returns:
    Encoded as JPEG.
  """
  out = io.BytesIO()
  with Image.open(io.BytesIO(image)) as opened:
    turned = opened.convert("RGB").transpose(_TURNS[degrees])
  turned.save(out, "JPEG", quality=_QUALITY)
  return out.getvalue()
