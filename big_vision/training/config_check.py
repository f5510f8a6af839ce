"""Checks a config once, at the edge, before anything expensive starts."""

import jax
from absl import logging

from big_vision import lookup, losses
from big_vision.evaluators import validate as eval_validate
from big_vision.training import label_check
from big_vision.types import ConfigLike

# Keys of the loop, the optimizer and the trainers. Others are allowed (configs
# keep their arguments and sweeps their notes there) unless they look misspelt.
DURATIONS = ("total", "log_training", "ckpt", "keep_ckpt")
KEYS = {
  "pp_modules", "mesh", "mesh_allow_split_physical_axes", "sharding_rules",
  "sharding_strategy", "input", "prefetch_to_device", "model_name",
  "num_classes", "model", "init_head_bias", "seed", "loss", "mixup", "resume",
  "model_init", "model_load", "evals", "batch_size_eval", "batch_size",
  "optax_name", "optax", "lr", "lr_mults", "wd", "wd_mults", "schedule",
  "grad_clip_norm", "grad_clip_per_example", "weight_decay_decouple",
  "grad_clip_agc", "grad_clip_agc_eps", "grad_clip_agc_mults",
  "grad_accum_steps", "ckpt_timeout",
  "optim_name",  # Of the past, still in some configs; nobody reads it.
  *(f"{d}_{u}" for d in DURATIONS for u in ("steps", "examples", "epochs", "percent")),
}  # fmt: skip
REQUIRED = ("input", "input.batch_size", "lr", "optax_name")
MIXUP_KEYS = ("p", "n")
# Some published configs have it; nobody has ever read it.
MIXUP_UNREAD = ("fold_in",)


def check(config: ConfigLike, model: str = "model") -> None:
  """Checks all of a config, before data is read or anything is written.

  What configs ask of a recipe, the predict functions of evaluators, is checked
  by `loop.run`, as soon as there is a recipe.

  Args:
    config: ConfigDict of a run, in today's layout.
    model: what the config calls the model that is trained.

  Raises:
    ValueError: names the key that is wrong, what it is, and what would do.
  """
  from big_vision import input_pipeline  # The TensorFlow wing.

  check_training(config, model)
  lookup.preprocessing(config)
  input_pipeline.validate(config.input)
  eval_validate.validate(config, None, jax.devices())
  label_check.check(config)


def check_training(config: ConfigLike, model: str = "model") -> None:
  """Checks what concerns neither data nor evaluators; imports no TensorFlow.

  Args:
    config: ConfigDict of a run.
    model: what the config calls the model that is trained.

  Raises:
    ValueError: names the key that is wrong.
  """
  lookup.check_keys(config, KEYS, only_near=True)
  for key in (*REQUIRED, f"{model}_name"):
    if config.get(key) is None:
      raise ValueError(f"config.{key} is required.")
  # What only evaluates logs no step.
  evaluates = config.get("total_steps") == 0
  for d in ("total",) if evaluates else ("total", "log_training"):
    units = [f"{d}_{u}" for u in ("steps", "examples", "epochs", "percent")]
    if all(config.get(u) is None for u in units):
      raise ValueError(
        f"One of {', '.join('config.' + u for u in units)} is required."
      )
  if config.get("total_percent") is not None:
    raise ValueError("config.total_percent: there is no total to take it from.")

  batch_size, n = config.input.batch_size, jax.device_count()
  if batch_size % n:
    raise ValueError(
      f"config.input.batch_size={batch_size} is not divisible by the number of "
      f"devices, {n}. Use for example {max(batch_size // n, 1) * n}."
    )
  accum = config.get("grad_accum_steps") or 1
  if batch_size % (accum * n):
    raise ValueError(
      f"config.input.batch_size={batch_size} is not divisible by "
      f"config.grad_accum_steps={accum} times the number of devices, {n}."
    )
  name = f"{model}_name"
  lookup.module("models", config[name], kind="model", key=name, needs="Model")
  if isinstance(config.get("loss"), str):
    losses.get(config.loss, "loss")
  _check_mixup(config.get("mixup") or {})


def _check_mixup(mixup: ConfigLike) -> None:
  """Refuses keys of `config.mixup` that nobody reads."""
  lookup.check_keys(mixup, (*MIXUP_KEYS, *MIXUP_UNREAD), "mixup")
  for key in MIXUP_UNREAD:
    if key in mixup:
      logging.info("config.mixup.%s has no effect.", key)
