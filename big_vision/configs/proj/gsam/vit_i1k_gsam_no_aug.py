r"""ViT on ImageNet-1k without augmentation, with GSAM.

https://arxiv.org/abs/2203.08065 ("Surrogate Gap Minimization Improves
Sharpness-Aware Training").

  python -m big_vision.trainers.proj.gsam.train \
    --config big_vision/configs/proj/gsam/vit_i1k_gsam_no_aug.py:B/32 \
    --workdir /path/to/workdir

With `--config.gsam.rho_min 0.6 --config.gsam.alpha 0` it is SAM.

Expected: the accuracies of the paper without strong augmentation.

`:runlocal` is for trying it on one machine: small batch, 16 images per
evaluation.

`:source=folder,path=/data/pets` and others train on data of your own, see
`own_data.py`.

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
    arg: the keys `variant`, `runlocal`, `demo`, and those of `own_data.ARGS`.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg, variant="B/32", runlocal=False, demo=False, **own_data.ARGS
  )
  config = mlc.ConfigDict()

  config.dataset = "imagenet2012"
  config.train_split = "train[:99%]"
  config.cache_raw = not arg.runlocal
  config.shuffle_buffer_size = 250_000
  config.num_classes = 1000
  config.loss = "sigmoid_xent"
  config.batch_size = 4096
  config.num_epochs = 300
  config.pp_train = (
    "decode_jpeg_and_inception_crop(224)|flip_lr||value_range(-1, 1)"
    + bvcc.pp_labels(1000)
  )
  config.prefetch_to_host = 8
  config.prefetch_to_device = 4

  config.log_training_steps = 50
  config.checkpoint_steps = 1000

  config.model_name = "vit"
  config.model = dict(variant=arg.variant, rep_size=False, pool_type="gap")
  config.init_head_bias = -10.0

  config.grad_clip_norm = 1.0
  config.optax_name = "scale_by_adam"
  config.optax = dict(mu_dtype="float32")
  config.lr = 0.003
  config.wd = 0.001
  config.schedule = dict(
    warmup_steps=10_000, decay_type="linear", linear_end=0.01
  )

  # The perturbation is largest at the largest learning rate; these follow it.
  lr = config.get_ref("lr")
  config.gsam = dict(
    rho_max=0.6,
    rho_min=0.1,
    alpha=0.6,
    lr_max=lr,
    lr_min=config.schedule.get_ref("linear_end") * lr,
  )

  config.evals = {}
  evals = bvcc.imagenet_evals(
    runlocal=arg.runlocal, loss_name=config.loss, log_steps=2500
  )
  for name, cfg in evals.items():
    data = cfg.pop("data")
    config.evals[name] = dict(dataset=data["name"], split=data["split"], **cfg)
  # Not evaluated from here. `config.evals.fewshot = config.fewshot` enables it;
  # it needs the six datasets.
  config.fewshot = get_fewshot_lsr(runlocal=arg.runlocal, log_steps=10_000)

  if arg.runlocal:
    config.batch_size = 8
    config.shuffle_buffer_size = 10
  if arg.source:
    config = flat_config.modern(config)
    own_data.apply(config, arg)
  if arg.demo:
    # The radius is one for large models; gsam.lr_max follows.
    config.lr = 0.01
    config.gsam.update(rho_max=0.1, rho_min=0.02)
    config = flat_config.modern(config)
    demo.apply(config)
  return config
