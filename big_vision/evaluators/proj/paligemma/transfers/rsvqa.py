"""Answers to questions about photos of satellites, of several types.

Reference: Lobry et al. 2020, RSVQA, https://arxiv.org/abs/2003.07333.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from big_vision import lookup
from big_vision.evaluators.proj.paligemma.transfers import common, vqa
from big_vision.types import Devices, PredictFn

API = "jit"

inputs, trial = common.inputs, common.trial

_TYPES = ("comp", "count", "presence", "rural_urban", "area")
_NUMBERS = ("count", "area")


class Evaluator(vqa.Evaluator):
  """Yields what `vqa` yields, and means over types of questions.

  Features: those of `vqa`, and `question_type`: "comp", "count", "presence",
  "rural_urban" or "area".

  After `acc`, `acc_any` and `anls` come `acc_comp` and so on, the means of
  `acc_any` over the questions of a type, of the types that there are; `acc_avg`,
  the mean of these; and `acc_avg_nonum`, that of those whose answers are not
  numbers. On RSVQA-HR these are "comp" and "presence", on RSVQA-LR also
  "rural_urban", so that it is what papers report of either; there is no second
  value without "rural_urban".

  Attributes:
    required: features that must be there.
  """

  required = (*vqa.Evaluator.required, "question_type")

  def __init__(
    self,
    predict_fn: PredictFn,
    tokenizer: str,
    to_lower: bool = False,
    outfile: str | None = "{workdir}/{split}.json",
    *,
    data: Mapping[str, Any],
    devices: Devices,
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: see `common.decode`.
      tokenizer: see `common.TextEvaluator`.
      to_lower: whether upper and lower case are the same.
      outfile: see `common.TextEvaluator`; records are those of `vqa`.
      data: arguments of `datasets.core.get`.
      devices: flat array of devices in the order of the mesh.
      **kw: see `common.TextEvaluator`.
    """
    super().__init__(
      predict_fn,
      tokenizer,
      to_lower,
      outfile,
      data=data,
      devices=devices,
      **kw,
    )

  def score(self, example: common.Example) -> common.Result:
    """Compares an answer with the true ones, see `common.TextEvaluator`.

    Args:
      example: the answer, and features of its example.

    Returns:
      Scores and what is written.

    Raises:
      ConfigError: there is no such type of questions.
    """
    result = super().score(example)
    if result.scores:
      kind = str(example.features["question_type"])
      if kind not in _TYPES:
        raise lookup.unknown(
          "question_type", kind, _TYPES, error=lookup.ConfigError
        )
      result.scores[f"acc_{kind}"] = result.scores["acc_any"]
    return result

  def metrics(
    self, results: list[common.Result]
  ) -> Iterator[tuple[str, float]]:
    """Averages over all and over types, see `common.TextEvaluator`."""
    found = common.means(results)
    of_types = {k: found.pop(f"acc_{k}") for k in _TYPES if f"acc_{k}" in found}
    yield from found.items()
    for kind, value in of_types.items():
      yield f"acc_{kind}", value
    others = [v for kind, v in of_types.items() if kind not in _NUMBERS]
    for name, values in ("", [*of_types.values()]), ("_nonum", others):
      if values:
        yield f"acc_avg{name}", sum(values) / len(values)
    yield "num", len(results)
