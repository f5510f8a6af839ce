"""Answers of yes or no: values by hand, the file, and bad input."""

import json

import answers
import jax
import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import pope
from big_vision.lookup import ConfigError

pytestmark = pytest.mark.tf

# 11: the second of two batches is padded.
SAID = ["yes", "Yes", "NO", "no", "yes.", "maybe"] + ["no"] * 5
TRUE = ["yes", "yes", "no", "yes", "yes", "no"] + ["no"] * 4 + ["No"]
EXAMPLES = [
  dict(question_id=i, answer=true, said=said)
  for i, (true, said) in enumerate(zip(TRUE, SAID, strict=True))
]


def test_metrics_and_file(tmp_path):
  got = answers.run(pope, EXAMPLES, workdir=str(tmp_path))
  assert list(got) == ["acc", "valid_percent", "num"]
  assert got == {
    "acc": pytest.approx(7 / 11),  # "No" is none of the two answers.
    "valid_percent": pytest.approx(9 / 11),
    "num": 11,
  }
  records = json.loads((tmp_path / "val__5__.json").read_text())
  assert records == [
    {"question_id": i, "answer": said.lower()} for i, said in enumerate(SAID)
  ]


def test_arguments_by_their_order(tmp_path):
  answers.SETS["pope"] = EXAMPLES[:3]
  path = tmp_path / "{split}.json"
  evaluator = pope.Evaluator(
    answers.decode,
    dict(name="bv:answers", key="pope", split="test"),
    "",
    answers.TOKENIZER,
    8,
    devices=np.asarray(jax.devices()),
    outfile=str(path),
    out_question_key="id",
    out_answer_key="prediction",
  )
  for _ in range(2):
    assert dict(evaluator.run(answers.state())) == {
      "acc": 1, "valid_percent": 1, "num": 3
    }  # fmt: skip
  assert json.loads((tmp_path / "test.json").read_text())[1] == {
    "id": 1, "prediction": "yes"
  }  # fmt: skip


@pytest.mark.parametrize("key", ["question_id", "answer"])
def test_missing_features(key):
  without = [{k: v for k, v in x.items() if k != key} for x in EXAMPLES]
  with pytest.raises(ValueError, match=f"'{key}' is not in the batch"):
    answers.run(pope, without)


def test_errors():
  with pytest.raises(ConfigError, match="tokenizer=None"):
    answers.make(pope, EXAMPLES, tokenizer=None)
