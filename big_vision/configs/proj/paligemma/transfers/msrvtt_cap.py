r"""MSR-VTT: captions of videos.

Xu et al. 2016, "MSR-VTT: A Large Video Description Dataset for Bridging Video and
Language", CVPR

  BV_GEMMA_DIR=ckpts/ BV_VIDEO_DIR=videos/ \
  python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/msrvtt_cap.py \
    --workdir workdirs/msrvtt_cap
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import video

_TRANSFER = video.Transfer(
  name="msrvtt_cap",
  dataset="msrvtt",
  kind=video.CAPTIONS,
  sizes=dict(train=4663, valid=316),
  stride=9,
  make_id=video.CLIP_ID,
  recipe=dict(total_epochs=10, lr=1e-5, wd=1e-6),
  text_len=32,
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
  _TRANSFER.sweep(add, arg, freeze_vit=True, lr=1e-5, wd=0.0, total_epochs=20)


sweep = sweep_best
