"""Questions about photos of satellites: means over types, and bad input."""

import json

import answers
import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import rsvqa, vqa
from big_vision.lookup import ConfigError

pytestmark = pytest.mark.tf


def rows(*examples, key="answers"):
  as_given = lambda x: x if key == "answer" else np.array(x, str)
  return [
    {"question_id": i, "said": said, key: as_given(true), "question_type": kind}
    for i, (said, true, kind) in enumerate(examples)
  ]


# 11: the second of two batches is padded.
EXAMPLES = rows(
  ("yes", ["yes"], "comp"),
  ("no", ["yes"], "comp"),
  ("yes", ["yes"], "presence"),
  ("yes", ["no", "yes"], "presence"),
  ("no", ["no"], "presence"),
  ("Yes", ["yes"], "presence"),
  ("rural", ["urban"], "rural_urban"),
  ("0", ["0"], "count"),
  ("0", ["between 1 and 10"], "count"),
  ("0 m2", ["0 m2"] * 3, "area"),
  ("no", [], "comp"),  # Not known.
)


def test_metrics_and_file(tmp_path):
  got = answers.run(rsvqa, EXAMPLES, workdir=str(tmp_path))
  assert list(got) == [
    "acc", "acc_any", "anls", "acc_comp", "acc_count", "acc_presence",
    "acc_rural_urban", "acc_area", "acc_avg", "acc_avg_nonum", "num",
  ]  # fmt: skip
  plain = answers.run(vqa, EXAMPLES, keep_on_cpu=["question_type"])
  assert {k: got[k] for k in plain} == plain
  assert got["acc_any"] == pytest.approx(6 / 10) and got["num"] == 11
  want = dict(comp=1 / 2, presence=3 / 4, rural_urban=0, count=1 / 2, area=1)
  for kind, value in want.items():
    assert got[f"acc_{kind}"] == pytest.approx(value)
  assert got["acc_avg"] == pytest.approx(sum(want.values()) / 5)
  assert got["acc_avg_nonum"] == pytest.approx((1 / 2 + 3 / 4 + 0) / 3)
  records = json.loads((tmp_path / "val__5__.json").read_text())
  assert records[3] == {"question_id": 3, "answer": "yes", "gts": ["no", "yes"]}
  assert records[10] == {"question_id": 10, "answer": "no"}


def test_without_photos_of_low_resolution():
  """RSVQA-HR does not ask whether it is rural."""
  examples = [x for x in EXAMPLES if x["question_type"] != "rural_urban"]
  got = answers.run(rsvqa, examples, to_lower=True)
  assert "acc_rural_urban" not in got
  assert got["acc_avg_nonum"] == pytest.approx((1 / 2 + 1) / 2)


def test_numbers_only():
  got = answers.run(rsvqa, EXAMPLES[7:10])
  assert got["acc_avg"] == 0.75 and "acc_avg_nonum" not in got


def test_single_answers():
  examples = rows(("a", "a", "comp"), ("a", "b", "comp"), key="answer")
  assert answers.run(rsvqa, examples) == {
    "acc": 0.5, "acc_any": 0.5, "anls": 0.5, "acc_comp": 0.5, "acc_avg": 0.5,
    "acc_avg_nonum": 0.5, "num": 2,
  }  # fmt: skip


def test_without_truth():
  assert answers.run(rsvqa, EXAMPLES[-1:]) == {"num": 1}


@pytest.mark.parametrize("key", ["question_id", "question_type"])
def test_missing_features(key):
  without = [{k: v for k, v in x.items() if k != key} for x in EXAMPLES]
  with pytest.raises(ValueError, match=f"'{key}' is not in the batch"):
    answers.run(rsvqa, without)


def test_unknown_type():
  wrong = rows(("yes", ["yes"], "presense"))
  with pytest.raises(ConfigError, match="'presense'. Did you mean 'presence'"):
    answers.run(rsvqa, wrong)
