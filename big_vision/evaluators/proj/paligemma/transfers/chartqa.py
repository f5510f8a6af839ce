"""Answers to questions about charts, of which numbers may be nearly right."""

from collections.abc import Mapping
from typing import Any

from big_vision.evaluators.proj.paligemma.transfers import common
from big_vision.types import Devices, PredictFn

API = "jit"

inputs, trial = common.inputs, common.trial


class Evaluator(common.TextEvaluator):
  """Yields `acc`, `relaxed_acc` and the number of examples `num`.

  Features: `question_id`, and `answer`, a text. `acc` is the part of answers
  that equal it, `relaxed_acc` of those that match it, see `relaxed_match`.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    tokenizer: str,
    to_lower: bool = False,
    outfile: str | None = "{workdir}/{split}.json",
    out_question_key: str = "question_id",
    out_answer_key: str = "answer",
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
      outfile: see `common.TextEvaluator`; records have the question's id, the
        answer, the true one, `gt`, and `relaxed_match`.
      out_question_key: name of `question_id` in the file.
      out_answer_key: name of the model's answer in the file.
      data: arguments of `datasets.core.get`.
      devices: flat array of devices in the order of the mesh.
      **kw: see `common.TextEvaluator`.
    """
    super().__init__(
      predict_fn,
      tokenizer,
      outfile,
      needs=("question_id", "answer"),
      to_lower=to_lower,
      data=data,
      devices=devices,
      **kw,
    )
    self._question_key, self._answer_key = out_question_key, out_answer_key

  def score(self, example: common.Example) -> common.Result:
    """Compares an answer with the true one, see `common.TextEvaluator`."""
    (truth,) = common.texts(example.features["answer"], self.convert)
    matches = relaxed_match(truth, example.text)
    record = {
      self._question_key: common.plain(example.features["question_id"]),
      self._answer_key: example.text,
      "gt": truth,
      "relaxed_match": matches,
    }
    scores = {
      "acc": float(example.text == truth),
      "relaxed_acc": float(matches),
    }
    return common.Result(scores, record)


def relaxed_match(target: str, prediction: str, most: float = 0.05) -> bool:
  """Tells whether an answer is right, or nearly so if it is a number.

  Reference: Methani et al. 2020, PlotQA, https://arxiv.org/abs/1909.00997.

  Args:
    target: the truth.
    prediction: the answer.
    most: difference that is allowed, relative to the truth.

  Returns:
    Whether two numbers, of which the true one is not 0, are near; for others,
    and for texts, whether they are written the same. "5%" is 0.05; "1,000" is a
    text.
  """
  wanted, got = _number(target), _number(prediction)
  if got is None or not wanted:
    return prediction == target
  return abs(got - wanted) / abs(wanted) <= most


def _number(text: str) -> float | None:
  try:
    return float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
  except ValueError:
    return None
