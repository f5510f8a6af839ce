r"""Widget Captioning: what the element of a screen does that a red frame shows.

Li et al. 2020, https://arxiv.org/abs/2010.04295,
https://github.com/google-research-datasets/widget-caption

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/widgetcap.py:res=448 \
    --workdir workdirs/widgetcap
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

_DEMO = (
  "flatten",
  'choice(inkey=["boxes/bbox", "boxes/expression"], outkey=["bbox", "text"])',
  'reshape([1], inkey="text", outkey="texts")',
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`, `final_split` to train on `dev`, too, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, res=224, final_split=False)
  before = [
    f"decode|resize({c.res}, antialias=True)|draw_bbox|value_range(-1, 1)",
    transfer.CAPTION,
  ]
  choice = 'choice_no_replacement(inkey="texts", outkey="suffix")'
  pp = combine_and_keep_train(32, before=[*before, choice])
  c.input = transfer.training_data(
    "widgetcap",
    "train+dev" if c.final_split else "train",
    pp,
    batch_size=64,
  )
  transfer.settings(
    c,
    total_epochs=4,
    lr=3e-6,
    wd=3e-7,
    label_smoothing=0.1,
    dropout=0.1,
    pp_modules=["proj.paligemma.widgetcap"],
  )

  splits = dict(minitrain="train[:5%]", minival="dev", eval="test")
  c.evals = {}
  transfer.add_pplx(c, "widgetcap", splits, pp)
  before = ['copy("texts", "captions")', *before]
  transfer.add_evals(
    c,
    "coco_caption",
    "widgetcap",
    dict(val="dev", eval="test"),
    combine_and_keep_eval(32, keep=("image/id", "captions"), before=before),
    max_decode_len=32,
    file=None,
    log_percent=0.1,
    batch_size=1024,
  )
  return transfer.finish(c, arg, _DEMO)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("eval", "minival", "minitrain")
  loss = transfer.metrics(["widgetcap"], parts, ("pplx/avg",))
  scores = transfer.measured(["widgetcap"], ("val", "eval"), ("cider",))
  return [*loss, *scores]


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=3e-6, wd=3e-7, total_epochs=4)
  transfer.sweep(add, arg, {224: best, 448: best})


sweep = sweep_best
