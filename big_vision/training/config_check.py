"""Checks a config once, at the edge, before anything expensive starts."""

import jax

from big_vision import lookup, losses
from big_vision.evaluators import validate as eval_validate

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


def check(config, known=KEYS, model="model"):
  """Raises ValueError for what can be told wrong from the config alone.

  Args:
    config: ConfigDict of a run.
    known: names that may stand at its top level.
    model: what the config calls the model that is trained.
  """
  lookup.check_keys(config, known, only_near=True)
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


def check_evals(config, predict_fns, devices):
  """Raises ValueError for evaluators that can not be built.

  Args:
    config: ConfigDict of a run.
    predict_fns: what the recipe offers to evaluators, by name.
    devices: [num_devices] array.
  """
  eval_validate.validate(config, predict_fns, devices)
