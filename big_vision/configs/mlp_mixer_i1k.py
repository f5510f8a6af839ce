r"""MLP-Mixer-B/16 from scratch on ImageNet-1k.

https://arxiv.org/abs/2105.01601, with stochastic depth, RandAugment and Mixup.

  python -m big_vision.train \
    --config big_vision/configs/mlp_mixer_i1k.py \
    --workdir /path/to/workdir

Expected: 76.3% on `val` after 300 epochs, which take 2 hours 11 minutes on a
v3-128; 60 epochs give 70.5% in 27 minutes.

`:gpu8` is for a machine with 8 GPUs: 60 epochs, a smaller batch, no caches.
`:regression_test` is 60 epochs.

`:source=folder,path=/data/pets` and others train on data of your own, see
`own_data.py`.

`:demo` really trains, in a minute or two on a CPU, a tiny model on generated
data, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision import lookup
from big_vision.configs import demo, own_data
from big_vision.configs.common_fewshot import get_fewshot_lsr

MODES = ("gpu8", "regression_test")


def get_config(mode: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    mode: None or one of `MODES`.

  Returns:
    ConfigDict.
  """
  mode, own = own_data.split_arg(mode)
  mode, own.demo = demo.split_arg(mode)
  if mode and mode not in MODES:
    raise lookup.unknown("mode of mlp_mixer_i1k", mode, (*MODES, "demo"))
  config = mlc.ConfigDict()

  config.seed = 0
  config.total_epochs = 300
  config.num_classes = 1000
  config.loss = "sigmoid_xent"
  config.init_head_bias = -6.9  # About log(1 / num_classes).

  config.input = dict(
    data=dict(name="imagenet2012", split="train[:99%]"),
    batch_size=4096,
    cache_raw=True,  # Needs up to 120 GB of memory.
    shuffle_buffer_size=250_000,
    pp=(
      "decode_jpeg_and_inception_crop(224)|flip_lr|randaug(2,15)"
      "|value_range(-1, 1)" + bvcc.pp_labels(1000)
    ),
  )
  config.pp_modules = bvcc.pp_modules("archive.randaug")
  config.prefetch_to_device = 2

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.model_name = "mlp_mixer"
  config.model = dict(variant="B/16", stoch_depth=0.1)

  config.mixup = dict(fold_in=None, p=0.5)
  config.optax_name = "scale_by_adam"
  config.grad_clip_norm = 1.0
  config.lr = 0.001
  config.wd = 1e-4
  config.schedule = dict(
    decay_type="linear", warmup_steps=10_000, linear_end=1e-5
  )

  config.evals = bvcc.imagenet_evals(
    loss_name=config.loss, log_steps=2500, cache_final=mode != "gpu8"
  )
  # Not evaluated from here. `config.evals.fewshot = config.fewshot` enables it;
  # it needs the six datasets.
  config.fewshot = get_fewshot_lsr()

  if mode:
    config.total_epochs = 60
  if mode == "gpu8":
    config.input.batch_size = 512
    config.input.cache_raw = False
  own_data.apply(config, own)
  if own.demo:
    demo.apply(config, lr=0.003)
  return config
