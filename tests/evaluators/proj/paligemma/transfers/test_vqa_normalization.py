"""The form of answers in VQA: the official table, by hand, and by the rules."""

import hashlib

import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import vqa_normalization


def test_table():
  """`contractions` and `manualMap` of the official vqaEval.py, by their hash."""
  table = vqa_normalization.REPLACED
  assert len(table) == 132
  lines = "\n".join(sorted(f"{k}\t{v}" for k, v in table.items()))
  assert hashlib.sha256(lines.encode()).hexdigest() == (
    "1c1b278581a11fabacfac70c98edea963ab9c62c27d5b5417fadd2373acb547b"
  )


def test_number_words():
  words = vqa_normalization.number_words(20)
  assert len(words) == 22
  assert words["none"] == words["zero"] == "0"
  assert [words[w] for w in ("one", "nine", "eleven", "twenty")] == [
    "1", "9", "11", "20"
  ]  # fmt: skip


@pytest.mark.parametrize(
  "text, normal",
  [
    ("", ""),
    ("Two dogs, the dont.", "2 dogs don't"),
    ("None", "0"),
    ("TEN eleven", "10 eleven"),
    ("a", ""),
    ("The man and a  dog\tan", "man and dog"),
    ("men/women", "men women"),
    ("men / women", "men women"),
    ("x-ray", "x ray"),
    ("x-ray - no", "xray no"),  # " -" is somewhere, so that all are removed.
    ("1,000", "1000"),
    ("1,000 men/women", "1000 menwomen"),
    ("a,b", "b"),
    ("what?", "what"),
    ("yes!! no", "yes no"),
    ('[x]{y}(z)"', "x y z"),
    ("a=b+c\\d_e>f<g@h`i;j", "b c d e f g h i j"),
    ("$5 & 50% it's #1:", "$5 & 50% it's #1:"),  # Not in the list.
    ("3.5", "3.5"),
    ("3.", "3"),
    (".5 v.2", ".5 v.2"),
    ("U.S.", "us"),
    ("wont y'alld've somebody'd", "won't y'all'd've somebodyd"),
    ("Im Ive", "im ive"),  # Lower case comes first.
    ("Couldn'tve", "couldn't've"),
  ],
)
def test_by_hand(text, normal):
  assert vqa_normalization.normalize(text) == normal


def by_rule(text):
  """One rule after the other, without regular expressions."""
  has_comma = any(
    text[i] == "," and text[i - 1].isdigit() and text[i + 1].isdigit()
    for i in range(1, len(text) - 1)
  )
  out = text
  for mark in list(";/[]") + ['"', "{", "}", "(", ")", "=", "+", "\\", "_",
                              "-", ">", "<", "@", "`", ",", "?", "!"]:  # fmt: skip
    if has_comma or mark + " " in text or " " + mark in text:
      out = out.replace(mark, "")
    else:
      out = out.replace(mark, " ")
  for i in reversed(range(len(out))):
    if out[i] == "." and not out[i + 1 : i + 2].isdigit():
      out = out[:i] + "#" + out[i + 1 :]
  out = out.replace("#", "").lower().split()
  out = [w for w in out if w not in {"a", "an", "the"}]
  return " ".join(vqa_normalization.REPLACED.get(w, w) for w in out)


def test_by_rule():
  r = np.random.default_rng(0)
  parts = [*';/[]"{}()=+\\_-><@`,?!.,. 12', " a ", "The", "dont", "two", "b"]
  for _ in range(2000):
    text = "".join(r.choice(parts, r.integers(1, 9)))
    assert vqa_normalization.normalize(text) == by_rule(text), text
