"""DocVQA: questions about scanned documents.

Mathew et al. 2020, https://arxiv.org/abs/2007.00398, https://www.docvqa.org

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/docvqa.py:res=896 \
    --workdir workdirs/docvqa
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
  c = transfer.parse(arg, res=896, final_split=False)
  before = [transfer.image(c.res), transfer.QUESTION]
  choose = 'choice(inkey="answers", outkey="suffix")'
  pp = combine_and_keep_train(32, before=[*before, choose])
  c.input = transfer.training_data(
    "docvqa", "train+val" if c.final_split else "train[:-5%]", pp
  )
  transfer.settings(c, total_epochs=10, lr=1e-5, wd=1e-6)

  splits = dict(minitrain="train[:5%]", minival="train[-5%:]", eval="val")
  c.evals = {}
  transfer.add_pplx(c, "docvqa", splits, pp)
  transfer.add_evals(
    c,
    "vqa",
    "docvqa",
    {**splits, "test": "test"},
    combine_and_keep_eval(32, keep=("answers", "question_id"), before=before),
    max_decode_len=32,
    log_percent=1 / 8,
    at_end=["test"],
    batch_size=256,
    to_lower=True,
    out_question_key="questionId",
  )
  return transfer.finish(c, arg, demo.QUESTIONS)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("eval", "minival", "minitrain")
  return transfer.metrics(["docvqa"], parts, ("anls", "pplx/avg"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=1e-5, wd=1e-6, total_epochs=10)
  transfer.sweep(add, arg, {224: best, 448: best, 896: best})


sweep = sweep_best
