"""ST-VQA: questions about text in photos.

Biten et al. 2019, https://arxiv.org/abs/1905.13648,
https://rrc.cvc.uab.es/?ch=11

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/stvqa.py:res=896 \
    --workdir workdirs/stvqa
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import infovqa, transfer


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: see `infovqa.py`.

  Returns:
    The config.
  """
  recipe = dict(total_epochs=5, label_smoothing=0.1)
  return infovqa.make(arg, "stvqa", recipe)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  return transfer.metrics(["stvqa"], infovqa.PARTS, infovqa.METRICS)


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  infovqa.sweep_best(add, arg)


sweep = sweep_best
