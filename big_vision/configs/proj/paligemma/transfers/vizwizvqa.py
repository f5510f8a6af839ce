"""VizWiz-VQA: questions of blind people about photos that they took.

Gurari et al. 2018, https://arxiv.org/abs/1802.08218, https://vizwiz.org

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/vizwizvqa.py:res=448 \
    --workdir workdirs/vizwizvqa
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
  pp = combine_and_keep_train(
    48, before=[transfer.image(c.res), transfer.ASK, transfer.ANY_ANSWER]
  )
  c.input = transfer.training_data(
    "vizwizvqa",
    "train+val" if c.final_split else "train",
    pp,
    shuffle_buffer_size=25_000,
  )
  transfer.settings(c, total_epochs=10, lr=1e-5)

  c.evals = {}
  splits = dict(minitrain="train", minival="val")
  transfer.add_pplx(c, "vizwizvqa", splits, pp, log_percent=1 / 8)
  before = [
    transfer.image(c.res, antialias=False),
    transfer.ASK,
    'copy("image/filename", "question_id")',
  ]
  transfer.add_evals(
    c,
    "vqa",
    "vizwizvqa",
    dict(minitrain="train[:5120]", minival="val", test="test"),
    combine_and_keep_eval(48, keep=("answers", "question_id"), before=before),
    max_decode_len=48,
    file="vizwiz_{name}",
    log_percent=0.1,
    batch_size=1024,
    out_question_key="image",
  )
  c.evals["vizwizvqa/minitrain"].log_percent = 1 / 8
  c.evals["vizwizvqa/test"].log_percent = 1.0
  return transfer.finish(
    c, arg, [*demo.QUESTIONS, 'copy("id", "image/filename")']
  )


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("minival", "minitrain")
  return transfer.metrics(["vizwizvqa"], parts, ("acc", "pplx/avg"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  transfer.sweep(add, arg, {224: {}, 448: {}})


sweep = sweep_best
