"""VQA's accuracy: as published, by its definition, the file, and bad input."""

import itertools
import json

import answers
import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import vqav2
from big_vision.lookup import ConfigError

pytestmark = pytest.mark.tf


@pytest.mark.parametrize(
  "same, acc", [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
)
def test_published(same, acc):
  """The values of ten answers that are labels of many papers."""
  targets = ["yes"] * same + ["no"] * (10 - same)
  assert vqav2.accuracy(targets, "yes") == pytest.approx(acc)


def test_of_any_number():
  """Mean over all answers but one, by its definition."""
  for num, same in itertools.product(range(2, 13), range(13)):
    targets = (["yes"] * same + ["no"] * num)[:num]
    subsets = list(itertools.combinations(targets, num - 1))
    want = np.mean([min(1, x.count("yes") / 3) for x in subsets])
    assert vqav2.accuracy(targets, "yes") == pytest.approx(want)
  assert vqav2.accuracy(["yes"] * 3, "yes") == pytest.approx(2 / 3)
  assert vqav2.accuracy(["yes"], "yes") == 0


def rows(*examples):
  keys = ("said", "answers", "answer_type")
  return [
    {
      **dict(zip(keys, x, strict=True)),
      "answers": np.array(x[1], str),
      "question_id": 262148000 + i,
    }
    for i, x in enumerate(examples)
  ]


# 11: the second of two batches is padded.
EXAMPLES = rows(
  ("yes", ["yes"] * 10, "yes/no"),
  ("yes", ["yes"] * 2 + ["no"] * 8, "yes/no"),
  ("Yes", ["yes"] * 10, "yes/no"),  # Of one opinion: as it is.
  ("Yes.", ["yes"] * 9 + ["no"], "yes/no"),  # Of two: normalized.
  ("Two", ["2"] * 3 + ["two"] * 3 + ["3"] * 4, "number"),
  ("4", ["2"] * 10, "number"),
  ("a  dog\n", [" the\tdog"] * 2 + ["cat"] * 8, "other"),
  ("dog\n", [" dog", "dog "] * 5, "other"),
  ("dog", ["dog"] * 3, "other"),
  ("dog\n", [], "other"),
  ("x", [], ""),
)
ACCS = [1, 0.6, 0, 1, 1, 0, 0.6, 1, 2 / 3]


def test_metrics_and_file(tmp_path):
  got = answers.run(vqav2, EXAMPLES, workdir=str(tmp_path))
  assert list(got) == [
    "acc", "acc/yesno", "num/yesno", "acc/number", "num/number", "acc/other",
    "num/other", "num",
  ]  # fmt: skip
  assert got == {
    "acc": pytest.approx(np.mean(ACCS)),
    "acc/yesno": pytest.approx(np.mean(ACCS[:4])),
    "num/yesno": 4,
    "acc/number": pytest.approx(np.mean(ACCS[4:6])),
    "num/number": 2,
    "acc/other": pytest.approx(np.mean(ACCS[6:])),
    "num/other": 3,
    "num": 11,
  }
  (path,) = tmp_path.iterdir()
  assert path.name == "val__5__.json"
  records = json.loads(path.read_text())
  ids = [r["question_id"] for r in records]
  assert ids == [262148000 + i for i in range(11)]
  assert all(type(x) is int for x in ids)  # As the server wants them.
  of = lambda i: {k: v for k, v in records[i].items() if k != "question_id"}
  assert of(2) == {"answer": "Yes", "answer_raw": "Yes", "gts": ["yes"] * 10}
  assert of(4)["answer"] == "2" and of(4)["answer_raw"] == "Two"
  assert of(4)["gts"] == ["2"] * 6 + ["3"] * 4
  assert of(6)["answer"] == "dog" and of(6)["answer_raw"] == "a  dog\n"
  assert of(6)["gts"] == ["dog"] * 2 + ["cat"] * 8
  assert of(7) == {
    "answer": "dog", "answer_raw": "dog\n", "gts": ["dog"] * 10
  }  # fmt: skip
  assert of(9) == {"answer": "dog\n"} and of(10) == {"answer": "x"}


def test_without_truth(tmp_path):
  """Of a test set, the file is what the server takes."""
  path = tmp_path / "test.json"
  got = answers.run(vqav2, EXAMPLES[-2:], outfile=str(path))
  assert got == {"num": 2}
  assert json.loads(path.read_text()) == [
    {"question_id": 262148009, "answer": "dog\n"},
    {"question_id": 262148010, "answer": "x"},
  ]


def test_groups_without_examples_are_not_there():
  got = answers.run(vqav2, EXAMPLES[4:6])
  assert list(got) == ["acc", "acc/number", "num/number", "num"]
  # Further features may stay on the host.
  examples = [{**x, "question_type": "how many"} for x in EXAMPLES[4:6]]
  assert answers.run(vqav2, examples) == got


def test_repeated_questions_count_as_given(tmp_path):
  path = tmp_path / "x.json"
  twice = [EXAMPLES[0], EXAMPLES[1], EXAMPLES[0]]
  got = answers.run(vqav2, twice, outfile=str(path))
  assert got["acc"] == pytest.approx(2.6 / 3) and got["num"] == 3
  ids = [r["question_id"] for r in json.loads(path.read_text())]
  assert ids == [262148000, 262148001, 262148000]


@pytest.mark.parametrize("key", ["question_id", "answers", "answer_type"])
def test_missing_features(key):
  without = [{k: v for k, v in x.items() if k != key} for x in EXAMPLES]
  with pytest.raises(ValueError, match=f"'{key}' is not in the batch"):
    answers.run(vqav2, without)


def test_unknown_type():
  wrong = rows(("yes", ["yes"] * 10, "yes_no"))
  with pytest.raises(ConfigError, match="unknown answer_type 'yes_no'.*yes/no"):
    answers.run(vqav2, wrong)
