"""RSVQA-LR: questions about photos of satellites, of 10 m to a pixel.

Lobry et al. 2020, https://arxiv.org/abs/2003.07333,
https://rsvqa.sylvainlobry.com

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/rsvqa_lr.py:res=224 \
    --workdir workdirs/rsvqa_lr
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import rsvqa_hr, transfer


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: see `rsvqa_hr.py`.

  Returns:
    The config.
  """
  return rsvqa_hr.make(
    arg,
    "rsvqa_lr",
    dict(total_epochs=3, lr=3e-6, label_smoothing=0.2),
    dict(minival="val", test="test"),
  )


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  return rsvqa_hr.compared("rsvqa_lr", ("minival", "test", "minitrain"))


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=3e-6, wd=0.0, total_epochs=3)
  transfer.sweep(add, arg, {224: best, 448: best})


sweep = sweep_best
