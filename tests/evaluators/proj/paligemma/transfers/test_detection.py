"""Mean average precision of boxes in texts, by hand."""

import answers
import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import detection
from big_vision.lookup import ConfigError
from big_vision.models.proj.paligemma import locations

pytestmark = pytest.mark.tf

NO_BOX = np.zeros((0, 4), np.float32)
NONE = np.zeros((0,), str)


def box(y1, x1, y2, x2):
  """In 1023rds: exactly what tokens can say."""
  return np.array([y1, x1, y2, x2]) / 1023


def example(truth, said):
  """`truth` and `said`: list of (box, label); or the text itself."""
  if not isinstance(said, str):
    said = " ; ".join(f"{locations.format_box(b)} {label}" for b, label in said)
  boxes, labels = zip(*truth, strict=True) if truth else ([], [])
  return {
    "objects/bbox": np.array(boxes, np.float32).reshape(-1, 4),
    "objects/label": np.array(labels, str),
    "said": said,
  }


A, B = box(0, 0, 100, 100), box(500, 500, 900, 900)
A_80 = box(0, 0, 80, 100)  # IoU 0.8 with A.
A_60 = box(0, 0, 100, 60)


def test_perfect():
  truth = [(A, "cat"), (B, "dog")]
  got = answers.run(detection, [example(truth, truth)] * 9)
  assert list(got) == ["map", "map/0.5", "map/0.75", "miou", "invalid", "total"]
  assert got == {
    "map": 1, "map/0.5": 1, "map/0.75": 1, "miou": pytest.approx(1),
    "invalid": 0, "total": 9,
  }  # fmt: skip
  assert isinstance(got["map"], float)


def test_by_hand():
  examples = [
    # The first box of a cat is one of a dog's, the second one reaches 0.8.
    example([(A, "cat"), (B, "dog")], [(B, "cat"), (A_80, "cat")]),
    # A dog that is one; a bird that no truth has.
    example([(B, "dog")], [(A, "bird"), (B, "dog")]),
    example([(A, "cat")], ""),
    example([], [(A, "dog")]),
  ]
  got = answers.run(detection, examples)
  # Cats: miss, hit (up to 0.8), of 2: precision 1/2 up to recall 1/2.
  cat = 51 / 101 * 1 / 2
  # Dogs, 2 of them: the one of the last example comes first in its text, before
  # the second one of the second example: miss, hit.
  dog = 51 / 101 * 1 / 2
  assert got == {
    "map": pytest.approx((cat * 7 / 10 + dog) / 2),
    "map/0.5": pytest.approx((cat + dog) / 2),
    "map/0.75": pytest.approx((cat + dog) / 2),
    "miou": pytest.approx((0.8 + 0 + 1 + 0) / 4),
    "invalid": 0,
    "total": 4,
  }


def test_order_of_equals():
  """Boxes that come equally early: those of the first examples count first."""
  hit, miss = example([(A, "x")], [(A, "x")]), example([(A, "x")], [(B, "x")])
  assert answers.run(detection, [hit, miss])["map"] == pytest.approx(51 / 101)
  assert answers.run(detection, [miss, hit])["map"] == pytest.approx(
    51 / 101 / 2
  )


def test_one_box_is_hit_once():
  twice = example([(A, "x")], [(A_60, "x"), (A, "x"), (A, "x")])
  got = answers.run(detection, [twice])
  # To 0.6 the first one is right and counts fully, above the second one does.
  assert got["map"] == pytest.approx((3 * 1 + 7 * 1 / 2) / 10)
  assert got["map/0.5"] == 1 and got["map/0.75"] == pytest.approx(1 / 2)
  assert got["miou"] == pytest.approx(1)


def test_invalid_answers():
  good = locations.format_box(A) + " x"
  texts = {
    good: 0,
    f"{good} ; {good};": 0,
    "": 0,
    "cat": 1,
    f"{good} ; cat": 1,
    "<loc0000><loc0000><loc0100> x": 1,
    "<loc0100><loc0000><loc0100><loc0100> x": 1,  # No area.
    f"{good} ; <loc0900><loc0900><loc0100><loc0100> x": 1,
  }
  truth = [(A, "x")]
  got = answers.run(detection, [example(truth, text) for text in texts])
  assert (got["invalid"], got["total"]) == (5, 8)
  # What is valid of an answer counts.
  assert got["miou"] == pytest.approx(4 / 8)


def test_labels():
  spaced = example([(A, " Cat ")], [(A, "cat")])
  assert answers.run(detection, [spaced])["map"] == 0
  assert answers.run(detection, [spaced], to_lower=True)["map"] == 1


def test_without_truth():
  got = answers.run(detection, [example([], [(A, "x")])] * 2)
  assert got == {"invalid": 0, "total": 2}


def test_errors():
  wrong = {**example([(A, "x")], ""), "objects/label": np.array(["a", "b"])}
  with pytest.raises(ConfigError, match="1 boxes .* objects/label 2 labels"):
    answers.run(detection, [wrong])
  with pytest.raises(ValueError, match="objects/.* is not in the batch"):
    answers.run(detection, [dict(said="x")])
