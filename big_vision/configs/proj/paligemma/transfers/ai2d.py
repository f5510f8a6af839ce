"""AI2D: multiple-choice questions about diagrams of school books.

Kembhavi et al. 2016, https://arxiv.org/abs/1603.07396,
https://allenai.org/data/diagrams

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/ai2d.py:res=448 \
    --workdir workdirs/ai2d
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on all that has answers, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=224, final_split=False)
  ask = [
    'strjoin(" \t ", inkey="possible_answers", outkey="ansstr")',
    'strfmt("answer en  {question} choose from: {ansstr}", outkey="prefix")',
  ]
  pp = combine_and_keep_train(
    128, before=[transfer.image(c.res), *ask, transfer.ANSWER]
  )
  c.input = transfer.training_data(
    "ai2d", "train" if c.final_split else "train[:-1024]", pp
  )
  transfer.settings(c, total_epochs=10, lr=1e-5, wd=0.1 * 1e-5)

  splits = dict(minitrain="train[:1024]", minival="train[-1024:]", eval="test")
  c.evals = {}
  transfer.add_pplx(c, "ai2d", splits, pp, log_percent=1 / 8)
  before = [
    transfer.image(c.res, antialias=False),
    *ask,
    'copy(inkey="id",outkey="question_id")',
  ]
  transfer.add_evals(
    c,
    "vqa",
    "ai2d",
    splits,
    combine_and_keep_eval(128, keep=("answer", "question_id"), before=before),
    max_decode_len=128,
    log_percent=1 / 8,
    batch_size=1024,
    to_lower=False,
  )
  return transfer.finish(
    c, arg, [*demo.CHOICES, 'copy("choices", "possible_answers")']
  )


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("eval", "minival", "minitrain")
  return transfer.metrics(["ai2d"], parts, ("pplx/avg", "acc"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=1e-5, wd=1e-6, total_epochs=10)
  transfer.sweep(add, arg, {224: best, 448: best})


sweep = sweep_best
