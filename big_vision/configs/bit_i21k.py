r"""BiT (ResNet v2 with GroupNorm, as published) on ImageNet-21k.

https://arxiv.org/abs/1912.11370 ("Big Transfer").

  python -m big_vision.train \
    --config big_vision/configs/bit_i21k.py \
    --workdir /path/to/workdir

Expected: an upstream model like the paper's BiT-M; other sizes with
`--config.model.depth` and `--config.model.width`. The TFDS dataset
`imagenet21k` with its 21 843 classes has to be prepared first, see
`docs/datasets.md`.

`:source=folder,path=/data/pets` and others train on data of your own, see
`own_data.py`.

`:demo` really trains, in a minute or two on a CPU, a tiny model on generated
data, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo, own_data
from big_vision.configs.common_fewshot import get_fewshot_lsr


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
  config.num_classes = 21843
  config.init_head_bias = -10.0  # About log(1 / num_classes).
  config.loss = "sigmoid_xent"

  pp_common = (
    f'|value_range(-1, 1)|onehot({config.num_classes})|keep("image", "labels")'
  )
  config.input = dict(
    data=dict(name="imagenet21k", split="full[51200:]"),
    batch_size=4096,
    shuffle_buffer_size=250_000,
    pp="decode_jpeg_and_inception_crop(224)|flip_lr" + pp_common,
  )

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.model_name = "bit_paper"
  config.model = dict(depth=50, width=1.0)

  config.optax_name = "big_vision.momentum_hp"
  config.grad_clip_norm = 1.0
  # Of the default batch size; to be changed with it by hand.
  config.lr = (0.03 / 256) * config.input.batch_size
  config.wd = (3e-5 / 256) * config.input.batch_size
  config.schedule = dict(decay_type="cosine", warmup_steps=5000)

  config.evals = bvcc.imagenet21k_evals(
    "decode|resize_small(256)|central_crop(224)" + pp_common,
    loss_name=config.loss,
    log_steps=1000,
  )
  config.evals.fewshot = get_fewshot_lsr()
  own_data.apply(config, arg, per_batch=("lr", "wd"))
  if arg.demo:
    demo.apply(config, lr=0.1)
  return config
