r"""UViM, stage I for depth: depth maps of NYU depth v2 as 256 codes.

https://arxiv.org/abs/2205.10337 ("UViM: A Unified Modeling Approach for Vision
with Learned Guiding Codes")

  python -m big_vision.trainers.proj.uvim.vqvae \
    --config big_vision/configs/proj/uvim/vqvae_nyu_depth.py \
    --workdir /path/to/workdir

docs/uvim.md says how to prepare the data, and how to go on with stage II.

Expected: a root mean squared error of 0.155 m (`nyu_depth_val/RMSE`), says the
original; not repeated here.

`:res=512,patch_size=16` are the size of images and patches.

`:singlehost` is for 8 accelerators: a smaller batch, 50 epochs.

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
  resize = (
    f"resize({arg.res})|{common.resize_labels(arg.res)}|value_range(-1, 1)"
  )
  keep = 'keep("image","labels")'
  config = common.stage_1(
    arg,
    task="depth_task",
    channels=common.DEPTH,
    data=common.NYU,
    pp=f"decode|nyu_depth|{common.FLIP_AND_CROP}|{resize}|{keep}",
    val_split="validation",
    pp_eval=f"decode|{common.DEPTH_LABELS_EVAL}|{resize}|{keep}",
  )
  config.update(common.DEPTH_RANGE)
  config.lr = 1e-3
  config.wd = 1e-5
  config.total_epochs = 50 if arg.singlehost else 200

  config.evals.nyu_depth_val = dict(
    type="proj.uvim.nyu_depth",
    dataset="nyu_depth_v2",
    split="validation",
    pp_fn=f'{common.DEPTH_LABELS_EVAL}|copy("labels","ground_truth")|{resize}'
    '|keep("image","labels","ground_truth")',
    log_steps=2000,
    **common.DEPTH_RANGE,
  )
  if arg.demo:
    demo.apply(config, "depth", 1)
  return config
