"""ST-VQA: questions about text in scenes.

TFDS dataset `stvqa`, splits `train` (23,446), `val` (2,628) and `test` (4,070),
see `big_vision.datasets.building`. The answers of `test` are not public. The
authors do not divide the rest: `val` has the questions about the images whose
paths are the lines of a file `val_images.txt` in the source folder. Without that
file, images are chosen by the hash of their path until there are as many
questions; they are not those that were held out for published results.

Images of COCO, which ST-VQA has in low resolution, are taken from COCO.

References:
  Biten et al. 2019, Scene text visual question answering.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from big_vision import lookup
from big_vision.datasets import building

_URL = "https://rrc.cvc.uab.es/?ch=11&com=downloads"  # Needs an account.
_TRAIN, _TEST = "train_task_3.json", "test_task_3.json"
VAL_IMAGES = "val_images.txt"
# Of so many questions, so many are in `val`.
_NUM_QUESTIONS, _NUM_VAL = 26_074, 2_628
_COCO = re.compile(r"COCO_(train2014|val2014)_\d{12}\.jpg")


class StVqa(building.Builder):
  """Builds `stvqa`."""

  name = "stvqa"
  VERSION = tfds.core.Version("1.2.0")
  RELEASE_NOTES = {"1.2.0": "Images of COCO in their resolution."}
  DESCRIPTION = "Questions about text in scenes."
  HOMEPAGE = "https://rrc.cvc.uab.es/?ch=11"
  DOWNLOADS = (
    building.Download(
      _URL, _TRAIN, "task 3", manual=True, splits=("train", "val")
    ),
    building.Download(_URL, _TEST, "task 3", manual=True, splits=("test",)),
    building.Download(
      _URL,
      "images",
      "folder with all images, at the paths `file_path` of the JSON files",
      manual=True,
      also=("ST-VQA",),
    ),
    building.coco_images("train2014"),
  )

  def features(self):
    f = tfds.features
    return {
      "image": f.Image(),
      "image/filename": f.Text(),
      "question_id": np.int64,
      "question": f.Text(),
      "answers": f.Sequence(f.Text()),
    }

  def splits(self):
    return {
      "train": self._training(False),
      "val": self._training(True),
      "test": self._test(),
    }

  def _test(self):
    rows = building.read_json(self.path(_TEST))["data"]
    return self._examples([{**row, "answers": []} for row in rows])

  def _training(self, is_val):
    """Examples of the authors' training data that are, or are not, in `val`."""
    rows = building.read_json(self.path(_TRAIN))["data"]
    groups = building.group_by(rows, lambda row: row["file_path"])
    if self.exists(VAL_IMAGES):
      path = self.path(VAL_IMAGES)
      val = set(building.read_bytes(path).decode().split("\n")) - {""}
      unknown = sorted(val - set(groups))
      if unknown:
        raise lookup.ConfigError(
          f"{path}: {unknown[0]!r} is no `file_path` of {_TRAIN}"
          f"{lookup.did_you_mean(unknown[0], groups)}"
        )
    else:
      val = held_out({path: len(group) for path, group in groups.items()})
    yield from self._examples(
      [row for row in rows if (row["file_path"] in val) == is_val]
    )

  def _examples(self, rows: Sequence[dict]):
    for row in rows:
      file = row["file_path"].rpartition("/")[2]
      match = _COCO.fullmatch(file)
      folder = (match[1], file) if match else ("images", row["file_path"])
      yield (
        row["question_id"],
        {
          "image": self.image(*folder),
          "image/filename": file,
          "question_id": row["question_id"],
          "question": row["question"],
          "answers": row["answers"],
        },
      )


def held_out(counts: Mapping[str, int]) -> set[str]:
  """Chooses images for validation.

  Args:
    counts: path of an image -> number of questions about it.

  Returns:
    Paths of images with a tenth of the questions, as exactly as it goes; the
    order of `counts` does not matter.
  """
  left = round(sum(counts.values()) * _NUM_VAL / _NUM_QUESTIONS)
  chosen = set()
  for path in sorted(counts, key=lambda p: hashlib.sha256(p.encode()).digest()):
    if counts[path] <= left:
      chosen.add(path)
      left -= counts[path]
  return chosen
