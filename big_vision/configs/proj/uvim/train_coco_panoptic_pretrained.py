r"""UViM, stage II for panoptic segmentation: the codes of stage I from images.

https://arxiv.org/abs/2205.10337 ("UViM: A Unified Modeling Approach for Vision
with Learned Guiding Codes")

  python -m big_vision.trainers.proj.uvim.train \
    --config big_vision/configs/proj/uvim/train_coco_panoptic_pretrained.py \
    --workdir /path/to/workdir --config.oracle.model_init /path/to/stage_1

docs/uvim.md says how to prepare the data. Without `oracle.model_init`, stage I is
the published one.

Expected: a panoptic quality (PQ) of 43.7 on the held-out part of COCO's training
set, or 39.4 for `:singlehost`, says the original; not repeated here.

`:singlehost` has a batch for 8 accelerators. As published, it also says
`num_epochs`, a key that nobody reads: it trains for 200 epochs, unless you add
`--config.total_epochs 50`.

`:runlocal` is for trying it on one machine: a small batch.

`:demo` really trains, on a CPU, a tiny model on generated pictures, see
`demo.py` beside this file.
"""

import ml_collections as mlc

from big_vision.configs.proj.uvim import common, demo


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: values of `common.STAGE_2`.

  Returns:
    ConfigDict.
  """
  arg = common.parse_arg(arg, **common.STAGE_2)
  image = (
    f'resize({common.RES}, inkey="image", outkey="image_ctx")'
    f"|resize({common.RES})"
  )
  values = 'value_range(-1, 1, key="image_ctx")|value_range(-1, 1)'
  end = (
    f"{image}|{common.resize_labels(common.RES)}|{values}"
    '|make_canonical|keep("image","image_ctx","labels")'
  )
  labels = common.PANOPTIC_LABELS
  config = common.stage_2(
    arg,
    task="panoptic_task",
    channels=common.PANOPTIC,
    stage_1_init="gs://big_vision/uvim/panoptic_stageI_params.npz",
    data=common.COCO,
    pp=f"decode|{labels}|{common.FLIP_AND_CROP}|{end}",
    val_split=common.HOLDOUT,
    pp_eval=f"decode|{labels}|{end}",
  )
  config.total_epochs = 200
  if arg.singlehost:
    config.num_epochs = 50  # Nobody reads it, see above.
  elif arg.runlocal:
    config.input.batch_size = 4
    config.evals.val.data.split = "train[:16]"

  common.add_three_splits(
    config.evals,
    "coco_panoptic",
    "",
    type="proj.uvim.coco_panoptic",
    # Codes are drawn with the number of the image as the seed.
    pp_fn=f'{image}|{values}|keep("image","image_ctx","image/id")',
    log_steps=10_000,
  )
  if arg.demo:
    demo.apply(config, "panoptic", 2)
  return config
