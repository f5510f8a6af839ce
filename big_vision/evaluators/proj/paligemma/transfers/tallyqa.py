"""Counts objects in pictures.

Reference: Acharya et al. 2019, TallyQA, https://arxiv.org/abs/1810.12440.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from big_vision.evaluators.proj.paligemma.transfers import common
from big_vision.evaluators.proj.paligemma.transfers.vqa_normalization import (
  number_words,
)
from big_vision.types import Devices, PredictFn

API = "jit"

inputs, trial = common.inputs, common.trial

_WORDS = number_words(20)
_KINDS = {1: "simple", 0: "complex"}
_GROUPS = ("simple", "complex", *(f"count_{i}" for i in range(16)))


class Evaluator(common.TextEvaluator):
  """Yields `acc` and `num`; and `acc/…` and `num/…` of groups of examples.

  Groups are "simple" and "complex" questions, and "count_0" to "count_15" by
  the true number; those without examples are not there. Larger numbers are in
  none of the latter.

  Features: `answer`, a number or a text, and, if known, `issimple`: 1, 0, or
  anything else for neither. Words up to "twenty", and "none", are the same as
  digits.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    tokenizer: str,
    *,
    data: Mapping[str, Any],
    devices: Devices,
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: see `common.decode`.
      tokenizer: see `common.TextEvaluator`.
      data: arguments of `datasets.core.get`.
      devices: flat array of devices in the order of the mesh.
      **kw: see `common.TextEvaluator`; by default, no file is written.
    """
    super().__init__(
      predict_fn,
      tokenizer,
      needs=("answer",),
      optional=("issimple",),
      data=data,
      devices=devices,
      **kw,
    )

  def score(self, example: common.Example) -> common.Result:
    """Compares a number with the true one, see `common.TextEvaluator`."""
    (truth,) = common.texts(example.features["answer"], _digits)
    answer = _digits(example.text)
    acc = float(answer == truth)
    kind = _KINDS.get(int(example.features.get("issimple", -1)))
    groups = {kind, f"count_{truth}"} & set(_GROUPS)
    scores = {"acc": acc, **{f"acc/{group}": acc for group in groups}}
    return common.Result(scores, {"answer": answer, "gts": [truth]})

  def metrics(
    self, results: list[common.Result]
  ) -> Iterator[tuple[str, float]]:
    """Averages over all and over groups, see `common.TextEvaluator`."""
    acc, *of_groups = common.means_by_group(results, _GROUPS)
    yield from (acc, ("num", len(results)), *of_groups)


def _digits(text: str) -> str:
  return _WORDS.get(text.lower(), text)
