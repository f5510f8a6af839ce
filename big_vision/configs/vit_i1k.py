r"""ViT from scratch on ImageNet-1k, with the recipes of AugReg.

https://arxiv.org/abs/2106.10270 ("How to train your ViT?"), without dropout and
stochastic depth. How much augmentation is best depends on the model; see
`AUG_FOR_VARIANT`, or choose with `aug`.

  python -m big_vision.train \
    --config big_vision/configs/vit_i1k.py:variant=B/16 \
    --workdir /path/to/workdir

  python -m big_vision.train \
    --config big_vision/configs/vit_i1k.py:variant=B/32,aug=light1 \
    --workdir /path/to/workdir --config.total_epochs 300

Expected: the accuracies of the paper for training on ImageNet-1k alone. For a
shorter run with a known result see `vit_s16_i1k.py`.

`:runlocal` is for trying it on one machine: small batch, 16 images per
evaluation.

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

# Name: (preprocessing op, Mixup's p).
AUG_PRESETS = dict(
  none=("", 0.0),
  light1=("randaug(2,0)", 0.0),
  light2=("randaug(2,10)", 0.2),
  medium1=("randaug(2,15)", 0.2),
  medium2=("randaug(2,15)", 0.5),
  strong1=("randaug(2,20)", 0.5),
  strong2=("randaug(2,20)", 0.8),
)

AUG_FOR_VARIANT = {
  "Ti/16": "light1",
  "S/32": "medium1",
  "S/16": "medium2",
  "B/32": "medium2",
  "B/16": "medium2",
  "L/16": "medium2",
}


def get_aug(aug: str, variant: str, aug_for_variant: dict[str, str]) -> str:
  """Returns the preset `aug`, or the one that suits the variant.

  Args:
    aug: name of a preset, may be empty or None.
    variant: model variant, for example "B/16".
    aug_for_variant: dict from variant to the name of a preset.

  Returns:
    (preprocessing op, p of Mixup).

  Raises:
    KeyError: nothing is known to suit the variant.
    ValueError: the preset does not exist.
  """
  if not aug and variant not in aug_for_variant:
    raise KeyError(
      f"No augmentation is known to suit variant={variant}; choose one with "
      f"aug=, of {', '.join(AUG_PRESETS)}. Variants with a default: "
      f"{', '.join(aug_for_variant)}."
    )
  aug = aug or aug_for_variant[variant]
  if aug not in AUG_PRESETS:
    raise lookup.unknown("augmentation", aug, AUG_PRESETS)
  return AUG_PRESETS[aug]


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: the keys `variant`, `runlocal`, `aug`, `demo`, and those of
      `own_data.ARGS`.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg,
    variant="B/16",
    runlocal=False,
    aug="",
    demo=False,
    **own_data.ARGS,
  )
  randaug, mixup_p = get_aug(arg.aug, arg.variant, AUG_FOR_VARIANT)
  config = mlc.ConfigDict()

  config.seed = 0
  config.total_epochs = 300
  config.num_classes = 1000
  config.loss = "sigmoid_xent"
  config.init_head_bias = -6.9  # About log(1 / num_classes).

  config.input = dict(
    data=dict(name="imagenet2012", split="train[:99%]"),
    batch_size=4096,
    cache="raw_data" if arg.runlocal else "none",
    shuffle_buffer_size=250_000,
    prefetch=8,
    pp=(
      f"decode_jpeg_and_inception_crop(224)|flip_lr|{randaug}"
      "|value_range(-1, 1)" + bvcc.pp_labels(1000)
    ),
  )
  config.pp_modules = bvcc.pp_modules("archive.randaug")
  config.prefetch_to_device = 4

  config.log_training_steps = 50
  config.ckpt_steps = 1000

  config.model_name = "vit"
  config.model = dict(variant=arg.variant, rep_size=True, pool_type="tok")

  config.grad_clip_norm = 1.0
  config.optax_name = "scale_by_adam"
  config.optax = dict(mu_dtype="bfloat16")
  config.lr = 0.001
  config.wd = 0.0001
  config.schedule = dict(warmup_steps=10_000, decay_type="cosine")
  config.mixup = dict(p=mixup_p, fold_in=None)

  config.evals = bvcc.imagenet_evals(
    runlocal=arg.runlocal,
    loss_name=config.loss,
    log_steps=2500,
    cache="final_data" if arg.runlocal else "none",
  )
  # Not evaluated from here. `config.evals.fewshot = config.fewshot` enables it;
  # it needs the six datasets.
  config.fewshot = get_fewshot_lsr(runlocal=arg.runlocal, log_steps=10_000)

  bvcc.input_for_quicktest(config.input, arg.runlocal)
  own_data.apply(config, arg)
  if arg.demo:
    demo.apply(config, lr=0.003)
  return config
