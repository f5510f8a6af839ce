"""Answers to questions: values worked out by hand, the file, and bad input."""

import functools
import json

import answers
import jax
import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import anls, vqa
from big_vision.lookup import ConfigError

pytestmark = pytest.mark.tf


@pytest.mark.parametrize(
  "a, b, distance",
  [
    ("", "", 0),
    ("", "abc", 3),
    ("abc", "", 3),
    ("kitten", "sitting", 3),
    ("flaw", "lawn", 2),
    ("saturday", "sunday", 3),
    ("ab", "ba", 2),
    ("é", "e", 1),
  ],
)
def test_edit_distance(a, b, distance):
  assert anls.edit_distance(a, b) == distance


@pytest.mark.parametrize(
  "target, prediction, value",
  [
    ("", "", 1),
    ("", "x", 0),
    ("x", "", 0),
    ("kitten", "kitten", 1),
    ("kitten", "sitting", 1 - 3 / 7),
    ("ab", "ax", 0),  # 0.5 is not less than 0.5.
    ("abc", "abx", 2 / 3),
    ("cat", "dog", 0),
  ],
)
def test_anls(target, prediction, value):
  assert anls.anls(target, prediction) == pytest.approx(value)
  assert anls.anls("ab", "ax", theta=0.6) == 0.5


def test_anls_of_an_answer_to_a_misspelled_word():
  """One letter of eleven; upper case and spaces are characters, too."""
  assert anls.anls("Hello World", "Hello Wrld") == pytest.approx(0.9090909)
  assert anls.anls("a b", "a  b") == pytest.approx(3 / 4)
  assert anls.anls("A", "a") == 0


def test_single_answer(tmp_path):
  examples = [
    dict(question_id=7, answer="cat", said="cat"),
    dict(question_id=8, answer="cat", said="Cat"),
    dict(question_id=9, answer="kitten", said="sitting"),
    dict(question_id=10, answer="", said=""),
    dict(question_id=11, answer="", said="cat"),
  ]
  got = answers.run(vqa, examples, workdir=str(tmp_path))
  assert list(got) == ["acc", "acc_any", "anls", "num"]
  # Cat: 1 of 3 letters differs.
  anls = (1 + 2 / 3 + 4 / 7 + 1 + 0) / 5
  assert got == {
    "acc": 2 / 5, "acc_any": 2 / 5, "anls": pytest.approx(anls), "num": 5
  }  # fmt: skip
  # The characters [ ] % : of the split are replaced.
  assert [p.name for p in tmp_path.iterdir()] == ["val__5__.json"]
  records = json.loads((tmp_path / "val__5__.json").read_text())
  assert records == [
    {"question_id": 7, "answer": "cat", "gts": ["cat"]},
    {"question_id": 8, "answer": "Cat", "gts": ["cat"]},
    {"question_id": 9, "answer": "sitting", "gts": ["kitten"]},
    {"question_id": 10, "answer": "", "gts": [""]},
    {"question_id": 11, "answer": "cat", "gts": [""]},
  ]


@pytest.mark.parametrize("batch_size", [8, 16])
def test_several_answers(tmp_path, batch_size):
  """More than one batch, of which the last one is not full."""
  sets = [
    ["a"] * 10,
    ["a"] * 2 + ["b"] * 8,
    ["A", "b"],
    ["b", "ab"],
    [],
  ]
  sets = sets * 2 + [["c"]]
  examples = [
    dict(question_id=f"q{i}", answers=np.array(x, str), said="a")
    for i, x in enumerate(sets)
  ]
  kw = dict(
    batch_size=batch_size,
    outfile=str(tmp_path / "sub/{name}_{step}.json"),
    out_question_key="questionId",
    out_answer_key="prediction",
    get_step=lambda: 3,
  )
  got = answers.run(vqa, examples, **kw)
  # Known for 9: two of each kind, and one that is wrong. "ab": 1 of 2 letters.
  assert got == {
    "acc": pytest.approx((2 * (1 + 2 / 3 + 0 + 0) + 0) / 9),
    "acc_any": pytest.approx(2 * 2 / 9),
    "anls": pytest.approx(2 * 2 / 9),
    "num": 11,
  }
  records = json.loads((tmp_path / "sub/bv:answers_3.json").read_text())
  assert [r["questionId"] for r in records] == [f"q{i}" for i in range(11)]
  assert records[1]["gts"] == sets[1]
  assert records[4] == {"questionId": "q4", "prediction": "a"}

  got = answers.run(vqa, examples, to_lower=True, **kw)
  assert got["acc"] == pytest.approx((2 * (1 + 2 / 3 + 1 / 3)) / 9)
  assert got["acc_any"] == pytest.approx(6 / 9)
  records = json.loads((tmp_path / "sub/bv:answers_3.json").read_text())
  assert records[2]["gts"] == ["a", "b"]


