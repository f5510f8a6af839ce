"""TextVQA: questions about text in photos.

Singh et al. 2019, https://arxiv.org/abs/1904.08920, https://textvqa.org

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/textvqa.py:res=448 \
    --workdir workdirs/textvqa
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
    "textvqa", "train+val" if c.final_split else "train", pp
  )
  transfer.settings(c, total_epochs=5, lr=3e-6)

  c.evals = {}
  splits = dict(minitrain="train[:5%]", eval="val")
  transfer.add_pplx(c, "textvqa", splits, pp)
  before.append('strfmt("other", outkey="answer_type")')
  keep = ("answers", "answer_type", "question_id")
  transfer.add_evals(
    c,
    "vqav2",
    "textvqa",
    dict(minitrain="train[:5120]", eval="val", test="test"),
    combine_and_keep_eval(32, keep=keep, before=before),
    max_decode_len=32,
    log_percent=1 / 8,
    at_end=["test"],
    batch_size=256,
  )
  return transfer.finish(c, arg, demo.QUESTIONS)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("eval", "minitrain")
  return transfer.metrics(["textvqa"], parts, ("acc", "pplx/avg"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = {
    224: dict(lr=3e-6, wd=0.0, total_epochs=5),
    448: dict(lr=3e-6, wd=3e-7, total_epochs=10),
    896: dict(lr=3e-6, wd=0.0, total_epochs=10),
  }
  transfer.sweep(add, arg, best)


sweep = sweep_best
