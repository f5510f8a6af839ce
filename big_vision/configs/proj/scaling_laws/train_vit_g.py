r"""ViT-g/14 and ViT-G/14 on JFT-3B, with sharded parameters.

https://arxiv.org/abs/2106.04560 ("Scaling Vision Transformers")

  python -m big_vision.train \
    --config big_vision/configs/proj/scaling_laws/train_vit_g.py \
    --workdir /path/to/workdir

ViT-G/14 is `--config.model.variant G/14`. JFT-3B is not public, and its images
are decoded already. `:source=tfds,path=imagenet2012`, `:source=folder,path=/data/pets`
and others train on data of your own, see `own_data.py`, for at most 100 epochs. What a
run needs on which accelerators, before there are any:

  python -m big_vision.tools.plan \
    --config big_vision/configs/proj/scaling_laws/train_vit_g.py \
    --config.model.variant G/14 --mesh data=2048

Expected: the paper's ViT-G/14 has 90.45% on ImageNet after fine-tuning, 84.86%
from 10 examples per class. A batch of 16 384 fits with 32 images per TPU v3 core.

`:demo` really trains, in a minute or two on a CPU, a tiny model on generated
data, see `demo.py`.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision.configs import demo, own_data
from big_vision.configs.common_fewshot import get_fewshot_lsr
from big_vision.training import flat_config


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: the keys `demo` and those of `own_data.ARGS`.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(arg, demo=False, **own_data.ARGS)
  config = mlc.ConfigDict()

  config.dataset = "jft_3b"
  config.val_split = "val"
  config.train_split = "train"
  config.num_classes = 29593
  config.init_head_bias = -10.0

  config.batch_size = 16_384
  pp_common = (
    f'|value_range(-1, 1)|onehot({config.num_classes})|keep("image", "labels")'
  )
  config.pp_train = "inception_crop(224)|flip_lr" + pp_common
  config.pp_eval = "resize_small(256)|central_crop(224)" + pp_common
  config.shuffle_buffer_size = 250_000

  config.log_training_steps = 50
  config.log_eval_steps = 1000
  config.ckpt_steps = 1000
  config.keep_ckpt_steps = 10_000
  config.prefetch_to_device = 1
  config.trial = 0  # Kept from the published config; not read.

  config.model_name = "vit"
  config.model = dict(variant="g/14", pool_type="map")

  # Parameters and optimizer state are split over all devices.
  config.mesh = [("data", -1)]
  config.sharding_strategy = [(".*", 'fsdp(axis="data")')]

  config.optax_name = "big_vision.scale_by_adafactor"
  config.grad_clip_norm = 1.0
  config.lr = 8e-4
  config.wd = 0.03 * 8e-4
  # The head decays 100 times as fast as the body (section 3.1 of the paper).
  config.wd_mults = [(".*head/kernel", 100.0), (".*/kernel", 1.0)]
  config.schedule = dict(
    decay_type="rsqrt",
    timescale=10_000,
    warmup_steps=10_000,
    cooldown_steps=50_000,
  )
  config.total_steps = 1_000_000

  config.evals = dict(fewshot=get_fewshot_lsr(log_steps=10_000))

  if arg.demo or arg.source:
    config.pp_train = "decode|" + config.pp_train  # JFT comes decoded.
    config.pp_eval = "decode|" + config.pp_eval
    config = flat_config.modern(config)
  if own_data.apply(config, arg, total_steps=_num_steps):
    most, schedule = max(1, config.total_steps // 10), config.schedule
    schedule.timescale = min(schedule.timescale, most)
    if schedule.cooldown_steps > most:  # As the warm-up.
      demo.set_duration(schedule, "cooldown", cooldown_percent=0.1)
  if arg.demo:
    demo.apply(config, lr=0.003)
  return config


def _num_steps(num_examples, batch_size):
  """Returns how long to train on own data: 100 epochs, or the steps on JFT-3B."""
  return max(1, min(1_000_000, 100 * num_examples // batch_size))
