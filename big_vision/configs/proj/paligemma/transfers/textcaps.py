r"""TextCaps: captions of photos that tell what is written in them.

Sidorov et al. 2020, https://arxiv.org/abs/2003.12462,
https://textvqa.org/textcaps

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/textcaps.py:res=448 \
    --workdir workdirs/textcaps
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `crop` of images to train on, see `transfer.cropped_image`, `res`,
      `beam_size` of captions or 0, `final_split` to train on what `minival`
      holds out, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, crop="rs", res=224, beam_size=3, final_split=False)
  pp = combine_and_keep_train(
    32,
    before=[
      "flatten",
      transfer.cropped_image(c.res, c.crop),
      'choice_no_replacement(inkey="texts", outkey="suffix")',
      transfer.CAPTION,
      'lower(key="suffix")',
    ],
  )
  c.input = transfer.training_data(
    "text_caps", "train" if c.final_split else "train[:98%]", pp
  )
  transfer.settings(c, total_epochs=5, lr=1e-5)

  splits = dict(minitrain="train[:2%]", minival="train[-2%:]", eval="val")
  c.evals = {}
  transfer.add_pplx(c, "textcaps", splits, pp)
  transfer.add_evals(
    c,
    "coco_caption",
    "textcaps",
    splits,
    combine_and_keep_eval(
      32,
      keep=("image/id", "captions"),
      before=[
        transfer.image(c.res, antialias=False),
        'flatten|copy("texts", "captions")',
        transfer.CAPTION,
      ],
    ),
    max_decode_len=32,
    beam_size=c.beam_size,
    file=None,
    log_percent=0.1,
    batch_size=1024,
  )
  return transfer.finish(c, arg, ['copy("captions", "texts")'])


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("eval", "minival", "minitrain")
  return transfer.metrics(["textcaps"], parts, ("cider", "pplx/avg"), "epoch")


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=1e-5, wd=1e-6, total_epochs=5)
  transfer.sweep(add, arg, {224: best, 448: best})


sweep = sweep_best
