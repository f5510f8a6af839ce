r"""Jet: a normalizing flow of images, ImageNet at 64 pixels.

Kolesnikov et al. 2024, "Jet: A Modern Transformer-Based Normalizing Flow",
https://arxiv.org/abs/2412.15129.

  python -m big_vision.trainers.proj.jet.train \
    --config big_vision/configs/proj/jet/imagenet64.py \
    --workdir /path/to/workdir

The authors report 3.72 bits per dimension for these 32 couplings of depth 2, and 3.66
for 64 couplings of depth 5, `--config.model.depth=64 --config.model.block_depth=5`.

`:runlocal` is for trying it on one machine: one coupling, few steps.

`:demo` really trains, in minutes on a CPU, a tiny flow of generated pictures of 32
pixels. A flow that has not learned anything takes about 8.5 bits.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo

_DEMO = dict(
  depth=6,
  block_depth=1,
  emb_dim=64,
  num_heads=4,
  kinds=("channels", "channels", "spatial"),
)


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Makes the config.

  Args:
    arg: `mode`: `runlocal` or nothing; `demo`.

  Returns:
    The config.

  Raises:
    ValueError: there is no such mode.
  """
  arg, is_demo = demo.split_arg(arg)
  config = bvcc.parse_arg(arg, mode="")
  if config.mode not in ("", "runlocal"):
    raise ValueError(f"mode={config.mode!r} should be 'runlocal', or left out.")
  is_local = config.mode == "runlocal"
  config.seed = 0

  pp = 'decode|resize(64)|value_range(-1, 1)|keep("image")'
  data = lambda split: dict(name="downsampled_imagenet/64x64", split=split)
  config.input = dict(
    data=data("train"),
    batch_size=32 if is_local else 1024,
    shuffle_buffer_size=10 if is_local else 250_000,
    pp=pp,
  )
  if is_local:
    config.total_steps = 200
  else:
    config.total_epochs = 200
  config.log_training_steps = 50
  config.ckpt_steps = 5000

  config.model_name = "proj.jet.jet"
  config.model = dict(
    depth=1 if is_local else 32,
    block_depth=1 if is_local else 2,
    emb_dim=512,
    num_heads=8,
    kinds=("channels",) * 4 + ("spatial",),
    channels_coupling_projs=("random",),
    spatial_coupling_projs=(
      "checkerboard",
      "checkerboard-inv",
      "vstripes",
      "vstripes-inv",
      "hstripes",
      "hstripes-inv",
    ),
  )

  config.optax_name = "scale_by_adam"
  config.optax = dict(mu_dtype="bfloat16", b2=0.95)
  config.grad_clip_norm = 1.0
  config.lr = 3e-4
  config.wd = 1e-5
  config.wd_mults = ((".*", 1.0),)
  config.schedule = [
    (".*FREEZE_ME.*", None),
    (".*", dict(decay_type="cosine", warmup_percent=0.1)),
  ]

  config.evals = {}
  splits = dict(minitrain="train[:4096]", val="validation")
  if is_local:
    splits = dict(minitrain="train[:16]", val="validation[:16]")
  for name, split in splits.items():
    config.evals[f"{name}_bits"] = dict(
      type="mean",
      pred="loss",
      data=data(split),
      pp_fn=pp,
      log_percent=0.05,
    )
  if is_demo:
    demo.apply(config, model=_DEMO, lr=0.001)
  return config
