r"""MSRVTT-QA: questions about the videos of MSR-VTT.

Xu et al. 2017, "Video Question Answering via Gradually Refined Attention over
Appearance and Motion", https://github.com/xudejing/video-question-answering

  BV_GEMMA_DIR=ckpts/ BV_VIDEO_DIR=videos/ \
  python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/msrvtt_qa.py \
    --workdir workdirs/msrvtt_qa
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import video

_TRANSFER = video.Transfer(
  name="msrvtt_qa",
  dataset="msrvtt_qa",
  kind=video.QUESTIONS,
  sizes=dict(train=114080, valid=7936),
  stride=9,
  make_id=video.QUESTION_ID,
  recipe=dict(total_epochs=1, lr=1e-5, wd=0.0),
  freeze_vit=True,
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
  _TRANSFER.sweep(add, arg, freeze_vit=True, lr=1e-5, wd=0.0, total_epochs=1)


sweep = sweep_best
