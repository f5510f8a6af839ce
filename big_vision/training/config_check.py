"""Checks a config once, at the edge, before anything expensive starts."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from big_vision import (
  cutmix,
  lookup,
  lora,
  losses,
  precision,
  schedules,
  trackers,
)
from big_vision import optax as bv_optax
from big_vision.evaluators import validate as eval_validate
from big_vision.models import attention
from big_vision.training import (
  best,
  config_keys,
  ema,
  label_check,
  train_loss,
)
from big_vision.types import ConfigLike

# Others are allowed (configs keep their arguments and sweeps their notes there)
# unless they look misspelt.
KEYS = {
  *config_keys.RUN, "batch_size", "class_weights", "cutmix", "init_head_bias",
  "label_smoothing", "loss", "mixup", "model", "model_init", "model_load", "model_name", "num_classes",
}  # fmt: skip
REQUIRED = ("input", "input.batch_size", "lr", "optax_name")
MIXUP_KEYS = ("p", "n", "num_shards")
# Some published configs have it; nobody has ever read it.
MIXUP_UNREAD = ("fold_in",)
# To suggest; JAX knows more.
_DTYPES = ("float32", "bfloat16", "float16", "float64", "int32", "uint8")


def check(config: ConfigLike, model: str = "model") -> list[label_check.Space]:
  """Checks all of a config, before data is read or anything is written.

  What configs ask of a recipe, the predict functions of evaluators, is checked
  by `loop.run`, as soon as there is a recipe.

  Args:
    config: ConfigDict of a run, in today's layout.
    model: what the config calls the model that is trained.

  Returns:
    What labels mean in training, as far as it is known.

  Raises:
    ValueError: names the key that is wrong, what it is, and what would do.
  """
  from big_vision import input_pipeline  # The TensorFlow wing.

  check_training(config, model)
  lookup.preprocessing(config)
  input_pipeline.validate(config.input)
  eval_validate.validate(config, None, jax.devices())
  return label_check.check(config)


def check_training(config: ConfigLike, model: str = "model") -> None:
  """Checks what concerns neither data nor evaluators; imports no TensorFlow.

  Args:
    config: ConfigDict of a run.
    model: what the config calls the model that is trained.

  Raises:
    ValueError: names the key that is wrong.
  """
  known = KEYS
  if isinstance(
    config.get("mode"), str
  ):  # An argument of PaliGemma's transfers.
    known = KEYS | {"mode"}
  lookup.check_keys(config, known, only_near=True)
  _check_parts(config)
  trackers.check(config)
  for key in (*REQUIRED, f"{model}_name"):
    if config.get(key) is None:
      raise ValueError(f"config.{key} is required.")
  # What only evaluates logs no step.
  evaluates = config.get("total_steps") == 0
  for d in ("total",) if evaluates else ("total", "log_training"):
    units = [f"{d}_{u}" for u in config_keys.UNITS]
    if not schedules.given(d, config):  # Negative is the same as absent.
      raise ValueError(
        f"One of {', '.join('config.' + u for u in units)} is required."
      )
  key = schedules.given("log_training", config)
  if key and not config[key] and not evaluates:
    raise lookup.ConfigError(
      f"config.{key} = 0: after how many steps is a row of metrics written? "
      "Use for example config.log_training_steps = 50."
    )
  for d in ("ckpt", "keep_ckpt"):
    schedules.given(d, config)
  best.settings(config)
  ema.check(config)
  schedules.check_not_negative(
    config.get("ckpt_timeout"), "config.ckpt_timeout"
  )
  if config.get("total_percent") is not None:
    raise ValueError("config.total_percent: there is no total to take it from.")

  batch_size, n = config.input.batch_size, jax.device_count()
  _check_int(batch_size, "config.input.batch_size", 1)
  _check_int(config.get("seed", 0), "config.seed")
  _check_int(config.get("grad_accum_steps") or 1, "config.grad_accum_steps", 1)
  _check_int(
    config.get("prefetch_to_device") or 1, "config.prefetch_to_device", 1
  )
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
  _check_mixup(config.get("mixup") or {}, config.input.get("batch_size"))
  cutmix.check(config.get("cutmix"))
  train_loss.check(config)
  _check_num_classes(config.get("num_classes"))
  if config.get("num_classes", 1) in (0, None) and "init_head_bias" in config:
    raise lookup.ConfigError(
      "config.init_head_bias is for a head, which config.num_classes = "
      f"{config.num_classes} leaves out."
    )
  _check_dtypes(config, "config")
  precision.of(config)
  attention.of(config)
  lora.settings(config)
  bv_optax.check(config)
  _check_lengths(config)


def _check_parts(config: ConfigLike) -> None:
  """Refuses parts of the config that are not dicts."""
  parts = {k: config.get(k) or {} for k in ("input", "model", "optax", "mixup")}
  evals = parts["evals"] = config.get("evals") or {}
  if hasattr(parts["input"], "keys"):
    parts["input.data"] = parts["input"].get("data") or {}
  if hasattr(evals, "keys"):
    # None takes out what a config has, see `evaluators.build.entries`.
    parts |= {f"evals.{k}": evals[k] for k in evals if evals[k] is not None}
  for key, value in parts.items():
    if not hasattr(value, "keys"):
      raise lookup.ConfigError(
        f"config.{key} = {value!r} must be a dict, or left out."
      )


def _check_int(value: Any, key: str, least: int | None = None) -> None:
  """Refuses what is not a whole number, or too small."""
  try:
    number = operator.index(value)
  except TypeError:
    number = None
  if number is None or (least is not None and number < least):
    what = "a positive int" if least else "an int"
    raise lookup.ConfigError(f"{key} = {value!r} must be {what}.")


def _check_num_classes(num: Any) -> None:
  """Refuses what is not a number of classes; None and 0 mean without head."""
  if num is not None and (not isinstance(num, int) or num < 0):
    raise lookup.ConfigError(
      f"config.num_classes = {num!r} must be a number of classes, such as 1000."
    )


def _check_dtypes(config: ConfigLike, where: str) -> None:
  """Refuses names of dtypes that nobody knows, anywhere in the config."""
  for key in config:
    value = config[key]
    if hasattr(value, "keys"):
      _check_dtypes(value, f"{where}.{key}")
    is_dtype = "dtype" in str(key).split("_") and isinstance(value, str)
    if is_dtype and value not in _DTYPES:
      try:
        jnp.dtype(value)
      except TypeError as e:
        error = lookup.unknown(
          "dtype", value, _DTYPES, error=lookup.ConfigError
        )
        raise type(error)(f"{where}.{key}: {error}") from e


def _check_lengths(config: ConfigLike) -> None:
  """Checks that schedules fit the run, where its length needs no data."""
  batch_size = config.input.batch_size
  total = schedules.steps("total", config, None, batch_size, default=None)
  if total is None:
    return
  kw = dict(total_steps=total, batch_size=batch_size)
  bv_optax.check_lengths(config, kw)


def _check_mixup(mixup: ConfigLike, batch_size: Any = None) -> None:
  """Refuses keys of `config.mixup` that nobody reads."""
  lookup.check_keys(mixup, (*MIXUP_KEYS, *MIXUP_UNREAD), "mixup")
  if mixup and "p" not in mixup:
    raise lookup.ConfigError(
      "config.mixup.p is missing: mixup needs it, for example config.mixup.p = "
      "0.2."
    )
  for key in MIXUP_UNREAD:
    if key in mixup:
      logging.info("config.mixup.%s has no effect.", key)
  p, n = mixup.get("p"), mixup.get("n")
  if p is not None and not (
    isinstance(p, (int, float)) and 0 <= p < float("inf")
  ):
    raise lookup.ConfigError(
      f"config.mixup.p = {p!r} must be a number from 0 (no mixup) on; 1 draws "
      "the weights uniformly."
    )
  if n is not None and not (isinstance(n, int) and n >= 2):
    raise lookup.ConfigError(
      f"config.mixup.n = {n!r} must be the number of examples to mix, 2 or more."
    )
  num = mixup.get("num_shards")
  is_count = type(num) is int and num > 0
  if num is not None and not (
    is_count and (not isinstance(batch_size, int) or batch_size % num == 0)
  ):
    raise lookup.ConfigError(
      f"config.mixup.num_shards = {num!r} must divide config.input.batch_size = "
      f"{batch_size}: examples are mixed within so many parts of a batch. 1 mixes "
      "all of it, alike on any number of devices."
    )
