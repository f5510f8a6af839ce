r"""UViM, stage I for panoptic segmentation: label maps of COCO as 256 codes.

https://arxiv.org/abs/2205.10337 ("UViM: A Unified Modeling Approach for Vision
with Learned Guiding Codes")

  python -m big_vision.trainers.proj.uvim.vqvae \
    --config big_vision/configs/proj/uvim/vqvae_coco_panoptic.py \
    --workdir /path/to/workdir

docs/uvim.md says how to prepare the data, and how to go on with stage II.

Expected: a panoptic quality (PQ) of about 75.7 on the held-out part of COCO's
training set, or 67.8 for `:singlehost`, says the original; not repeated here.

`:res=512,patch_size=16` are the size of images and patches.

`:singlehost` has a batch for 8 accelerators. As published, it also says
`num_epochs`, a key that nobody reads: it trains for 1000 epochs, unless you add
`--config.total_epochs 100`.

`:runlocal` is for trying it on one machine: a small batch, a model of two layers.

`:demo` really trains, on a CPU, a tiny model on generated pictures, see
`demo.py` beside this file.
"""

import ml_collections as mlc

from big_vision.configs.proj.uvim import common, demo


def get_config(arg: str | None = "res=512,patch_size=16") -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: values of `common.STAGE_1`.

  Returns:
    ConfigDict.
  """
  arg = common.parse_arg(arg, **common.STAGE_1)
  labels = common.PANOPTIC_LABELS
  end = (
    f"resize({arg.res})|{common.resize_labels(arg.res)}|value_range(-1, 1)"
    '|make_canonical|keep("image","labels")'
  )
  config = common.stage_1(
    arg,
    task="panoptic_task",
    channels=common.PANOPTIC,
    data=common.COCO,
    pp=f"decode|{labels}|{common.FLIP_AND_CROP}|{end}",
    val_split=common.HOLDOUT,
    pp_eval=f"decode|{labels}|{end}",
  )
  config.lr = 4e-4
  config.wd = 4e-5
  config.total_epochs = 1000
  if arg.singlehost:
    config.num_epochs = 100  # Nobody reads it, see above.

  common.add_three_splits(
    config.evals,
    "coco_panoptic",
    "",
    type="proj.uvim.coco_panoptic",
    pp_fn=f"{labels}|{end}",
    log_steps=10_000,
  )
  if arg.demo:
    demo.apply(config, "panoptic", 1)
  return config
