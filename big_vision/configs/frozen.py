"""Implements the config argument `model`: a trained model that stays as it is.

  model=vit-s16              one of `transfer.MODELS`
  model=workdirs/quickstart  the workdir of a run: its last checkpoint, and its
                             preprocessing of pictures
  model=hf://org/repo        any published checkpoint that `pretrained.load` takes;
                             of two towers, that of images

`find` makes what a config needs. A config offers this with `**frozen.ARGS` among
the arguments that it parses.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from big_vision import fs, lookup
from big_vision.configs import transfer

ARGS: dict[str, Any] = dict(model="vit-s16", res=0)

# Ops of labels, which probes do not want.
_LABEL_OPS = ("onehot", "keep")


@dataclasses.dataclass(frozen=True)
class Frozen:
  """Describes a trained model.

  Attributes:
    config: values of the keys `model_name`, `model`, `model_init` and
      `model_load`.
    pp: preprocessing of pictures, from bytes on.
  """

  config: dict[str, Any]
  pp: str

  @property
  def norm_eps(self) -> float:
    """The model's, for features of its tokens."""
    return (self.config["model"] or {}).get("norm_eps", 1e-6)


def pp_center(res: int) -> str:
  """Makes the usual preprocessing of pictures.

  Args:
    res: side of the central crop in pixels.

  Returns:
    Preprocessing string.
  """
  return f"decode|resize_small({res * 8 // 7})|central_crop({res})|value_range(-1, 1)"


def find(arg: Any, pp_of_size: Callable[[int], str] = pp_center) -> Frozen:
  """Finds the model that the arguments of a config name.

  Args:
    arg: parsed arguments, those of `ARGS` among them. `res` is the side of
      pictures in pixels; 0 means the one that the model was trained with.
    pp_of_size: makes preprocessing from `res`, for models that have none.

  Returns:
    The model.

  Raises:
    ConfigError: there is no such model.
  """
  if arg.model in transfer.MODELS:
    name, init, model = transfer.MODELS[arg.model]
    res = arg.res or transfer.SIZES.get(arg.model, transfer.USUAL_SIZE)[1]
    return Frozen(_headless(name, init, dict(model)), pp_of_size(res))
  from big_vision.pretrained import published  # Imports jax.

  if published.is_checkpoint(arg.model):
    return _of_checkpoint(arg, pp_of_size)
  if fs.exists(fs.join(arg.model, "config.json")):
    return _of_workdir(arg, pp_of_size)
  hint = lookup.did_you_mean(arg.model, transfer.MODELS)
  raise lookup.ConfigError(
    f"Config arg model={arg.model}: it is neither the workdir of a run, nor a "
    f"checkpoint, nor a known name{hint}"
  )


def _headless(name, init, model, has_head=True):
  """Makes keys of a model without its head, which probes replace."""
  has_head = bool(model.pop("num_classes", has_head))
  return dict(
    model_name=name,
    model_init=init,
    model=model,
    model_load=dict(dont_load=["head(_dist)?/.*"]) if has_head else {},
    num_classes=None,
  )


def _of_checkpoint(arg, pp_of_size):
  """Reads a published checkpoint."""
  from big_vision.pp import builder  # The TensorFlow wing.
  from big_vision.pretrained import published

  source = arg.model
  about = published.describe(source)
  if about.config.model_name.endswith("two_towers"):
    source += ":img"
    about = published.describe(source)
  if about.pp is None:
    raise lookup.ConfigError(
      f"Config arg model={arg.model} is not a model of pictures."
    )
  ops = builder.split_pipeline(about.pp)
  values = [op for op in ops if "value_range" in op]
  pp = about.pp if about.pp.startswith("decode") else f"decode|{about.pp}"
  if values and (arg.res or pp_of_size is not pp_center):
    pp = pp_of_size(arg.res or max(about.image_size))
    pp = pp.replace("value_range(-1, 1)", values[-1])
  model = about.config.get("model")
  model = model.to_dict() if model else {}
  has_head = bool(about.config.get("num_classes"))
  keys = _headless(about.config.model_name, source, model, has_head)
  if modules := about.config.get("pp_modules"):
    keys["pp_modules"] = list(modules)
  return Frozen(keys, pp)


def _of_workdir(arg, pp_of_size):
  """Reads what a run has trained."""
  from big_vision.pp import builder  # The TensorFlow wing.
  from big_vision.pretrained import preprocessing, run_files

  config = run_files.read_config(arg.model)
  if "model_name" not in config:
    raise lookup.ConfigError(
      f"Config arg model={arg.model}: the run has several models; give its "
      "config's student as --config.model_name, --config.model and "
      "--config.model_init."
    )
  model = config.get("model") or {}
  model = model.to_dict() if hasattr(model, "to_dict") else dict(model)
  init = run_files.checkpoint_of(arg.model)
  if arg.res:
    pp = pp_of_size(arg.res)
  else:
    stored = run_files.read_data(arg.model).get("pp")
    pp = stored or preprocessing.evaluation_pp(config)
    ops = builder.split_pipeline(pp)
    pp = "|".join(
      op for op in ops if op.split("(")[0].strip() not in _LABEL_OPS
    )
  has_head = bool(config.get("num_classes"))
  keys = _headless(config.model_name, init, model, has_head)
  if modules := config.get("pp_modules"):
    keys["pp_modules"] = list(modules)
  return Frozen(keys, pp)
