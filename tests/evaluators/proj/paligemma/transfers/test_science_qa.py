"""Choices among answers: values by hand, the file, and bad input."""

import json

import answers
import pytest

from big_vision.evaluators.proj.paligemma.transfers import science_qa

pytestmark = pytest.mark.tf

# What is said, and which letter it is.
CASES = [
  ("The answer is B.", "b"),
  ("the answer is b. BECAUSE: it is", "b"),
  ("THE ANSWER IS B.", "b"),
  ("The answer is A.", "a"),
  ("The answer is B", "failed"),
  ("The answer is (B).", "failed"),
  ("The answer is BB.", "failed"),
  ("The answer is 2.", "failed"),
  ("So: the answer is B.", "failed"),
  ("B", "failed"),
  ("", "failed"),
]


def test_metrics_and_file(tmp_path):
  """11: the second of two batches is padded."""
  examples = [
    dict(question_id=2**40 + i, answer="The answer is B.", said=said)
    for i, (said, _) in enumerate(CASES)
  ]
  got = answers.run(science_qa, examples, workdir=str(tmp_path))
  assert list(got) == ["acc", "parsefail", "num"]
  assert got == {
    "acc": pytest.approx(3 / 11), "parsefail": pytest.approx(7 / 11), "num": 11
  }  # fmt: skip
  records = json.loads((tmp_path / "val__5__.json").read_text())
  assert records == [
    {"question_id": 2**40 + i, "raw_answer": said, "answer": x, "gts": ["b"]}
    for i, (said, x) in enumerate(CASES)
  ]


def test_two_that_cannot_be_read_are_not_equal():
  examples = [dict(question_id=0, answer="B", said="B")]
  assert answers.run(science_qa, examples) == {
    "acc": 0, "parsefail": 1, "num": 1
  }  # fmt: skip


def test_without_truth(tmp_path):
  path = tmp_path / "x.json"
  got = answers.run(
    science_qa,
    [dict(question_id=0, said="The answer is C.")],
    outfile=str(path),
    out_question_key="id",
  )
  assert got == {"parsefail": 0, "num": 1}
  assert json.loads(path.read_text()) == [
    {"id": 0, "raw_answer": "The answer is C.", "answer": "c"}
  ]


def test_missing_feature():
  with pytest.raises(ValueError, match="'question_id' is not in the batch"):
    answers.run(science_qa, [dict(answer="x", said="x")])
