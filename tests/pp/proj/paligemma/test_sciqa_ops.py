"""Shuffled multiple choice."""

import collections
import re

import numpy as np
import pytest
from scipy import stats

from big_vision.pp import builder, rng
from big_vision.pp.proj.paligemma import sciqa_ops
from big_vision.tf import tf

pytestmark = pytest.mark.tf

assert sciqa_ops  # Importing it registers its ops.


def draw(num, choices, answer, args="", threads=1):
  """`num` pairs (indexed choices, indexed answer)."""
  pp = f"sci_qa_choices_shuffle({args})"
  fn = builder.get_preprocess_fn(pp, log_data=False)
  choices = tf.constant(choices, tf.string)

  def prepare(i):
    with rng.example_seed(tf.stack([i, 5])):
      return fn({"choices": choices, "answer": answer})

  ds = tf.data.Dataset.range(num).map(prepare, threads, deterministic=True)
  for key in ("indexed_choices", "indexed_answer"):
    assert ds.element_spec[key].shape == []
  return [
    (x["indexed_choices"].decode(), x["indexed_answer"].decode())
    for x in ds.as_numpy_iterator()
  ]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", None])
def test_the_letter_is_that_of_the_answer(dtype):
  names = ["a cat", "dogs, two", "größer"]
  answer = 1 if dtype is None else tf.constant(1, dtype)
  seen = collections.Counter()
  for text, letter in draw(120, names, answer):
    found = re.fullmatch(r"\(A\) (.+), \(B\) (.+), \(C\) (.+)", text)
    assert found and sorted(found.groups()) == sorted(names)
    assert found["ABC".index(letter) + 1] == names[1]
    seen[text] += 1
  assert len(seen) == 6
  assert stats.chisquare(list(seen.values())).pvalue > 1e-3


def test_draws_do_not_depend_on_threads():
  assert draw(30, list("abcdef"), 2) == draw(30, list("abcdef"), 2, threads=4)


def test_answers_that_do_not_exist():
  for answer in (-1, 2, 2**32):
    answer = tf.constant(answer, tf.int64)
    (_, letter), *_ = draw(1, ["a", "b"], answer)
    assert letter == ""
  assert draw(1, [], 0) == [("", "")]
  assert draw(1, ["x"], 0) == [("(A) x", "A")]


def test_more_choices_than_letters():
  names = [f"c{i}" for i in range(60)]
  (text, letter), *_ = draw(1, names, 59)
  found = dict(re.findall(r"\((\w+)\) (c\d+)", text))
  assert list(found)[:2] == ["A", "B"] and list(found)[25:28] == [
    "Z", "AA", "AB"
  ]  # fmt: skip
  assert sorted(found.values()) == sorted(names) and found[letter] == "c59"


def test_names_of_entries():
  fn = builder.get_preprocess_fn(
    "sci_qa_choices_shuffle('c', 'a', 'ic', 'ia')", log_data=False
  )
  got = fn({"c": np.array(["x"]), "a": np.int64(0)})
  assert got["ic"].numpy() == b"(A) x" and got["ia"].numpy() == b"A"
