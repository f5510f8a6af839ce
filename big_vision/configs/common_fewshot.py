"""Defines the usual few-shot evaluation for `config.evals`."""

from typing import Any

import ml_collections as mlc

_LOG = ("log_steps", "log_percent", "log_examples", "log_epochs")


def get_fewshot_lsr(
  target_resolution: int = 224,
  resize_resolution: int = 256,
  runlocal: bool = False,
  pp: str | None = None,
  **kw: Any,
) -> mlc.ConfigDict:
  """Configures the evaluator `fewshot_lsr` on six small datasets.

  ImageNet is not among them, since it needs a manual download. To add it:
  `datasets["imagenet"] = ("imagenet2012", "train[:65000]", "validation")`; the
  first 65 000 images have at least 30 of each class.

  Args:
    target_resolution: size of the central crop in pixels.
    resize_resolution: size of the image before the crop in pixels.
    runlocal: whether to use the pets only.
    pp: preprocessing of images; the default decodes, resizes, crops and
      scales to [-1, 1].
    **kw: settings of the evaluator; without a `log_*` it runs every 25 000
      steps.

  Returns:
    ConfigDict.
  """
  config = mlc.ConfigDict()
  config.representation_layer = "pre_logits"
  config.shots = (1, 5, 10, 25)
  config.l2_reg = 2.0**10
  config.num_seeds = 3
  config.prefix = ""  # No name of the evaluator in front of its metrics.
  if not any(k in kw for k in _LOG):
    config.log_steps = 25_000
  config.type = "fewshot_lsr"

  # Name in the metrics: (TFDS name, split to learn from, split to test on).
  config.datasets = dict(
    caltech=("caltech101", "train", "test"),
    cars=("cars196:2.1.0", "train", "test"),
    cifar100=("cifar100", "train", "test"),
    dtd=("dtd", "train", "test"),
    pets=("oxford_iiit_pet", "train", "test"),
    uc_merced=("uc_merced", "train[:1000]", "train[1000:]"),
  )
  config.display_first = [("imagenet", 10)]
  if runlocal:
    config.datasets = dict(pets=("oxford_iiit_pet", "train", "test"))
    config.display_first = [("pets", 10)]

  pp = pp or (
    f"decode|resize({resize_resolution})|central_crop({target_resolution})"
    "|value_range(-1,1)"
  )
  config.pp_train = config.pp_eval = pp + '|keep("image", "label")'

  for key, value in kw.items():
    with config.ignore_type():
      config[key] = value
  return config
