r"""COCO captions; they are scored on NoCaps, too, photos of other things.

Chen et al. 2015, https://arxiv.org/abs/1504.00325, https://cocodataset.org
Agrawal et al. 2018, https://arxiv.org/abs/1812.08658, https://nocaps.org

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/cococap.py:res=448 \
    --workdir workdirs/cococap
"""

from collections.abc import Callable

import ml_collections as mlc

from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

_DEMO = ('copy("captions", "captions/text")', 'copy("captions", "texts")')


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `crop` of images to train on, see `transfer.cropped_image`, `res`,
      `beam_size` of captions or 0, `final_split` to train on all but those for
      validation, `mode`, `demo`.

  Returns:
    The config.
  """
  c = transfer.parse(arg, crop="rs", res=224, beam_size=2, final_split=False)
  pp = combine_and_keep_train(
    32,
    before=[
      "flatten",
      transfer.cropped_image(c.res, c.crop),
      'choice_no_replacement(inkey="captions/text", outkey="suffix")',
      transfer.CAPTION,
    ],
  )
  split = "train+restval" if c.final_split else "train[:98%]+restval"
  c.input = transfer.training_data("coco_captions", split, pp)
  transfer.settings(c, total_epochs=5, lr=1e-4)

  splits = dict(minitrain="train[:2%]", minival="train[-2%:]", eval="val")
  image = transfer.image(c.res, antialias=False)
  c.evals = {}
  transfer.add_pplx(c, "cococap", splits, pp)
  for prefix, name, parts, captions in (
    ("cococap", None, splits, 'flatten|copy("captions/text", "captions")'),
    ("nocaps", "nocaps", dict(eval="val"), 'copy("texts", "captions")'),
  ):
    transfer.add_evals(
      c,
      "coco_caption",
      prefix,
      parts,
      combine_and_keep_eval(
        32,
        keep=("image/id", "captions"),
        before=[captions, image, transfer.CAPTION],
      ),
      max_decode_len=32,
      beam_size=c.beam_size,
      file=None,
      name=name,
      log_percent=0.1,
      batch_size=1024,
    )
  return transfer.finish(c, arg, _DEMO)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  parts = ("eval", "minival", "minitrain")
  return transfer.metrics(["cococap"], parts, ("cider", "pplx/avg"), "epoch")


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`."""
  best = dict(lr=1e-5, wd=1e-6, total_epochs=5)
  transfer.sweep(add, arg, {224: best, 448: best})


sweep = sweep_best
