"""Shared by the transfers to videos: frames, the mixture of splits, evaluators.

The data are JSON lines that name videos, see `datasets/video.py`: the folder
`dataset` of a transfer lies in the one that the environment variable BV_VIDEO_DIR
names. A model sees `num_frames` frames of a video, of a short one some twice.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections as mlc

from big_vision.configs import demo
from big_vision.configs.proj.paligemma import demo as paligemma_demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

# Frames of the demo, which repeats a picture.
DEMO_FRAMES = 4

_SOURCE = "bv:video"
_CLIP = "{example/video_id}[{clip/start/timestamp}-{clip/end/timestamp}]"
# Ops that make ids.
CLIP_ID = f'strfmt("{_CLIP}", outkey="image/id")'
QUESTION_ID = 'strfmt("{id}#{example/video_id}: {question}", "question_id")'
CLIP_QUESTION_ID = (
  f'strfmt("{{id}}#{_CLIP}: {{question}}", outkey="question_id")'
)
# What these ops and those of files read besides.
_TIMES = (
  "clip/start/timestamp",
  "clip/end/timestamp",
  "segment_start",
  "segment_end",
)
# Name of an evaluator -> split, and when it runs: the first two read little.
_EVALS = {
  "minitrain": ("train", 1 / 8),
  "minival": ("valid", 1 / 4),
  "val": ("valid", 1.0),
  "eval": ("test", 1.0),
}


class Kind(NamedTuple):
  """Describes what a model answers.

  Attributes:
    evaluator: module of `evaluators/proj/paligemma/transfers`.
    metric: of it, to compare.
    file: `file` of `transfer.add_evals`.
    ask: ops that make `prefix`.
    answer: op that makes `suffix`.
    truth: ops that make what evaluators read, besides ids.
    keep: features that they read.
    demo: ops that make the features out of those of `shapes`.
  """

  evaluator: str
  metric: str
  file: str | None
  ask: Sequence[str]
  answer: str
  truth: Sequence[str]
  keep: Sequence[str]
  demo: Sequence[str]


CAPTIONS = Kind(
  "coco_caption",
  "cider",
  file=None,
  ask=[transfer.CAPTION],
  answer='video_choice(inkey="caption/string", outkey="suffix")',
  truth=['copy("caption/string", "captions")'],
  keep=("image/id", "captions"),
  demo=['copy("captions", "caption/string")'],
)
QUESTIONS = Kind(
  "vqa",
  "acc",
  file="{prefix}_{name}",
  ask=[
    'reshape([], key="question")',
    'reshape([], key="answer")',
    transfer.ASK,
  ],
  answer='copy("answer", "suffix")',
  truth=(),
  keep=("question_id", "answer"),
  demo=paligemma_demo.QUESTIONS,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
  """A transfer to videos.

  Attributes:
    name: of the file, and in evaluators.
    dataset: folder of the data.
    kind: what is asked.
    sizes: number of examples of the splits "train" and "valid".
    stride: between frames.
    make_id: op that makes the id of an example.
    recipe: what `transfer.settings` takes.
    num_frames: of a video.
    text_len: tokens.
    freeze_vit: whether the image model stays as it is.
    losses: evaluators that have one of the loss beside them.
    shards: how many files of a split "minitrain" and "minival" read.
    skip_first: whether "val" and "eval" skip the beginning; None for what is
      usual.
  """

  name: str
  dataset: str
  kind: Kind
  sizes: Mapping[str, int]
  stride: int
  make_id: str
  recipe: Mapping[str, Any]
  num_frames: int = 16
  text_len: int = 64
  freeze_vit: bool = False
  losses: Sequence[str] = ("minitrain", "minival")
  shards: int = 2
  skip_first: bool | None = None

  def config(self, arg: str | None) -> mlc.ConfigDict:
    """Makes the config.

    Args:
      arg: `num_frames`, `stride` between them, `res`, `freeze_vit`,
        `freeze_llm`, `final_split` to train on `valid`, too, `mode`, `demo`.

    Returns:
      The config.
    """
    is_demo = demo.split_arg(arg)[1]
    c = transfer.parse(
      arg,
      num_frames=DEMO_FRAMES if is_demo else self.num_frames,
      stride=self.stride,
      res=224,
      freeze_vit=self.freeze_vit,
      freeze_llm=False,
      final_split=False,
    )
    n = c.num_frames
    before = [
      f"video_decode({c.res})",
      f"video_replicate_img({n},{n})",
      f'video_ensure_shape("image", ({n}, {c.res}, {c.res}, 3))',
      *self.kind.ask,
    ]
    pp = combine_and_keep_train(
      self.text_len, before=[*before, self.kind.answer]
    )
    data = dict(
      name=_SOURCE, dataset_name=self.dataset, num_frames=n, stride=c.stride
    )
    weights = {
      split: size
      for split, size in self.sizes.items()
      if split == "train" or c.final_split
    }
    parts = {
      split: dict(
        data=dict(data, split=split, deterministic_fs=False),
        pp=pp,
        shuffle_buffer_size=10_000,
      )
      for split in weights
    }
    c.input = transfer.mixture(weights, parts, batch_size=128)
    pp_modules = ["proj.paligemma.video"]
    transfer.settings(c, pp_modules=pp_modules, **self.recipe)

    c.evals = {}
    splits = {part: _EVALS[part][0] for part in self.losses}
    transfer.add_pplx(c, self.name, splits, pp, 1 / 8, name=_SOURCE)
    pp = combine_and_keep_eval(
      self.text_len,
      keep=self.kind.keep,
      before=[*before, self.make_id, *self.kind.truth],
    )
    for part, (split, log_percent) in _EVALS.items():
      transfer.add_evals(
        c,
        self.kind.evaluator,
        self.name,
        {part: split},
        pp,
        max_decode_len=self.text_len,
        file=self.kind.file,
        name=_SOURCE,
        log_percent=log_percent,
      )
      if log_percent == 1 and self.skip_first is not None:
        c.evals[f"{self.name}/{part}"].skip_first = self.skip_first
    for name, cfg in c.evals.items():
      cfg.data.update(data, deterministic_fs=True)
      if "/mini" in name:
        cfg.data.first_k_shards = self.shards
    return transfer.finish(c, arg, _on_shapes(self.kind, n), _run_local)

  def metrics(self) -> list:
    """Lists the metrics to compare, see `transfer.metrics`."""
    return [
      *transfer.metrics([self.name], list(_EVALS), [self.kind.metric]),
      *transfer.measured([self.name], self.losses, ["pplx/avg"]),
    ]

  def sweep(
    self,
    add: Callable[..., None],
    arg: str | None,
    freeze_vit: bool = False,
    **best: Any,
  ) -> None:
    """Adds the best settings that were found.

    Args:
      add: see `transfer.sweep`.
      arg: arguments for all runs.
      freeze_vit: whether the image model stays as it is.
      **best: what changes in the config.
    """
    own = dict(freeze_vit=True) if freeze_vit else {}
    transfer.sweep(add, arg, {224: best}, {224: own})


def _on_shapes(kind, num_frames):
  """Lists ops that make videos of the pictures of `shapes`."""
  return [
    'reshape([1], inkey="image", outkey="episodic_images")',
    f"concat({['episodic_images'] * num_frames}, axis=0)",
    'copy("id", "example/video_id")',
    *(f'strfmt("0", outkey="{key}")' for key in _TIMES),
    *kind.demo,
  ]


def _run_local(c):
  """Shuffles nothing and evaluates one file of each split."""
  for split in c.input.data:
    c.input[split].shuffle_buffer_size = None
  for cfg in c.evals.values():
    cfg.data.first_k_shards = 1
  transfer.run_single_steps(c)
