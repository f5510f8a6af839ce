"""What is written of each example, and how many there are."""

import json

import answers
import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import storepreds
from big_vision.lookup import ConfigError

pytestmark = pytest.mark.tf


@pytest.mark.parametrize("ids", [list(range(11)), [f"é{i}" for i in range(11)]])
def test_file(tmp_path, ids):
  examples = [dict(id=x, said=f"text of {x}") for x in ids]
  got = answers.run(storepreds, examples, workdir=str(tmp_path))
  assert got == {"num_examples": 11}
  (path,) = tmp_path.iterdir()  # No annotations.
  assert path.name == "bv:answers_val__5___preds.json"
  assert json.loads(path.read_text()) == [
    {"id": str(x), "caption": f"text of {x}"} for x in ids
  ]


def test_name_of_the_id(tmp_path):
  examples = [dict(name=np.int64(2**40), said="x")]
  path = tmp_path / "x.json"
  kw = dict(id_key="name", preds_outfile=str(path), annot_outfile="/nowhere")
  assert answers.run(storepreds, examples, **kw) == {"num_examples": 1}
  assert json.loads(path.read_text()) == [{"name": str(2**40), "caption": "x"}]
  assert answers.run(storepreds, examples, id_key="name") == {"num_examples": 1}


def test_errors():
  with pytest.raises(ValueError, match="'id' is not in the batch"):
    answers.run(storepreds, [dict(name=3, said="x")])
  with pytest.raises(ConfigError, match="tokenizer=None"):
    answers.make(storepreds, [dict(id=3, said="x")], tokenizer=None)