def test_without_truth(tmp_path):
  examples = [dict(question_id=i, said="yes") for i in range(3)]
  got = answers.run(vqa, examples, workdir=str(tmp_path))
  assert got == {"num": 3}
  (path,) = tmp_path.iterdir()
  assert json.loads(path.read_text()) == [
    {"question_id": i, "answer": "yes"} for i in range(3)
  ]


@pytest.mark.parametrize(
  "names, question_id",
  [
    (("questionId", "answer"), 57349),  # DocVQA, InfoVQA.
    (("image", "answer"), "VizWiz_test_00000000.jpg"),  # VizWiz.
    (("questionId", "prediction"), "201307251"),  # GQA, whose ids are texts.
    (("question_id", "answer"), 2**40),  # Larger than devices hold.
  ],
)
def test_file_of_a_server(tmp_path, names, question_id):
  """Of a test set: two keys, and ids that are what they were."""
  path = tmp_path / "x.json"
  examples = [
    dict(question_id=question_id, answers=np.array([], str), said="naïve 5")
  ]
  kw = dict(zip(("out_question_key", "out_answer_key"), names, strict=True))
  answers.run(vqa, examples, outfile=str(path), **kw)
  assert json.loads(path.read_text()) == [
    dict(zip(names, (question_id, "naïve 5"), strict=True))
  ]


def test_repeated_questions_count_as_given(tmp_path):
  examples = [
    dict(question_id=i % 2, answer="ab"[i % 2], said="a") for i in range(11)
  ]
  path = tmp_path / "x.json"
  got = answers.run(vqa, examples, outfile=str(path))
  assert got["num"] == 11 and got["acc"] == pytest.approx(6 / 11)
  ids = [r["question_id"] for r in json.loads(path.read_text())]
  assert ids == [i % 2 for i in range(11)]


def test_the_path_is_that_of_the_step_when_it_is_written(tmp_path):
  step = [1]
  evaluator = answers.make(
    vqa,
    [dict(question_id=1, answer="a", said="a")],
    outfile="{workdir}/{step}.json",
    workdir=str(tmp_path),
    get_step=lambda: step[0],
  )
  first = dict(evaluator.run(answers.state()))
  step[0] = 2
  assert dict(evaluator.run(answers.state())) == first
  assert {p.name for p in tmp_path.iterdir()} == {"1.json", "2.json"}


@pytest.mark.parametrize("outfile", [None, "", "{workdir}/x.json"])
def test_nothing_is_written(outfile):
  examples = [dict(question_id=1, answer="a", said="a")]
  assert answers.run(vqa, examples, outfile=outfile)["num"] == 1


def test_tokens():
  """Text ends at the end token; ids that the tokenizer lacks mean nothing."""
  tok = answers.tokenizer.get_tokenizer(answers.TOKENIZER)
  a, b = tok.to_int("ab")
  rows = [
    [a, 1, b, b],
    [a, tok.vocab_size, b, 1],
    [a, b, -1, 10**6],
    [a, 0, 0, 0],
  ]
  examples = [
    dict(question_id=i, answer="a" if i in (0, 3) else "ab", tokens=row)
    for i, row in enumerate(rows)
  ]
  assert answers.run(vqa, examples)["acc"] == 1
  # The length may be cut by the config.
  short = functools.partial(answers.decode, max_decode_len=1)
  got = answers.run(vqa, examples, short)
  assert got["acc"] == 0.5


@pytest.mark.parametrize(
  "place",
  [
    np.asarray,
    jax.numpy.asarray,
    lambda x: jax.device_put(x, jax.devices()[1]),
  ],
)
def test_tokens_may_be_anywhere(place):
  tok = answers.tokenizer.get_tokenizer(answers.TOKENIZER)
  row = tok.to_int("yes")

  def decode(state, batch, *, devices, eos_token):
    with jax.transfer_guard("allow"):
      ids = [tok.to_int(f"{i:03d}") for i in batch["question_id"]]
      return place(np.array([[*row, *i] for i in ids], np.int32))

  examples = [
    dict(question_id=i, answer=f"yes{i:03d}", said="") for i in range(11)
  ]
  assert answers.run(vqa, examples, decode)["acc"] == 1


def test_errors():
  examples = [dict(question_id=1, answer="a", said="a")]
  with pytest.raises(ConfigError, match="tokenizer=None"):
    answers.make(vqa, examples, tokenizer=None)
  with pytest.raises(ValueError, match="question_id.* is not in the batch"):
    answers.run(vqa, [dict(answer="a", said="a")])
  for wrong in (
    lambda tokens: tokens.astype("float32"),
    lambda tokens: tokens[0],
    lambda tokens: tokens[:1],
    lambda tokens: (tokens, tokens),
  ):
    wrong = jax.jit(wrong)
    fn = lambda state, batch, wrong=wrong, **kw: wrong(batch["tokens"])
    with pytest.raises(ConfigError, match="integers \\[8, length\\].*decodes"):
      answers.run(vqa, examples, fn)
