"""Answers yes or no to whether an object is in a picture.

Reference: Li et al. 2023, POPE, https://arxiv.org/abs/2305.10355.
"""

from collections.abc import Mapping
from typing import Any

from big_vision.evaluators.proj.paligemma.transfers import common
from big_vision.types import Devices, PredictFn

API = "jit"

inputs, trial = common.inputs, common.trial


class Evaluator(common.TextEvaluator):
  """Yields `acc`, `valid_percent` and the number of examples `num`.

  Features: `question_id`, and `answer`, "yes" or "no". `valid_percent` is the
  part of answers, in [0, 1] in spite of its name, that are one of these. Upper
  case in answers of the model does not matter.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    data: Mapping[str, Any],
    pp_fn: str,
    tokenizer: str,
    batch_size: int,
    *,
    devices: Devices,
    outfile: str | None = "{workdir}/{split}.json",
    out_question_key: str = "question_id",
    out_answer_key: str = "answer",
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: see `common.decode`.
      data: arguments of `datasets.core.get`.
      pp_fn: preprocessing string.
      tokenizer: see `common.TextEvaluator`.
      batch_size: global batch size, divisible by the number of devices.
      devices: flat array of devices in the order of the mesh.
      outfile: see `common.TextEvaluator`; records have the question's id and
        the answer in lower case.
      out_question_key: name of `question_id` in the file.
      out_answer_key: name of the model's answer in the file.
      **kw: see `common.TextEvaluator`.
    """
    super().__init__(
      predict_fn,
      tokenizer,
      outfile,
      needs=("question_id", "answer"),
      data=data,
      devices=devices,
      pp_fn=pp_fn,
      batch_size=batch_size,
      **kw,
    )
    self._question_key, self._answer_key = out_question_key, out_answer_key

  def score(self, example: common.Example) -> common.Result:
    """Compares an answer with the true one, see `common.TextEvaluator`."""
    (truth,) = common.texts(example.features["answer"])
    answer = example.text.lower()
    record = {
      self._question_key: common.plain(example.features["question_id"]),
      self._answer_key: answer,
    }
    scores = {
      "acc": float(answer == truth),
      "valid_percent": float(answer in ("yes", "no")),
    }
    return common.Result(scores, record)
