"""Questions about charts: relaxed accuracy by hand, the file, and bad input."""

import json

import answers
import pytest

from big_vision.evaluators.proj.paligemma.transfers import chartqa

pytestmark = pytest.mark.tf


@pytest.mark.parametrize(
  "target, prediction, matches",
  [
    ("100", "105", True),
    ("100", "95", True),
    ("100", "105.01", False),
    ("100", "94.9", False),
    ("105", "100", True),  # Relative to the truth: 4.8%.
    ("95", "100", False),  # 5.3%.
    ("-10", "-10.4", True),
    ("-10", "10", False),
    ("5%", "0.051", True),
    ("5%", "5", False),
    ("0.05", "5%%", True),
    ("5 %", "5", False),
    (" 5 ", "5.1", True),
    ("1e3", "1000", True),
    ("0", "0", True),
    ("0", "0.0", False),  # Nothing is near 0.
    ("0%", "0%", True),
    ("1,000", "1000", False),
    ("1,000", "1,000", True),
    ("2010", "2015", True),  # Years are numbers, too.
    ("nan", "nan", False),
    ("inf", "inf", False),
    ("%", "%", True),
    ("", "", True),
    ("Yes", "Yes", True),
    ("Yes", "yes", False),
    ("5", "five", False),
    ("five", "5", False),
  ],
)
def test_relaxed_match(target, prediction, matches):
  assert chartqa.relaxed_match(target, prediction) is matches


def test_relaxed_match_of_another_tolerance():
  assert chartqa.relaxed_match("100", "109", most=0.1)
  assert not chartqa.relaxed_match("100", "101", most=0.0)


# 11: the second of two batches is padded.
SAID = ["yes", "Yes", "10", "10.4", "11", "5%"] + ["no"] * 5
TRUE = ["yes", "yes", "10", "10", "10", "0.05"] + ["yes"] * 5
EXAMPLES = [
  dict(question_id=i, answer=true, said=said)
  for i, (true, said) in enumerate(zip(TRUE, SAID, strict=True))
]


def test_metrics_and_file(tmp_path):
  got = answers.run(chartqa, EXAMPLES, workdir=str(tmp_path))
  assert list(got) == ["acc", "relaxed_acc", "num"]
  assert got == {
    "acc": pytest.approx(2 / 11),
    "relaxed_acc": pytest.approx(4 / 11),
    "num": 11,
  }
  records = json.loads((tmp_path / "val__5__.json").read_text())
  assert [list(r) for r in records] == [
    ["question_id", "answer", "gt", "relaxed_match"]
  ] * 11
  assert records[3] == {
    "question_id": 3, "answer": "10.4", "gt": "10", "relaxed_match": True
  }  # fmt: skip
  assert [r["relaxed_match"] for r in records] == (
    [True, False, True, True, False, True] + [False] * 5
  )


def test_lower_case_and_names(tmp_path):
  path = tmp_path / "x.json"
  got = answers.run(
    chartqa,
    [dict(question_id="a", answer="YES", said="Yes")],
    to_lower=True,
    outfile=str(path),
    out_question_key="id",
    out_answer_key="prediction",
  )
  assert got == {"acc": 1, "relaxed_acc": 1, "num": 1}
  assert json.loads(path.read_text()) == [
    {"id": "a", "prediction": "yes", "gt": "yes", "relaxed_match": True}
  ]


@pytest.mark.parametrize("key", ["question_id", "answer"])
def test_missing_features(key):
  without = [{k: v for k, v in x.items() if k != key} for x in EXAMPLES]
  with pytest.raises(ValueError, match=f"'{key}' is not in the batch"):
    answers.run(chartqa, without)
