"""Answers to questions about photos, compared as VQA's evaluation does."""

from collections.abc import Iterator, Mapping
from typing import Any

from big_vision import lookup
from big_vision.evaluators.proj.paligemma.transfers import common
from big_vision.evaluators.proj.paligemma.transfers.vqa_normalization import (
  normalize,
)
from big_vision.types import Devices, PredictFn

API = "jit"

inputs, trial = common.inputs, common.trial

# Types of answers, and what they are called in metrics.
_TYPES = {"yes/no": "yesno", "number": "number", "other": "other"}


class Evaluator(common.TextEvaluator):
  """Yields `acc`, and of types of answers `acc/yesno`, `num/yesno`, …; `num`.

  Features: `question_id`; `answers`, those of ten people, none where they are
  not known; and `answer_type`, one of "yes/no", "number" and "other".

  `acc` is the mean over all answers known but one, for each that is left out,
  of 1 if three people or more gave the model's answer, and a third for each if
  they are fewer: for 0, 1, 2, 3 and 4 or more of ten it is 0, 0.3, 0.6, 0.9 and
  1. People may be more or fewer than ten. Of a single one nobody is left, which
  is 0: `vqa` is for such data. If people are not of one opinion, answers are
  compared as `vqa_normalization.normalize` writes them.

  `num/yesno` is how many questions of this type have known answers, `num` how
  many questions there are. Types without any are not there.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    tokenizer: str,
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
      outfile: see `common.TextEvaluator`. Records have `question_id` and
        `answer`, which is what the server of VQA takes; if answers are known,
        `answer` and these, `gts`, are as they are compared, and `answer_raw`
        is as the model gave it.
      data: arguments of `datasets.core.get`.
      devices: flat array of devices in the order of the mesh.
      **kw: see `common.TextEvaluator`.
    """
    super().__init__(
      predict_fn,
      tokenizer,
      outfile,
      needs=("question_id", "answers", "answer_type"),
      optional=("question_type",),
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
      ConfigError: there is no such type of answers.
    """
    features = example.features
    record = {"question_id": common.plain(features["question_id"])}
    truths = common.texts(features["answers"], self.convert)
    if not truths:
      return common.Result({}, {**record, "answer": example.text})
    answer, *truths = map(_stripped, (example.text, *truths))
    if len(set(truths)) > 1:
      answer, *truths = map(normalize, (answer, *truths))
    kind = str(features["answer_type"])
    if kind not in _TYPES:
      raise lookup.unknown(
        "answer_type", kind, _TYPES, error=lookup.ConfigError
      )
    acc = accuracy(truths, answer)
    record |= {"answer": answer, "answer_raw": example.text, "gts": truths}
    return common.Result({"acc": acc, f"acc/{_TYPES[kind]}": acc}, record)

  def metrics(
    self, results: list[common.Result]
  ) -> Iterator[tuple[str, float]]:
    """Averages over all and over types, see `common.TextEvaluator`."""
    yield from common.means_by_group(results, _TYPES.values())
    yield "num", len(results)


def accuracy(targets: list[str], prediction: str) -> float:
  """Scores an answer by how many people gave it.

  Args:
    targets: answers of people, not empty.
    prediction: the answer.

  Returns:
    In [0, 1], see `Evaluator`.
  """
  same = targets.count(prediction)
  others = [same - (target == prediction) for target in targets]
  return sum(min(1.0, num / 3) for num in others) / len(others)


def _stripped(text: str) -> str:
  return text.replace("\n", " ").replace("\t", " ").strip()
