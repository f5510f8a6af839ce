"""OK-VQA: questions about photos that need outside knowledge.

Marino et al. 2019, https://arxiv.org/abs/1906.00067, https://okvqa.allenai.org

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/okvqa.py:res=448 \
    --workdir workdirs/okvqa
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
  before = [transfer.image(c.res), transfer.ASK]
  pp = combine_and_keep_train(32, before=[*before, transfer.ANY_ANSWER])
  c.input = transfer.training_data(
    "okvqa", "train" if c.final_split else "train[:-10%]", pp, batch_size=128
  )
  transfer.settings(c, total_epochs=10, lr=5e-6)

  splits = dict(minitrain="train[:5%]", minival="train[-10%:]", eval="val")
  c.evals = {}
  transfer.add_pplx(c, "okvqa", splits, pp)
  transfer.add_evals(
    c,
    "vqa",
    "okvqa",
    splits,
    combine_and_keep_eval(32, keep=("answers", "question_id"), before=before),
    max_decode_len=32,
    log_percent=1 / 4,
    batch_size=1024,
  )
  return transfer.finish(c, arg, demo.QUESTIONS)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("eval", "minival", "minitrain")
  return transfer.metrics(["okvqa"], parts, ("pplx/avg", "acc"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  transfer.sweep(add, arg, {224: {}, 448: {}})


sweep = sweep_best
