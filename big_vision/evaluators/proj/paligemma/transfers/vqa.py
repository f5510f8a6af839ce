"""Answers to questions about images, compared with those of people."""

from collections.abc import Mapping
from typing import Any

from big_vision.evaluators.proj.paligemma.transfers import common
from big_vision.evaluators.proj.paligemma.transfers.anls import anls
from big_vision.types import Devices, PredictFn

API = "jit"

inputs, trial = common.inputs, common.trial


class Evaluator(common.TextEvaluator):
  """Yields `acc`, `acc_any` and `anls`, and the number of examples `num`.

  Features: `question_id`, and either `answer`, a text, or `answers`, several
  ones, none where the truth is not known. Without any truth, there is only
  `num`.

  `acc` is 1 if the answer is right; of several ones, if three people gave it,
  and a third for each if they are fewer. `acc_any` is 1 if one did. `anls` is
  that of the most similar one, see `anls.py`.

  Attributes:
    required: features that must be there.
  """

  required = ("question_id",)

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
        answer and, if they are known, the true ones, `gts`.
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
      needs=self.required,
      optional=("answer", "answers"),
      to_lower=to_lower,
      data=data,
      devices=devices,
      **kw,
    )
    self._question_key, self._answer_key = out_question_key, out_answer_key

  def score(self, example: common.Example) -> common.Result:
    """Compares an answer with the true ones, see `common.TextEvaluator`."""
    features, answer = example.features, example.text
    record = {
      self._question_key: common.plain(features["question_id"]),
      self._answer_key: answer,
    }
    enough = 1 if "answer" in features else 3
    truths = features.get("answer", features.get("answers", ()))
    truths = common.texts(truths, self.convert)
    if not truths:
      return common.Result({}, record)
    same = truths.count(answer)
    scores = {
      "acc": min(1.0, same / enough),
      "acc_any": min(1.0, same),
      "anls": max(anls(truth, answer) for truth in truths),
    }
    return common.Result(scores, {**record, "gts": truths})
