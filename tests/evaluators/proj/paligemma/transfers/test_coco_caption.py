"""Captions: scores, both files, bad input. See also test_caption_scores.py."""

import json

import answers
import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import (
  caption_scores,
  coco_caption,
)
from big_vision.lookup import ConfigError

pytestmark = pytest.mark.tf

# 13 images: two batches, of which the second is padded.
EXAMPLES = [
  {
    "image/id": 100 - i,
    "captions": [f"A word{i} here.", f"another word{i}"][: 1 + i % 2],
    "said": f"a word{i} here" if i < 4 else "something else",
  }
  for i in range(13)
]


def test_scores_and_files(tmp_path):
  got = answers.run(coco_caption, EXAMPLES, workdir=str(tmp_path))
  assert list(got) == ["cider"]
  tokens = caption_scores.tokenize
  captions = [tokens(x["said"]) for x in EXAMPLES]
  references = [[tokens(t) for t in x["captions"]] for x in EXAMPLES]
  want = caption_scores.cider(captions, references)
  assert got["cider"] == pytest.approx(want) and want > 1

  names = {
    "bv:answers_val__5___preds.json", "bv:answers_val__5___annotations.json"
  }  # fmt: skip
  assert {p.name for p in tmp_path.iterdir()} == names
  read = lambda name: json.loads((tmp_path / name).read_text())
  assert read("bv:answers_val__5___preds.json") == [
    {"image_id": x["image/id"], "caption": x["said"]} for x in EXAMPLES
  ]
  assert read("bv:answers_val__5___annotations.json") == [
    {"image_id": x["image/id"], "caption": t}
    for x in EXAMPLES
    for t in x["captions"]
  ]


def test_names_of_metrics():
  """In the order of the config, one number each, also without a workdir."""
  names = ["rouge", "bleu-4", "cider"]
  got = answers.run(coco_caption, EXAMPLES, metrics=names)
  assert list(got) == names
  assert all(isinstance(x, float) for x in got.values())
  assert list(answers.run(coco_caption, EXAMPLES, metrics="rouge")) == ["rouge"]


def test_image_ids_may_be_text(tmp_path):
  examples = [
    {"image/id": f"im{i}", "captions": "one text", "said": "one text"}
    for i in range(2)
  ]
  paths = [str(tmp_path / name) for name in ("p.json", "a.json")]
  got = answers.run(
    coco_caption,
    examples,
    metrics=("rouge",),
    preds_outfile=paths[0],
    annot_outfile=paths[1],
  )
  assert got == {"rouge": pytest.approx(1)}
  for path in paths:
    with open(path, encoding="utf-8") as f:
      assert json.load(f)[1] == {"image_id": "im1", "caption": "one text"}


def test_errors(tmp_path):
  for name in ("spice", "meteor", "bleu"):
    with pytest.raises(
      ConfigError, match=f"metrics.*{name}.*only bleu-4, cider, r"
    ):
      answers.make(coco_caption, EXAMPLES, metrics=("cider", name))
  with pytest.raises(ConfigError, match="tokenizer=None"):
    answers.make(coco_caption, EXAMPLES, tokenizer=None)
  twice = [{**x, "image/id": 5} for x in EXAMPLES]
  with pytest.raises(ConfigError, match="image 5 is of two examples"):
    answers.run(coco_caption, twice)
  none = [{**x, "captions": np.array([], str)} for x in EXAMPLES]
  with pytest.raises(ConfigError, match="image 100 is without `captions`"):
    answers.run(coco_caption, none)
  got = answers.run(coco_caption, none, metrics=(), workdir=str(tmp_path))
  assert got == {} and len(list(tmp_path.iterdir())) == 2
  for key in ("captions", "image/id"):
    without = [{k: v for k, v in x.items() if k != key} for x in EXAMPLES]
    with pytest.raises(ValueError, match=f"{key}.* is not in the batch"):
      answers.run(coco_caption, without)
