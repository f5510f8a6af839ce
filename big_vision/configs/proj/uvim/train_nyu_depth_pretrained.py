r"""UViM, stage II for depth: the codes of stage I from images.

https://arxiv.org/abs/2205.10337 ("UViM: A Unified Modeling Approach for Vision
with Learned Guiding Codes")

  python -m big_vision.trainers.proj.uvim.train \
    --config big_vision/configs/proj/uvim/train_nyu_depth_pretrained.py \
    --workdir /path/to/workdir --config.oracle.model_init /path/to/stage_1

docs/uvim.md says how to prepare the data. Without `oracle.model_init`, stage I is
the published one.

Expected: a root mean squared error of 0.463 m (`nyu_depth_val/RMSE`), says the
original; not repeated here.

`:singlehost` is for 8 accelerators: a smaller batch, 20 epochs.

`:runlocal` is for trying it on one machine: a batch of one, no evaluation, and
checkpoints at fixed places in /tmp.

`:demo` really trains, on a CPU, a tiny model on generated pictures, see
`demo.py` beside this file.
"""

import ml_collections as mlc

from big_vision.configs.proj.uvim import common, demo


def get_config(arg: str | None = "split=final") -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: values of `common.STAGE_2`; `split` has no effect, as published.

  Returns:
    ConfigDict.
  """
  arg = common.parse_arg(arg, split="final", **common.STAGE_2)
  size = common.RES
  images = f'resize({size})|resize({size},inkey="image",outkey="image_ctx")'
  values = (
    'value_range(-1,1)|value_range(-1,1,inkey="image_ctx",outkey="image_ctx")'
  )
  end = (
    f"{images}|{common.resize_labels(size)}|{values}"
    '|keep("image","image_ctx","labels")'
  )
  config = common.stage_2(
    arg,
    task="depth_task",
    channels=common.DEPTH,
    stage_1_init="gs://big_vision/uvim/depth_stageI_params.npz",
    data=common.NYU,
    pp=f"decode|nyu_depth|{common.FLIP_AND_CROP}|{end}",
    val_split="validation",
    pp_eval=f"decode|{common.DEPTH_LABELS_EVAL}|{end}",
  )
  config.oracle.update(common.DEPTH_RANGE)
  config.model.zero_decoder_seq = False
  config.optax.clipping_threshold = None
  config.total_epochs = 20 if arg.singlehost else 50

  config.evals.nyu_depth_val = dict(
    type="proj.uvim.nyu_depth",
    dataset="nyu_depth_v2",
    split="validation",
    pp_fn=f'{common.DEPTH_LABELS_EVAL}|copy("labels","ground_truth")|{images}'
    f'|{values}|keep("image","image_ctx","ground_truth")',
    log_steps=2000,
    **common.DEPTH_RANGE,
  )
  if arg.runlocal and not arg.singlehost:
    config.input.batch_size = 1
    config.evals = {}
    config.oracle.model_init = "/tmp/checkpoint.npz"
    config.model_init.encoder = "/tmp/enc_checkpoint.npz"
  if arg.demo:
    demo.apply(config, "depth", 2)
  return config
