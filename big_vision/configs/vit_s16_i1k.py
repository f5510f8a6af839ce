r"""ViT-S/16 on ImageNet-1k, the simple and strong baseline.

https://arxiv.org/abs/2205.01580: global average pooling, fixed 2D sine-cosine
position embedding, light RandAugment and Mixup, no dropout, no distillation.

  python -m big_vision.train \
    --config big_vision/configs/vit_s16_i1k.py \
    --workdir /path/to/workdir

Expected: 76.5% on `val` after 90 epochs, which take 6 to 7 hours on a
TPU-v3-8. For 300 epochs append `--config.total_epochs 300`.

The cache of the raw data takes up to 120 GB of memory; without that much append
`--config.input.cache_raw=False`.

`:source=folder,path=/data/pets` and others train on data of your own, see
`own_data.py`.

`:demo` really trains, in a minute or two on a CPU, a tiny model on generated
data, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo, own_data


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: None, "demo", or data of your own.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(arg, demo=False, **own_data.ARGS)
  config = mlc.ConfigDict()

  config.seed = 0
  config.total_epochs = 90
  config.num_classes = 1000
  config.loss = "softmax_xent"

  config.input = dict(
    data=dict(name="imagenet2012", split="train[:99%]"),
    batch_size=1024,
    cache_raw=True,
    shuffle_buffer_size=250_000,
    pp=(
      "decode_jpeg_and_inception_crop(224)|flip_lr|randaug(2,10)"
      "|value_range(-1, 1)" + bvcc.pp_labels(1000)
    ),
  )
  config.pp_modules = bvcc.pp_modules("archive.randaug")

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.model_name = "vit"
  config.model = dict(
    variant="S/16", rep_size=True, pool_type="gap", posemb="sincos2d"
  )

  config.grad_clip_norm = 1.0
  config.optax_name = "scale_by_adam"
  config.optax = dict(mu_dtype="bfloat16")
  config.lr = 0.001
  config.wd = 0.0001
  config.schedule = dict(warmup_steps=10_000, decay_type="cosine")
  config.mixup = dict(p=0.2, fold_in=None)

  config.evals = bvcc.imagenet_evals(loss_name=config.loss, log_steps=2500)
  own_data.apply(config, arg)
  if arg.demo:
    demo.apply(config, lr=0.003)
  return config
