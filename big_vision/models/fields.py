"""Checks fields of models that configs set, with errors that name their key."""

from collections.abc import Callable, Mapping
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
    "model", or for example "model.image" in a tower, "model.llm" in PaliGemma.
  """
  part = next(iter(module.path), "")
  root: Any = module
  while isinstance(root.parent, nn.Module):
    root = root.parent
  if hasattr(root, "llm_model") and part in ("img", "llm"):
    return f"model.{part}"
  return _TOWERS.get(part, "model")


def with_dtype(
  make: Callable[..., Any],
  args: Mapping[str, Any],
  dtype: str | None,
  where: str,
  name: str,
) -> Any:
  """Makes a model that computes in a dtype.

  Args:
    make: makes the model.
    args: its arguments; with a `dtype_mm` of their own that one stays.
    dtype: `dtype_mm` otherwise; None leaves it out.
    where: config key of the name of the model, for example "model_name".
    name: of the model.

  Returns:
    The linen module.

  Raises:
    ConfigError: the model has no `dtype_mm`.
    TypeError: it does not take the other arguments.
  """
  if dtype is None or args.get("dtype_mm") is not None:
    return make(**args)
  rest = {k: v for k, v in args.items() if k != "dtype_mm"}
  try:
    return make(**rest, dtype_mm=dtype)
  except TypeError as e:
    make(**args)  # Raises if the dtype is not to blame.
    raise lookup.ConfigError(
      f"config.precision (or dtype_mm) = {dtype!r}: config.{where} = {name!r} has "
      "no dtype_mm, the dtype of its computation. Give its Model that field, or "
      "leave config.precision out."
    ) from e


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
