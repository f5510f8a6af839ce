"""Numbers of objects: values by hand, groups, and bad input."""

import json

import answers
import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import tallyqa

pytestmark = pytest.mark.tf

# What is said, what is true, whether it is simple: 11, so that the second of
# two batches is padded.
CASES = [
  ("2", "2", 1),
  ("two", "2", 1),
  ("Two", "2", 0),
  ("3", "2", 0),
  ("two dogs", "2", 0),
  ("none", "0", 1),
  ("zero", "0", -1),
  ("Fifteen", "15", 1),
  ("15", "fifteen", 2),
  ("20", "twenty", 1),  # Larger than the largest group.
  ("many", "many", 0),
]


@pytest.mark.parametrize("of_file", [str, int])
def test_metrics(tmp_path, of_file):
  cases = CASES if of_file is str else [x for x in CASES if x[1].isdigit()]
  examples = [
    dict(answer=of_file(true), issimple=np.int32(simple), said=said)
    for said, true, simple in cases
  ]
  got = answers.run(tallyqa, examples, workdir=str(tmp_path))
  assert not list(tmp_path.iterdir())
  keys = ["", "/simple", "/complex", "/count_0", "/count_2", "/count_15"]
  assert list(got) == [f"{x}{k}" for k in keys for x in ("acc", "num")]
  if of_file is int:
    assert got == {
      "acc": 6 / 8, "num": 8,
      "acc/simple": 1, "num/simple": 4,
      "acc/complex": pytest.approx(1 / 3), "num/complex": 3,
      "acc/count_0": 1, "num/count_0": 2,
      "acc/count_2": pytest.approx(3 / 5), "num/count_2": 5,
      "acc/count_15": 1, "num/count_15": 1,
    }  # fmt: skip
  else:
    assert got == {
      "acc": pytest.approx(9 / 11), "num": 11,
      "acc/simple": 1, "num/simple": 5,
      "acc/complex": 2 / 4, "num/complex": 4,
      "acc/count_0": 1, "num/count_0": 2,
      "acc/count_2": pytest.approx(3 / 5), "num/count_2": 5,
      "acc/count_15": 1, "num/count_15": 2,
    }  # fmt: skip


def test_without_kinds(tmp_path):
  """CountBenchQA does not tell what is simple."""
  path = tmp_path / "x.json"
  examples = [dict(answer="3", said="three"), dict(answer="16", said="3")]
  got = answers.run(tallyqa, examples, outfile=str(path))
  assert got == {"acc": 0.5, "num": 2, "acc/count_3": 1, "num/count_3": 1}
  assert json.loads(path.read_text()) == [
    {"answer": "3", "gts": ["3"]}, {"answer": "3", "gts": ["16"]}
  ]  # fmt: skip


def test_missing_feature():
  with pytest.raises(ValueError, match="'answer' is not in the batch"):
    answers.run(tallyqa, [dict(issimple=1, said="3")])
