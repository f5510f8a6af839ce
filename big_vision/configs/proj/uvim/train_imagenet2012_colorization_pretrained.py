r"""UViM, stage II for colorization: the codes of stage I from gray images.

https://arxiv.org/abs/2205.10337 ("UViM: A Unified Modeling Approach for Vision
with Learned Guiding Codes")

  python -m big_vision.trainers.proj.uvim.train \
    --config big_vision/configs/proj/uvim/train_imagenet2012_colorization_pretrained.py \
    --workdir /path/to/workdir --config.oracle.model_init /path/to/stage_1

docs/uvim.md says how to prepare the data. Without `oracle.model_init`, stage I is
the published one.

Expected: an FID of 16.99 (`colorization_val_coltran_fid/FID_5k`), says the
original; not repeated here.

`:singlehost` is for 8 accelerators: a smaller batch, 20 epochs.

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
  size = common.RES
  colors_and_gray = (
    'copy(inkey="image", outkey="labels")'
    f'|resize({size},inkey="labels",outkey="labels",method="nearest")'
    '|value_range(-1,1,key="labels")'
    '|rgb_to_grayscale_to_rgb(inkey="image",outkey="image")'
    '|value_range(-1,1,key="image")|copy(inkey="image", outkey="image_ctx")'
    f'|resize({size},inkey="image_ctx",outkey="image_ctx")'
  )
  # Codes are drawn with the number of the image as the seed.
  end_eval = (
    f'{colors_and_gray}|strong_hash(inkey="tfds_id", outkey="image/id")'
    '|keep("image","image_ctx","labels","image/id")'
  )
  crop = f"decode_jpeg_and_inception_crop({size})|flip_lr"
  config = common.stage_2(
    arg,
    task="colorization_task",
    channels=common.COLOR,
    stage_1_init="gs://big_vision/uvim/color_stageI_params.npz",
    data=common.IMAGENET,
    pp=f'{crop}|{colors_and_gray}|keep("image","image_ctx","labels")',
    val_split=common.HOLDOUT,
    pp_eval=f"decode|resize({size})|{end_eval}",
  )
  config.total_epochs = 20 if arg.singlehost else 50
  if arg.runlocal and not arg.singlehost:
    config.input.batch_size = 8
    config.evals.val.data.split = "validation[:256]"

  common.add_three_splits(
    config.evals,
    "psnr",
    "_val",
    type="proj.uvim.psnr",
    pp_fn=f"resize({size})|{end_eval}",
    log_steps=10_000,
  )
  config.evals.colorization_val_coltran_fid = dict(
    type="proj.uvim.coltran_fid", log_steps=100_000
  )
  if arg.demo:
    demo.apply(config, "colorization", 2)
  return config
