"""AI2D: multiple-choice questions about diagrams of school science.

TFDS dataset `ai2d`. Some questions are about labels that letters stand for: those
are drawn onto their images, in the place of the labels.

Reference: Kembhavi et al. 2016, A Diagram is Worth a Dozen Images,
https://arxiv.org/abs/1603.07396
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFont

from big_vision import fs, lookup
from big_vision.datasets import building
from big_vision.pp import decoding

_TEST_IDS = "ai2d_test_ids.csv"
_MAX_FONT_SIZE = 100


class Ai2d(building.Builder):
  """TFDS builder of `ai2d`: a question about a diagram, choices and answer.

  Args:
    font_path: TrueType font of the letters; None for the one of Pillow.
    **kw: see `building.Builder`.
  """

  name = "ai2d"
  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES = {"1.1.0": "With the letters that questions are about."}
  DESCRIPTION = "Multiple-choice questions about diagrams of school science."
  HOMEPAGE = "https://prior.allenai.org/projects/diagram-understanding"
  DOWNLOADS = (
    building.Download(
      "https://ai2-public-datasets.s3.amazonaws.com/diagrams/ai2d-all.zip",
      "ai2d",
    ),
    building.Download(
      f"https://s3-us-east-2.amazonaws.com/prior-datasets/{_TEST_IDS}",
      _TEST_IDS,
      "the numbers of the images to test with",
    ),
  )

  def __init__(self, *, font_path: str | None = None, **kw: Any):
    super().__init__(**kw)
    self._original_state["font_path"] = font_path
    self._font_path = font_path

  def features(self) -> dict[str, Any]:
    """See the base class."""
    text = tfds.features.Text
    return {
      "id": text(),
      "question": text(),
      "label": np.int64,
      "answer": text(),
      "possible_answers": tfds.features.Sequence(text()),
      "abc_label": np.bool_,
      "image_name": text(),
      "image": tfds.features.Image(encoding_format="png"),
    }

  def splits(self) -> dict[str, building.Examples]:
    """See the base class."""
    ids = building.read_bytes(self.path(_TEST_IDS)).decode().split()
    test = {f"{number}.png" for number in ids}
    names = [
      name.removesuffix(".json")
      for name in sorted(fs.listdir(self.path("ai2d", "questions")))
    ]
    return {
      "test": self._examples(name for name in names if name in test),
      "train": self._examples(name for name in names if name not in test),
    }

  def _examples(self, image_names):
    for name in image_names:
      path = self.path("ai2d", "questions", f"{name}.json")
      image = self.image("ai2d", "images", name)
      lettered = functools.cache(functools.partial(self._lettered, name, image))
      for question, row in building.read_json(path)["questions"].items():
        yield (
          row["questionId"],
          {
            "id": row["questionId"],
            "question": question,
            "label": row["correctAnswer"],
            "answer": row["answerTexts"][row["correctAnswer"]],
            "possible_answers": row["answerTexts"],
            "abc_label": row["abcLabel"],
            "image_name": name,
            "image": lettered() if row["abcLabel"] else image,
          },
        )

  def _lettered(self, name, image):
    """Draws the letters of an image; returns a PNG."""
    path = self.path("ai2d", "annotations", f"{name}.json")
    picture = Image.fromarray(decoding.decode(image))
    for text in building.read_json(path)["text"].values():
      letter = text["replacementText"]
      (left, top), (right, bottom) = text["rectangle"]
      draw_text(picture, letter, (left, top, right, bottom), self._font_path)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def draw_text(
  picture: Image.Image,
  text: str,
  box: tuple[float, float, float, float],
  font_path: str | None = None,
) -> None:
  """Draws a black text into a white box, in place, as large as it fits.

  Args:
    picture: RGB.
    text: without line breaks; "" leaves the box white.
    box: left, top, right and bottom in pixels; the latter two are part of it.
    font_path: TrueType font; None for the one of Pillow.

  Raises:
    ConfigError: there is no such font.
  """
  left, top, right, bottom = box
  draw = ImageDraw.Draw(picture)
  draw.rectangle(box, fill="white")
  for size in range(_MAX_FONT_SIZE, 0, -1):
    font = _font(size, font_path)
    # The ink hangs from the middle of the upper side.
    x1, y1, x2, y2 = draw.textbbox((0, 0), text, font, anchor="mt")
    if x2 - x1 <= right - left and y2 - y1 <= bottom - top:
      break
  draw.text(((left + right) / 2, top), text, "black", font, anchor="mt")


@functools.cache
def _font(size, path):
  if path is None:
    return ImageFont.load_default(size)
  try:
    return ImageFont.truetype(path, size)
  except OSError as e:
    raise lookup.ConfigError(
      f"ai2d: font_path={path!r} is not a TrueType font that can be read: {e}"
    ) from e
