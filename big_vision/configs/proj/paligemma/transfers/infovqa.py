"""InfographicVQA: questions about infographics.

Mathew et al. 2021, https://arxiv.org/abs/2104.12756, https://www.docvqa.org

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/infovqa.py:res=896 \
    --workdir workdirs/infovqa
"""

from collections.abc import Callable, Mapping
from typing import Any

import ml_collections as mlc

from big_vision import lookup
from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

# What `metrics` compares.
PARTS, METRICS = ("minival", "minitrain"), ("anls", "acc", "pplx/avg")

_BATCH_SIZES = {224: 256, 448: 128, 896: 32, demo.SIZE: demo.BATCH_SIZE}


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `text_len`, `final_split` to train on all that has answers,
      `mode`, `demo`.

  Returns:
    The config.
  """
  return make(
    arg,
    "infovqa",
    dict(total_epochs=3, label_smoothing=0.4),
    out_question_key="questionId",
    out_answer_key="answer",
  )


def make(
  arg: str | None, name: str, recipe: Mapping[str, Any], **evaluator: Any
) -> mlc.ConfigDict:
  """Makes the config of a dataset with answers that are read in the picture.

  Args:
    arg: see `get_config`.
    name: of the dataset, which has the splits of InfographicVQA.
    recipe: what `transfer.settings` takes besides.
    **evaluator: what evaluators of answers take besides.

  Returns:
    The config.

  Raises:
    KeyError: there is no batch size for this resolution.
  """
  c = transfer.parse(arg, res=896, text_len=48, final_split=False)
  if c.res not in _BATCH_SIZES:
    raise lookup.unknown("resolution", c.res, _BATCH_SIZES, "res", KeyError)
  before = [transfer.image(c.res), transfer.LOWER, transfer.ASK]
  pp = combine_and_keep_train(c.text_len, before=[*before, transfer.ANY_ANSWER])
  split = "train+val" if c.final_split else "train"
  c.input = transfer.training_data(name, split, pp, _BATCH_SIZES[c.res])
  transfer.settings(c, lr=3e-6, wd=3e-7, **recipe)

  splits = dict(minitrain="train[:5%]", minival="val")
  c.evals = {}
  transfer.add_pplx(c, name, splits, pp)
  transfer.add_evals(
    c,
    "vqa",
    name,
    {**splits, "test": "test"},
    combine_and_keep_eval(
      c.text_len, keep=("answers", "question_id"), before=before
    ),
    max_decode_len=c.text_len,
    log_percent=0.1,
    at_end=["test"],
    batch_size=256,
    to_lower=True,
    **evaluator,
  )
  return transfer.finish(c, arg, demo.QUESTIONS, transfer.run_few_steps)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  return transfer.metrics(["infovqa"], PARTS, METRICS)


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=1e-5, wd=1e-6, total_epochs=3)
  large = dict(lr=3e-6, wd=3e-7, total_epochs=3)
  transfer.sweep(add, arg, {224: best, 448: best, 896: large})


sweep = sweep_best
