"""CountBenchQA: how many objects there are, two to ten.

TFDS dataset `countbenchqa` with the split `huggingface`. Images of the web that
the published file lacks are left out: 491 of 540 are there.

References:
  Paiss et al. 2023, Teaching CLIP to count to ten,
  https://teaching-clip-to-count.github.io;
  Beyer et al. 2024, PaliGemma: a versatile 3B VLM for transfer, which has the
  questions.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from big_vision import lookup
from big_vision.datasets import building
from big_vision.datasets.building import Download

_IMAGES = "countbench.parquet"
_QUESTIONS = "data/countbench_paired_questions.json"
_COLUMNS = ("image", "text", "image_url", "number")


class CountbenchQA(building.Builder, skip_registration=True):
  """TFDS builder of `countbenchqa`: image, question, number, and the origin."""

  name = "countbenchqa"
  DESCRIPTION = (
    "Questions how many objects there are, for images of CountBench."
  )
  HOMEPAGE = "https://teaching-clip-to-count.github.io"
  VERSION = tfds.core.Version("1.2.0")
  RELEASE_NOTES = {"1.2.0": "First version."}
  DOWNLOADS = (
    Download(
      "https://huggingface.co/datasets/nielsr/countbench/resolve/"
      "refs%2Fconvert%2Fparquet/default/train/0000.parquet",
      _IMAGES,
      "images and captions",
    ),
    Download(
      "https://raw.githubusercontent.com/google-research/big_vision/HEAD/"
      f"big_vision/datasets/countbenchqa/{_QUESTIONS}",
      _QUESTIONS,
      "questions: a list in the order of the images, or an object with the "
      "caption or URL of each",
    ),
  )

  def features(self) -> dict[str, Any]:
    """See the base class; `image_id` is the number of the row."""
    return {
      "image_id": np.int64,
      "image": tfds.features.Image(encoding_format="jpeg"),
      "image_url": tfds.features.Text(),
      "text": tfds.features.Text(),
      "question": tfds.features.Text(),
      "number": np.int32,
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    return {"huggingface": self._examples()}

  def _examples(self):
    rows = _read_rows(self.path(_IMAGES))
    path = self.path(_QUESTIONS)
    questions = match_questions(building.read_json(path), rows, path)
    for index, question in questions.items():
      row = rows[index]
      image = row["image"]["bytes"]
      mode = Image.open(io.BytesIO(image)).mode
      if mode != "RGB":
        logging.info("%s: left out image %d: %s.", self.name, index, mode)
        continue
      yield (
        index,
        {
          "image_id": index,
          "image": image,
          "image_url": row["image_url"],
          "text": row["text"],
          "question": question,
          "number": row["number"],
        },
      )


def match_questions(
  questions: Any, rows: Sequence[Mapping[str, Any]], path: str
) -> dict[int, str]:
  """Finds the questions of images.

  Args:
    questions: a list in the order of the rows, with or without those that have
      no image; or a dict of caption (or URL) -> question. A list may also have
      dicts with `question`, and `text` (or `image_url`) if the order is another
      one.
    rows: of the images, with `image`, `text` and `image_url`.
    path: of the questions, for the error.

  Returns:
    Number of a row that has an image -> question.

  Raises:
    ConfigError: a row with an image has none.
  """
  present = [
    i for i, row in enumerate(rows) if (row["image"] or {}).get("bytes")
  ]
  if isinstance(questions, list) and any(map(_name, questions)):
    questions = {_name(entry): _question(entry) for entry in questions}
  if isinstance(questions, list):
    numbers = range(len(rows)) if len(questions) == len(rows) else present
    if len(questions) != len(numbers):
      raise lookup.ConfigError(
        f"{path} has {len(questions)} questions for {len(rows)} rows, of which "
        f"{len(present)} have an image. Download both again, or give the "
        "caption of each question as `text`."
      )
    entries = map(_question, questions)
    candidates = {i: [q] for i, q in zip(numbers, entries, strict=True)}
  else:
    names = {i: (rows[i]["text"], rows[i]["image_url"]) for i in present}
    candidates = {i: map(questions.get, pair) for i, pair in names.items()}
  found = {}
  for i in present:
    known = [q for q in candidates[i] if isinstance(q, str)]
    if not known:
      raise lookup.ConfigError(
        f"{path} has no question for row {i}, {rows[i]['text']!r:.200}."
      )
    found[i] = known[0]
  return found


def _name(entry):
  if not isinstance(entry, dict):
    return None
  return entry.get("text") or entry.get("image_url")


def _question(entry):
  return entry.get("question") if isinstance(entry, dict) else entry


def _read_rows(path):
  import pyarrow.parquet as pq  # Slow to import.

  table = pq.read_table(path)
  lacking = [c for c in _COLUMNS if c not in table.column_names]
  if lacking:
    raise lookup.ConfigError(
      f"{path} has no column {lacking[0]!r}, only "
      f"{', '.join(table.column_names)}: download it again."
    )
  return table.select(_COLUMNS).to_pylist()
