r"""ActivityNet Captions: what happens in a part of a video.

Krishna et al. 2017, https://arxiv.org/abs/1705.00754, http://activity-net.org

  BV_GEMMA_DIR=ckpts/ BV_VIDEO_DIR=videos/ \
  python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/activitynet_cap.py \
    --workdir workdirs/activitynet_cap
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import video

_TRANSFER = video.Transfer(
  name="activitynet_cap",
  dataset="activitynet_captions_mr",
  kind=video.CAPTIONS,
  sizes=dict(train=30545, valid=14338),
  stride=30,
  make_id='strfmt("{example/video_id}[{segment_start}-{segment_end}]", '
  'outkey="image/id")',
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
  _TRANSFER.sweep(add, arg, freeze_vit=True, lr=1e-5, wd=1e-6, total_epochs=1)


sweep = sweep_best
