r"""BiT (ResNet with GroupNorm) from scratch on ImageNet-1k.

https://arxiv.org/abs/1912.11370 ("Big Transfer"), with the usual augmentation:
inception crops and flips.

  python -m big_vision.train \
    --config big_vision/configs/bit_i1k.py \
    --workdir /path/to/workdir \
    --config.model.depth 50 --config.model.width 1

Expected: the ResNet-50x1 of the defaults takes about 32 minutes on a v3-128.

`:runlocal`, or any other word, is for trying it on one machine: small batch,
evaluation on `val` alone.

`:source=folder,path=/data/pets` and others train on data of your own, see
`own_data.py`.

`:demo` really trains, in a minute or two on a CPU, a tiny model on generated
data, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo, own_data

PP_COMMON = (
  '|onehot(1000, key="{label}", key_result="labels")'
  '|value_range(-1, 1)|keep("image", "labels")'
)


def get_config(runlocal: bool | str = False) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    runlocal: any word but `demo` shortens the run, see the top of this file.

  Returns:
    ConfigDict.
  """
  runlocal, own = own_data.split_arg(runlocal)
  runlocal, own.demo = demo.split_arg(runlocal)
  config = mlc.ConfigDict()

  config.seed = 0
  config.total_epochs = 90
  config.num_classes = 1000
  config.loss = "softmax_xent"

  config.input = dict(
    data=dict(name="imagenet2012", split="train[:99%]"),
    batch_size=4096,
    cache_raw=True,  # Needs up to 120 GB of memory.
    shuffle_buffer_size=250_000,
    pp=(
      "decode_jpeg_and_inception_crop(224)|flip_lr"
      + PP_COMMON.format(label="label")
    ),
  )

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.model_name = "bit"
  # The depth may also be the number of blocks of each stage: [3, 5, 10, 2].
  config.model = dict(depth=50, width=1.0)

  config.optax_name = "big_vision.momentum_hp"
  config.grad_clip_norm = 1.0
  # Of the default batch size; to be changed with it by hand.
  config.wd = (1e-4 / 256) * config.input.batch_size
  config.lr = (0.1 / 256) * config.input.batch_size
  config.schedule = dict(decay_type="cosine", warmup_steps=1000)

  config.evals = bvcc.imagenet_evals(
    "decode|resize_small(256)|central_crop(224)" + PP_COMMON,
    loss_name=config.loss,
    log_steps=1000,
    cache="final_data",
  )

  if runlocal:
    config.input.batch_size = 32
    config.input.cache_raw = False
    config.input.shuffle_buffer_size = 100
    config.evals = dict(val={**config.evals.val, "cache": "none"})
  own_data.apply(config, own, per_batch=("lr", "wd"))
  if own.demo:
    demo.apply(config, lr=0.1)
  return config
