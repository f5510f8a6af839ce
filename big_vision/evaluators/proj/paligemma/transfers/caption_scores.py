"""Scores captions by captions of people, as COCO's evaluation does.

Scores take N captions and the references of each; a text is a list of words,
see `tokenize`.

References:
  BLEU     Papineni et al. 2002, https://aclanthology.org/P02-1040
  ROUGE-L  Lin 2004, https://aclanthology.org/W04-1013
  CIDEr-D  Vedantam et al. 2015, section 6, https://arxiv.org/abs/1411.5726
  COCO     Chen et al. 2015, https://arxiv.org/abs/1504.00325
"""

import collections
import functools
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

Words = list[str]
_Ngrams = collections.Counter[tuple[str, ...]]

_QUOTES = str.maketrans("‘’`´“”«»", "''''\"\"\"\"")
# What is neither space nor punctuation; unlike \w, vowel signs of Hindi are.
_CHAR = r"[^\s!-/:-@\[-^`{-~¡¿–—…、。，！？]"
_ABBREVIATED = (
  "mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|inc|co|ltd|mt|ave|blvd|rd|gen|sgt"
)
_TOKEN = re.compile(
  rf"""
    (?:(?:[^\W\d_]\.)+|(?:{_ABBREVIATED})\.)(?!{_CHAR})  # u.s., mr.
  | (?:[-+](?=\d)|[#@](?=[^\W\d]))?                      # -5, #tag
    {_CHAR}+(?:(?:[-./']|(?<=\d)[,:](?=\d)){_CHAR}+)*    # x-ray, 10:30, don't
  | \.+ | -+ | [!?]+ | \S
  """,
  re.VERBOSE,
)
_DROPPED = re.compile(r"[!?,:;'\"–—…]|\.+|-+")
_CLITIC = re.compile(r"(?<=.)(n't|'(?:s|m|d|ll|re|ve))(?=$|')")
_SPLIT = {
  "cannot": "can not", "gonna": "gon na", "gotta": "got ta",
  "wanna": "wan na", "gimme": "gim me", "lemme": "lem me",
  "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-",
  "{": "-lcb-", "}": "-rcb-",
}  # fmt: skip


def tokenize(text: str) -> Words:
  """Splits a caption into words, as the Penn treebank does, nearly.

  Args:
    text: the caption.

  Returns:
    List of words in lower case, without punctuation: "It's a dog (small)." is
    ["it", "'s", "a", "dog", "-lrb-", "small", "-rrb-"].
  """
  words = []
  for token in _TOKEN.findall(text.lower().translate(_QUOTES)):
    if not _DROPPED.fullmatch(token):
      words += _CLITIC.sub(r" \1", _SPLIT.get(token) or token).split()
  return words


def bleu4(
  captions: Sequence[Words], references: Sequence[Sequence[Words]]
) -> float:
  """Computes BLEU of n-grams of up to 4 words, of all captions as a whole.

  Args:
    captions: N.
    references: one or more of each. The most similar one in length, of two the
      shorter one, is as long as a caption should be.

  Returns:
    In [0, 1]; like COCO's, not exactly 0 where nothing is in common.
  """
  if not any(captions):
    return 0.0
  log_score = 0.0
  for n in range(1, 5):
    same, num = 1e-15, 1e-9
    for words, others in zip(captions, references, strict=True):
      found = _ngrams(words, n)
      most = functools.reduce(operator.or_, (_ngrams(r, n) for r in others))
      same += (found & most).total()
      num += found.total()
    log_score += math.log(same / num) / 4
  wanted = 0
  for words, others in zip(captions, references, strict=True):
    sizes = sorted(map(len, others))
    wanted += sizes[int(np.argmin([abs(n - len(words)) for n in sizes]))]
  brevity = 1 - wanted / sum(map(len, captions))
  return math.exp(log_score + min(0.0, brevity))


def rouge_l(
  captions: Sequence[Words],
  references: Sequence[Sequence[Words]],
  beta: float = 1.2,
) -> float:
  """Computes ROUGE-L: how much of captions is in references in the same order.

  Args:
    captions: N.
    references: one or more of each; precision and recall are the best of any.
    beta: weight of recall.

  Returns:
    Mean in [0, 1].
  """

  def score(words, others):
    common = [_common_length(words, r) for r in others]
    if not any(common):
      return 0.0
    precision = max(common) / len(words)
    recall = max(c / len(r) for c, r in zip(common, others, strict=True) if r)
    weight = beta**2
    return (1 + weight) * precision * recall / (recall + weight * precision)

  return _mean(map(score, captions, references))


def cider(
  captions: Sequence[Words],
  references: Sequence[Sequence[Words]],
  sigma: float = 6.0,
) -> float:
  """Computes CIDEr-D: similarity of n-grams, of which rare ones count more.

  Args:
    captions: N.
    references: one or more of each; how rare an n-gram is, is the number of
      captions in whose references it occurs.
    sigma: difference of lengths, in words, that is tolerated.

  Returns:
    Mean in [0, 10]; papers multiply it by 100. 0 for a single caption, as
    nothing is rare then.
  """
  sizes = range(1, 5)
  num_with = collections.Counter(
    ngram
    for others in references
    for ngram in {g for r in others for n in sizes for g in _ngrams(r, n)}
  )

  def weigh(ngrams):
    """Weights n-grams; also returns their norm."""
    weights = {
      ngram: count * math.log(len(captions) / max(1, num_with[ngram]))
      for ngram, count in ngrams.items()
    }
    return weights, math.hypot(*weights.values())

  def score(words, others):
    of_caption = [weigh(_ngrams(words, n)) for n in sizes]
    total = 0.0
    for other in others:
      # COCO's code takes the number of bigrams for the length.
      apart = max(len(words), 1) - max(len(other), 1)
      near = math.exp(-(apart**2) / (2 * sigma**2))
      for n, (a, norm_a) in zip(sizes, of_caption, strict=True):
        b, norm_b = weigh(_ngrams(other, n))
        product = sum(min(a[g], b[g]) * b[g] for g in a.keys() & b.keys())
        total += near * product / (norm_a * norm_b) if product else 0.0
    return 10 * total / len(sizes) / len(others)

  return _mean(map(score, captions, references))


SCORES: dict[str, Callable[..., float]] = {
  "bleu-4": bleu4,
  "cider": cider,
  "rouge": rouge_l,
}


def _ngrams(words: Words, n: int) -> _Ngrams:
  """Counts the runs of n words."""
  return collections.Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _common_length(a: Words, b: Words) -> int:
  """Returns the length of the longest common subsequence."""
  row = [0] * (len(b) + 1)
  for x in a:
    before = 0  # What `row[j]` was for one word of `a` less.
    for j, y in enumerate(b):
      best = before + 1 if x == y else max(row[j], row[j + 1])
      before, row[j + 1] = row[j + 1], best
  return row[-1]


def _mean(values: Iterable[float]) -> float:
  values = list(values)
  return math.fsum(values) / len(values)
