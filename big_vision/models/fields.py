"""Checks fields of models that configs set, with errors that name their key."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from big_vision import lookup

_DTYPES = ("float32", "bfloat16", "float16", "float64")
# The config keys of towers, by their module in a model of two.
_TOWERS = {"img": "model.image", "txt": "model.text"}


def key(module: nn.Module) -> str:
  """Returns the config key of a model, from where it is in another one.

  Args:
    module: linen module, bound, the model or a part of it.

  Returns:
    "model", or for example "model.image" in a tower.
  """
  return _TOWERS.get(next(iter(module.path), ""), "model")


def check_heads(num_heads: Any, width: int, where: str) -> None:
  """Checks that attention can cut its width into heads.

  Args:
    num_heads: number of heads.
    width: what they share.
    where: config key of the model.

  Raises:
    ConfigError: the heads do not divide the width.
  """
  if isinstance(num_heads, int) and num_heads > 0 and width % num_heads == 0:
    return
  fits = [n for n in range(1, width + 1) if width % n == 0]
  wanted = num_heads if isinstance(num_heads, int) else 1
  near = sorted(sorted(fits, key=lambda n: (abs(n - wanted), n))[:2])
  raise lookup.ConfigError(
    f"config.{where}.num_heads={num_heads!r} does not divide the width, {width}:"
    f" use for example {' or '.join(map(str, near))}."
  )


def check_dtype(dtype: Any, where: str) -> None:
  """Checks a dtype of computations.

  Args:
    dtype: its name, a dtype, or None.
    where: config key, for example "model.dtype_mm".

  Raises:
    ConfigError: there is no such dtype, or it is not of floats.
  """
  if dtype is None:
    return
  try:
    if jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
      return
  except TypeError:
    pass  # Not a dtype at all: the same error.
  raise lookup.unknown(
    "dtype of floats", dtype, _DTYPES, where, lookup.ConfigError
  )
