"""ChartQA: questions about charts, of people and of a program.

Masry et al. 2022, https://arxiv.org/abs/2203.10244,
https://github.com/vis-nlp/ChartQA

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/chartqa.py:res=896 \
    --workdir workdirs/chartqa
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

# Examples of each, which are the weights of the mixture.
_SIZES = {"chartqa/augmented": 20901, "chartqa/human": 7398}


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on all that has answers, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=896, final_split=False)
  before = [transfer.image(c.res), transfer.QUESTION]
  pp = combine_and_keep_train(48, before=[*before, transfer.ANSWER])
  split = "train+val" if c.final_split else "train"
  c.input = transfer.mixture(
    _SIZES, {name: transfer.training_data(name, split, pp) for name in _SIZES}
  )
  transfer.settings(
    c, total_epochs=30, lr=1e-5, wd=1e-6, label_smoothing=0.2, dropout=0.1
  )

  splits = dict(minitrain="train[:5%]", minival="val", eval="test")
  c.evals = {}
  for name in _SIZES:
    transfer.add_pplx(c, name, splits, pp, name=name)
    transfer.add_evals(
      c,
      "chartqa",
      name,
      splits,
      combine_and_keep_eval(48, keep=("answer", "question_id"), before=before),
      max_decode_len=48,
      name=name,
      log_percent=0.1,
      batch_size=1024,
      to_lower=True,
    )
  return transfer.finish(c, arg, demo.QUESTIONS)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("eval", "minival", "minitrain")
  return transfer.metrics(list(_SIZES), parts, ("relaxed_acc", "pplx/avg"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=1e-5, wd=1e-6, total_epochs=30)
  transfer.sweep(add, arg, {224: best, 448: best})


sweep = sweep_best
