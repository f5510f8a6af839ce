r"""Quickstart: a small ViT learns to read handwritten digits, on any machine.

  python -m big_vision.train --config configs/quickstart.py \
      --workdir workdirs/quickstart

The data are the 1,797 real 8x8 digits that come with scikit-learn (1,500 to
train, 297 to test); they are prepared the first time. Takes about 70 seconds on
two CPU cores and reaches about 98% test accuracy. On pictures of your own, a folder
per class, it is `--config configs/quickstart.py:source=folder,path=/data/pets`, see
`own_data.py`. Copy this file to start a config of your own; any value can be changed
on the command line as well, for example `--config.lr 0.001`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import own_data


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: None, "demo", which changes nothing, since this is small already,
      or data of your own.

  Returns:
    ConfigDict.
  """
  # A demo would not be any smaller.
  arg = bvcc.parse_arg(arg, demo=False, **own_data.ARGS)
  config = mlc.ConfigDict()

  # How long, and where randomness comes from. Every duration can be given as
  # `_steps`, `_epochs`, `_examples` or `_percent` of the total.
  config.seed = 0
  config.total_epochs = 120
  config.num_classes = 10
  config.loss = "sigmoid_xent"  # Each class on its own: yes or no.

  # Training data: a TFDS name and split; what happens to an example on its
  # way into a batch, one operation after the other (see `big_vision/pp/`).
  config.input = {}
  config.input.data = dict(name="digits", split="train")
  config.input.batch_size = 64  # In all, over all devices.
  config.input.shuffle_buffer_size = 1500  # All of it: a perfect shuffle.
  config.input.cache_raw = True  # Small enough to keep in memory.

  # Labels become one-hot vectors; only what the model needs stays.
  pp_label = "|onehot(10, key='label', key_result='labels')"
  pp_label += "|keep('image', 'labels')"
  # A frame of one black pixel, then three pixels for one, so that the digit can
  # be turned, slanted, stretched and shifted by fractions of a pixel.
  pp_image = "decode(channels=1)|pad_to_shape((10, 10, 1), where='both')"
  pp_image += "|resize(30)"
  config.input.pp = (
    f"{pp_image}|random_affine(degrees=15, shear=0.2, scale=0.2, shift=0.08)"
    f"|central_crop(23)|resize(20)|value_range(-1, 1){pp_label}"
  )
  pp_eval = f"{pp_image}|central_crop(21)|resize(20)|value_range(-1, 1)"

  if arg.source:  # Pictures of your own: 32 pixels, in color.
    pp_image = "decode|resize_small(36)"
    config.input.pp = (
      f"{pp_image}|random_crop(32)|flip_lr|value_range(-1, 1){pp_label}"
    )
    pp_eval = f"{pp_image}|central_crop(32)|value_range(-1, 1)"

  # What to write and when. A run that is started again with the same workdir
  # continues from its last checkpoint.
  config.log_training_steps = 50
  config.ckpt_steps = 500

  # The model: `big_vision/models/vit.py`, and the arguments of its `Model`.
  config.model_name = "vit"
  config.model = dict(
    patch_size=(4, 4),  # 25 tokens for an image of 20x20.
    width=48,
    depth=3,
    mlp_dim=96,
    num_heads=4,
    posemb="sincos2d",  # "learn" needs more data than there are here.
    pool_type="gap",
    rep_size=True,  # A hidden layer before the head: `pre_logits`.
  )
  config.init_head_bias = -2.3  # Start from "no" with a probability of 0.9.

  # The optimizer: any transformation of optax, then weight decay and schedule.
  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.99)
  config.grad_clip_norm = 1.0
  config.lr = 3e-3
  config.wd = 1e-4
  config.schedule = dict(decay_type="cosine", warmup_epochs=3)
  config.mixup = dict(p=0.3)

  # Evaluations, each with its own data and interval. The accuracy on the test
  # set is logged as `test/prec@1`.
  config.evals = {}
  config.evals.test = dict(
    type="classification",
    data=dict(name="digits", split="test"),
    pp_fn=pp_eval + pp_label,
    loss_name=config.loss,
    log_epochs=10,
  )
  # Few-shot accuracy of a linear classifier on the learned representation,
  # logged as `z/digits_5shot-seed-0` and so on.
  pp_fewshot = f"{pp_eval}|keep('image', 'label')"
  config.evals.fewshot = dict(
    type="fewshot_lsr",
    datasets=dict(digits=("digits", "train", "test")),
    representation_layer="pre_logits",
    pp_train=pp_fewshot,
    pp_eval=pp_fewshot,
    shots=(1, 5, 10),
    l2_reg=2.0**10,
    num_seeds=1,
    display_first=(("digits", 10),),
    prefix="",
    log_percent=0.5,
  )
  own_data.apply(config, arg)
  return config
