r"""VATEX: captions of videos of what people do.

Wang et al. 2019, https://arxiv.org/abs/1904.03493,
https://eric-xw.github.io/vatex-website

  BV_GEMMA_DIR=ckpts/ BV_VIDEO_DIR=videos/ \
  python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/vatex_cap.py \
    --workdir workdirs/vatex_cap
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import video

_TRANSFER = video.Transfer(
  name="vatex_cap",
  dataset="vatex",
  kind=video.CAPTIONS,
  sizes=dict(train=22315, valid=2584),
  stride=7,
  make_id='copy("example/video_id", "image/id")',
  recipe=dict(total_epochs=3, lr=3e-6, wd=3e-7),
  losses=["minitrain"],
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
  _TRANSFER.sweep(add, arg, lr=3e-6, wd=3e-7, total_epochs=10)


sweep = sweep_best
