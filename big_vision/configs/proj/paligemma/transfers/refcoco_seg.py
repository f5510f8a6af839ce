r"""RefCOCO, RefCOCO+ and RefCOCOg: masks of objects that texts refer to.

Yu et al. 2016, https://arxiv.org/abs/1608.00272,
https://github.com/lichengunc/refer

  BV_GEMMA_DIR=ckpts/ python -m big_vision.trainers.proj.paligemma.train \
    --config big_vision/configs/proj/paligemma/transfers/refcoco_seg.py \
    --workdir workdirs/refcoco_seg

The mean IoU on the three validation sets is about 75, 67 and 70.
"""

from collections.abc import Callable
from typing import Any

import ml_collections as mlc

from big_vision import lookup
from big_vision.configs import demo
from big_vision.configs.proj.paligemma import demo as paligemma_demo
from big_vision.configs.proj.paligemma.transfers import transfer
from big_vision.configs.proj.paligemma.transfers.common import (
  combine_and_keep_eval,
  combine_and_keep_train,
)

_NAME = "ref_coco_bv/{}:1.4.0"
# Name in evaluators -> config of the dataset, and names of splits in it.
_TESTS = {
  "refcoco": ("refcoco_unc", ("val", "testA", "testB")),
  "refcocop": ("refcocoplus_unc", ("val", "testA", "testB")),
  "refcocog": ("refcocog_umd", ("val", "test")),
}
_DURING_TRAINING = "seg/refcoco/val"
_MILD_ZOOM = (
  'zoomout(max_f=1.5, key="image", bboxkey="objects/bbox", '
  'auxkeys=["objects/mask"])',
  "inception_box(area=(0.1,1.0), aspect=(0.75,1.3333333333333333), "
  'min_obj_cover=1.0, bboxkey="objects/bbox")',
  "box_crop_bbox",
  'box_crop_img(key="objects/mask")',
  'box_crop_img(key="image")',
)
_CROPS = {"rs": (), "zic_mild": _MILD_ZOOM}
_DEMO = (
  "flatten",
  'instance_masks(outkey="objects/mask")',
  'copy("boxes/bbox", "objects/bbox")',
  # One text of each object.
  'reshape([-1, 1], inkey="boxes/expression", outkey="objects/refs/sentence")',
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `res`; `crop` of images to train on: "rs" for all of an image, or
      "zic_mild", whose ops `zoomout`, `box_crop_bbox` and `box_crop_img` were
      never published and have to be registered; `mode`, `demo`.

  Returns:
    The config.

  Raises:
    ValueError: there is no such crop.
  """
  c = transfer.parse(arg, res=448, crop="rs")
  if c.crop not in _CROPS:
    raise lookup.unknown("crop", c.crop, _CROPS, "crop")
  is_demo = demo.split_arg(arg)[1]
  codec = f"({paligemma_demo.MASKS!r})" if is_demo else ""
  weights: dict[str, Any] = dict(model=paligemma_demo.MASKS) if is_demo else {}
  keys = '["objects/mask", "objects/bbox", "objects/refs/sentence"]'
  resize = f"resize({c.res})"
  pp = combine_and_keep_train(
    48,
    before=[
      "flatten",
      f"choice_no_replacement(key={keys})",
      'choice(key=["objects/refs/sentence"])',
      "decode",
      *_CROPS[c.crop],
      f"{resize}|value_range(-1, 1)",
      f"refcoco_mask2str{codec}",
    ],
  )
  c.input = transfer.training_data(
    _NAME.format("refcocox_combined"), "train", pp, batch_size=64
  )
  transfer.settings(
    c,
    total_epochs=5,
    lr=1e-5,
    label_smoothing=0.3,
    pp_modules=["proj.paligemma.segmentation"],
  )
  c.model.img.dropout = 0.0

  c.evals = {}
  splits = dict(minitrain="train[:5%]", val="validation")
  transfer.add_pplx(c, "refcoco_seg", splits, pp)
  pp = combine_and_keep_eval(
    48,
    keep=("objects/mask", "objects/bbox", "width", "height"),
    before=[
      "flatten",
      f"choice(key={keys})",
      'choice(key=["objects/refs/sentence"], outkey="prefix")',
      transfer.image(c.res, antialias=False),
    ],
  )
  for prefix, (name, parts) in _TESTS.items():
    transfer.add_evals(
      c,
      "segmentation",
      f"seg/{prefix}",
      {p: f"{'validation' if p == 'val' else p}_flat" for p in parts},
      pp,
      max_decode_len=48,
      file=None,
      name=_NAME.format(name),
      at_end=parts,
      batch_size=256,
      **weights,
    )
  c.evals[_DURING_TRAINING].update(log_percent=0.2, skip_first=False)
  return transfer.finish(c, arg, _DEMO)


def metrics(arg: str | None = None) -> list:
  """Lists the metrics to compare, see `transfer.metrics`."""
  del arg
  name = _DURING_TRAINING
  found = [f"{name}/{metric}" for metric in ("miou", "boxacc/0.5", "invalid")]
  for prefix, (_, parts) in _TESTS.items():
    found += transfer.measured([f"seg/{prefix}"], parts, ["miou"])
  return ["training_loss", *dict.fromkeys(found)]


def sweep_best(add: Callable[..., None], arg: str | None = None) -> None:
  """Adds the best settings that were found, see `transfer.sweep`.

  At 896 pixels, which takes two days on 16 chips TPUv5e, masks are better by 0.5
  to 1 than at 448.
  """
  best = {
    res: {
      "total_epochs": 100,
      "label_smoothing": 0.3,
      "lr": lr,
      "model.llm.dropout": dropout,
      "input.batch_size": batch_size,
    }
    for res, lr, dropout, batch_size in (
      (224, 3e-5, 0.1, 256),
      (448, 1e-5, 0.0, 256),
      (896, 1e-5, 0.0, 64),
    )
  }
  transfer.sweep(add, arg, best)


sweep = sweep_best
