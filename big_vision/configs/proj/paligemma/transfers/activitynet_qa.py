r"""ActivityNet-QA: questions about videos of what people do.

Yu et al. 2019, https://arxiv.org/abs/1906.02467,
https://github.com/MILVLG/activitynet-qa

  BV_GEMMA_DIR=ckpts/ BV_VIDEO_DIR=videos/ \
  python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/activitynet_qa.py \
    --workdir workdirs/activitynet_qa
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import video

_TRANSFER = video.Transfer(
  name="activitynet_qa",
  dataset="activitynet_qa",
  kind=video.QUESTIONS,
  sizes=dict(train=27610, valid=15760),
  stride=70,
  make_id=video.QUESTION_ID,
  recipe=dict(total_epochs=3, lr=1e-5, wd=1e-6),
  skip_first=True,
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config, see `video.Transfer.config`."""
  return _TRANSFER.config(arg)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  return _TRANSFER.metrics()


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  _TRANSFER.sweep(add, arg, lr=1e-5, wd=1e-6, total_epochs=1)


sweep = sweep_best
