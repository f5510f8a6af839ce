r"""MSVD-QA: questions about clips of videos.

Xu et al. 2017, "Video Question Answering via Gradually Refined Attention over
Appearance and Motion", https://github.com/xudejing/video-question-answering

  BV_GEMMA_DIR=ckpts/ BV_VIDEO_DIR=videos/ \
  python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/msvd_qa.py \
    --workdir workdirs/msvd_qa
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import video

_TRANSFER = video.Transfer(
  name="msvd_qa",
  dataset="msvd_qa",
  kind=video.QUESTIONS,
  sizes=dict(train=24670, valid=5107),
  stride=26,
  make_id=video.CLIP_QUESTION_ID,
  recipe=dict(total_epochs=3, lr=3e-6, wd=3e-7),
  num_frames=8,
  shards=1,
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
  _TRANSFER.sweep(add, arg, lr=3e-6, wd=3e-7, total_epochs=1)


sweep = sweep_best
