r"""UViM, stage I for colorization: the colors of ImageNet's pictures as 256 codes.

https://arxiv.org/abs/2205.10337 ("UViM: A Unified Modeling Approach for Vision
with Learned Guiding Codes")

  python -m big_vision.trainers.proj.uvim.vqvae \
    --config big_vision/configs/proj/uvim/vqvae_imagenet2012_colorization.py \
    --workdir /path/to/workdir

docs/uvim.md says how to prepare the data, and how to go on with stage II.

Expected: an FID of 15.59 (`colorization_val_coltran_fid/FID_5k`), says the
original; not repeated here.

`:res=512,patch_size=16` are the size of images and patches.

`:singlehost` is for 8 accelerators: a smaller batch, 20 epochs.

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
  end = (
    'copy(inkey="image", outkey="labels")'
    '|rgb_to_grayscale_to_rgb(inkey="image",outkey="image")'
    '|value_range(-1,1,key="image")|value_range(-1,1,key="labels")'
    '|keep("image","labels")'
  )
  crop = f"decode_jpeg_and_inception_crop({arg.res})|flip_lr"
  config = common.stage_1(
    arg,
    task="colorization_task",
    channels=common.COLOR,
    data=common.IMAGENET,
    pp=f"{crop}|{end}",
    val_split=common.HOLDOUT,
    pp_eval=f"decode|resize({arg.res})|{end}",
  )
  config.lr = 4e-4
  config.wd = 4e-5
  config.total_epochs = 20 if arg.singlehost else 100

  evals = config.evals
  common.add_three_splits(
    evals,
    "psnr",
    "_val",
    type="proj.uvim.psnr",
    pp_fn=f"resize({arg.res})|{end}",
    log_steps=10_000,
  )
  evals.colorization_val_coltran_fid = dict(
    type="proj.uvim.coltran_fid", log_steps=100_000
  )
  if arg.runlocal and not arg.singlehost:
    evals.psnr_train.split = evals.psnr_val.split = "train[:256]"
    evals.psnr_holdout.split = "train[256:512]"
    evals.colorization_val_coltran_fid.split = "validation[:256]"
    for cfg in evals.values():
      cfg.log_steps = 20
  if arg.demo:
    demo.apply(config, "colorization", 1)
  return config
