"""Chooses among answers to questions of school science.

Reference: Lu et al. 2022, ScienceQA, https://arxiv.org/abs/2209.09513.
"""

import re
from collections.abc import Mapping
from typing import Any

from big_vision.evaluators.proj.paligemma.transfers import common
from big_vision.types import Devices, PredictFn

API = "jit"

inputs, trial = common.inputs, common.trial

_FAILED = "failed"


class Evaluator(common.TextEvaluator):
  """Yields `acc`, `parsefail` and the number of examples `num`.

  Features: `question_id`, and `answer`, a text such as "The answer is B.", which
  more may follow, in the model's answers, too. Without it there is no `acc`.
  `parsefail` is the part of the model's answers that do not begin like this;
  they are wrong. Upper and lower case are the same.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    tokenizer: str,
    outfile: str | None = "{workdir}/{split}.json",
    out_question_key: str = "question_id",
    *,
    data: Mapping[str, Any],
    devices: Devices,
    **kw: Any,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: see `common.decode`.
      tokenizer: see `common.TextEvaluator`.
      outfile: see `common.TextEvaluator`; records have the question's id, the
        text of the model as `raw_answer`, its choice as `answer`, which is a
        small letter or "failed", and, if it is known, the true one in the list
        `gts`.
      out_question_key: name of `question_id` in the file.
      data: arguments of `datasets.core.get`.
      devices: flat array of devices in the order of the mesh.
      **kw: see `common.TextEvaluator`.
    """
    super().__init__(
      predict_fn,
      tokenizer,
      outfile,
      needs=("question_id",),
      optional=("answer",),
      data=data,
      devices=devices,
      **kw,
    )
    self._question_key = out_question_key

  def score(self, example: common.Example) -> common.Result:
    """Compares a choice with the true one, see `common.TextEvaluator`."""
    answer = _choice(example.text)
    truths = common.texts(example.features.get("answer", ()), _choice)
    record = {
      self._question_key: common.plain(example.features["question_id"]),
      "raw_answer": example.text,
      "answer": answer,
    }
    is_parsed = answer != _FAILED
    scores = {"parsefail": float(not is_parsed)}
    if truths:
      scores = {"acc": float(is_parsed and answer in truths), **scores}
      record["gts"] = truths
    return common.Result(scores, record)


def _choice(text: str) -> str:
  match = re.match(r"the answer is ([a-z])\.", text.lower())
  return match[1] if match else _FAILED
