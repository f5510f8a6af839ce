"""Shares what the configs of UViM have in common: models, training, preprocessing.

https://arxiv.org/abs/2205.10337 ("UViM: A Unified Modeling Approach for Vision
with Learned Guiding Codes"). Stage I (`vqvae_*.py`) learns to write the labels of
an image as a short sequence of codes; stage II (`train_*_pretrained.py`) learns
to predict these codes from the image.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections as mlc

import big_vision.configs.common as bvcc

# Arguments of the configs.
STAGE_1 = dict(
  res=512, patch_size=16, runlocal=False, singlehost=False, demo=False
)
STAGE_2 = dict(runlocal=False, singlehost=False, demo=False)

# Of images and labels in stage II.
RES = 512
PATCH_SIZE = 16

VQVAE_BASE = dict(
  width=768, enc_depth=6, dec_depth=12, mlp_dim=3072, num_heads=12
)
VTT_LARGE = dict(num_layers=24, num_heads=16, mlp_dim=4096, emb_dim=1024)

# What labels have for each pixel: classes and up to 99 instances, 0 is neither;
# colors; intervals of depth.
PANOPTIC = dict(semantics=133 + 1, instances=99 + 1)
COLOR = dict(color=3)
DEPTH = dict(depth=256)
DEPTH_RANGE = dict(min_depth=1e-3, max_depth=10)  # Meters.

# Training data: the first 4096 examples are held out, where there are enough.
HOLDOUT = "train[:4096]"
COCO = dict(name="coco/2017_panoptic", split="train[4096:]")
IMAGENET = dict(name="imagenet2012", split="train[4096:]")
NYU = dict(name="nyu_depth_v2", split="train")

# Preprocessing: the same random part of image and labels, flipped or not.
FLIP_AND_CROP = (
  'randu("fliplr")|det_fliplr(key="image")|det_fliplr(key="labels")'
  '|inception_box|crop_box(key="image")|crop_box(key="labels")'
)
PANOPTIC_LABELS = 'coco_panoptic|concat(["semantics","instances"], "labels")'
# The part of pictures that methods are compared on.
DEPTH_LABELS_EVAL = "nyu_depth|nyu_eval_crop"


def parse_arg(arg: str | None, **spec: Any) -> mlc.ConfigDict:
  """Parses the argument of a config.

  Args:
    arg: as for `configs.common.parse_arg`.
    **spec: the same; `STAGE_1` or `STAGE_2`, and others.

  Returns:
    The values; `demo` has sizes of its own, without those of other machines.
  """
  parsed = bvcc.parse_arg(arg, **spec)
  if parsed.demo:
    parsed.runlocal = parsed.singlehost = False
  return parsed


def resize_labels(size: int) -> str:
  """Returns the op that resizes labels; averages of them would mean nothing.

  Args:
    size: of the result, pixels.

  Returns:
    Op of a preprocessing string.
  """
  return f'resize({size},key="labels",method="nearest")'


def stage_1(
  arg: mlc.ConfigDict,
  *,
  task: str,
  channels: Mapping[str, int],
  data: Mapping[str, str],
  pp: str,
  val_split: str,
  pp_eval: str,
) -> mlc.ConfigDict:
  """Makes the config of stage I, without what depends on the task.

  Args:
    arg: values of `STAGE_1`.
    task: name of the task's module below `trainers.proj.uvim`.
    channels: what labels have for each pixel.
    data: training data.
    pp: preprocessing for training.
    val_split: split for the validation loss.
    pp_eval: preprocessing for it.

  Returns:
    ConfigDict.
  """
  config = mlc.ConfigDict()
  config.task = f"proj.uvim.{task}"

  config.input = dict(
    data=dict(data), pp=pp, batch_size=1024, shuffle_buffer_size=25_000
  )
  config.log_training_steps = 50
  config.ckpt_steps = 1000
  config.keep_ckpt_steps = 20_000

  config.model_name = "proj.uvim.vit"
  config.model = _oracle(channels, arg.res, arg.patch_size)
  config.model.dict_momentum = 0.995

  config.freeze_dict = False  # The codebook is learned,
  config.w_commitment = 0.0  # and needs no further loss.

  config.optax_name = "big_vision.scale_by_adafactor"
  config.optax = dict(beta2_cap=0.95)
  config.schedule = dict(decay_type="cosine", warmup_steps=4000)
  config.grad_clip_norm = 1.0
  config.seed = 0

  config.evals = dict(val=_validation(data, val_split, pp_eval, log_steps=250))

  if arg.singlehost:
    config.input.batch_size = 128
  elif arg.runlocal:
    config.input.batch_size = 16
    config.input.shuffle_buffer_size = 10
    config.log_training_steps = 5
    config.model.enc_depth = config.model.dec_depth = 1
    config.evals.val.data.split = "validation[:16]"
    config.evals.val.log_steps = 20
  return config


def stage_2(
  arg: mlc.ConfigDict,
  *,
  task: str,
  channels: Mapping[str, int],
  stage_1_init: str,
  data: Mapping[str, str],
  pp: str,
  val_split: str,
  pp_eval: str,
) -> mlc.ConfigDict:
  """Makes the config of stage II, without what depends on the task.

  Args:
    arg: values of `STAGE_2`.
    task: name of the task's module below `trainers.proj.uvim`.
    channels: what labels have for each pixel.
    stage_1_init: checkpoint of stage I.
    data: training data.
    pp: preprocessing for training.
    val_split: split for the validation loss.
    pp_eval: preprocessing for it.

  Returns:
    ConfigDict.
  """
  config = mlc.ConfigDict()
  config.input = dict(
    data=dict(data), pp=pp, batch_size=512, shuffle_buffer_size=50_000
  )
  config.log_training_steps = 50
  config.ckpt_steps = 1000
  config.keep_ckpt_steps = 5000
  config.prefetch_to_device = 2
  config.seed = 0

  # Stage I, which is not trained further.
  config.oracle = dict(
    task=f"proj.uvim.{task}",
    model_name="proj.uvim.vit",
    model_init=stage_1_init,
    model=_oracle(channels, RES, PATCH_SIZE),
  )

  config.model_name = "proj.uvim.vtt"
  config.model_init = {"encoder": "howto-i21k-L/16"}
  config.model = dict(
    **VTT_LARGE,
    patches=dict(size=(PATCH_SIZE, PATCH_SIZE)),
    input_size=(RES, RES),
    posemb_type="learn",
    # These follow the oracle when it is changed. Code 0 stands for none.
    vocab_size=config.oracle.model.get_ref("dict_size") + 1,
    seq_len=config.oracle.model.get_ref("code_len"),
  )

  config.optax_name = "big_vision.scale_by_adafactor"
  config.optax = dict(beta2_cap=0.95)
  config.lr = 0.001
  config.wd = 1e-6
  # The encoder has learned before.
  config.lr_mults = [
    ("pos_embedding_encoder.*", 0.1),
    ("EmbedPatches.*", 0.1),
    ("encoder.*", 0.1),
    ("decoder.*", 1.0),
  ]
  config.schedule = dict(decay_type="cosine", warmup_steps=4000)

  config.evals = dict(val=_validation(data, val_split, pp_eval, log_steps=1000))

  if arg.singlehost:
    config.input.batch_size = 32
  elif arg.runlocal:
    config.input.shuffle_buffer_size = 10
  return config


def add_three_splits(
  evals: mlc.ConfigDict, name: str, suffix: str, **cfg: Any
) -> None:
  """Adds an evaluator of training data, of what is held out, and of validation.

  Args:
    evals: gets `name_train`, `name_holdout` and `name` + `suffix`.
    name: see there.
    suffix: see there.
    **cfg: what the evaluators share.
  """
  evals[f"{name}_train"] = dict(cfg, split="train[4096:8192]")
  evals[f"{name}_holdout"] = dict(cfg, split=HOLDOUT)
  evals[f"{name}{suffix}"] = dict(cfg, split="validation")


def _oracle(channels, res, patch_size) -> mlc.ConfigDict:
  """Makes the config of the model of stage I."""
  model = mlc.ConfigDict(VQVAE_BASE)
  model.input_size = (res, res)
  model.patch_size = (patch_size, patch_size)
  model.code_len = 256
  model.dict_size = 4096
  model.codeword_dim = 768
  model.with_encoder_ctx = model.with_decoder_ctx = True
  model.code_dropout = "random"
  model.bottleneck_resize = True
  model.inputs = {k: (n, patch_size**2) for k, n in channels.items()}
  model.outputs = model.inputs
  return model


def _validation(data, split, pp_fn, log_steps) -> dict[str, Any]:
  """Makes the evaluator of the loss."""
  return dict(
    type="proj.uvim.compute_mean",
    pred="validation",
    data=dict(data, split=split),
    pp_fn=pp_fn,
    log_steps=log_steps,
  )
