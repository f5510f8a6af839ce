"""`config.precision`: the numbers that a run computes with.

  float32   the default. Products of float32 matrices are JAX's default for the
            device: tensorfloat32 on GPUs that have it, bfloat16 on TPUs.
  highest   as float32, and products are as exact as float32 is, on any device.
  bfloat16  layers compute in bfloat16. Parameters, optimizer, normalization,
            heads and losses are in float32.

With "bfloat16" each model gets `dtype_mm`, see `models.build`. A `dtype_mm` in the
config of a model or tower wins for that one.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.types import ConfigLike, PyTree

KEY = "precision"
NAMES = ("float32", "highest", "bfloat16")
_BFLOAT16 = "bfloat16"


def of(config: ConfigLike) -> str:
  """Reads `config.precision`.

  Args:
    config: mapping.

  Returns:
    One of `NAMES`; "float32" if the config does not say it.

  Raises:
    ConfigError: it is none of them.
  """
  return lookup.choice(config, KEY, NAMES, "precision")


def dtype(config: ConfigLike) -> str | None:
  """Returns the dtype that models compute in; None leaves it to them."""
  return _BFLOAT16 if of(config) == _BFLOAT16 else None


def with_dtype(
  config: ConfigLike, args: dict[str, Any], key: str = "dtype_mm"
) -> dict[str, Any]:
  """Adds the dtype to the arguments of a model that has one.

  Args:
    config: mapping, of the run.
    args: the model's arguments, whose own dtype wins.
    key: what it calls its dtype.

  Returns:
    The arguments, of which those given are not changed.
  """
  name = dtype(config)
  return {**args, key: name} if name and args.get(key) is None else args


def parameters(params: PyTree, config: ConfigLike) -> PyTree:
  """Makes new parameters float32 if the computation is in bfloat16.

  Args:
    params: tree of arrays, as a model makes them: without `config.precision` some
      models store positions in the dtype that they compute in.
    config: mapping.

  Returns:
    The tree.
  """
  if dtype(config) is None:
    return params
  low = lambda x: x.dtype == jnp.bfloat16
  return jax.tree.map(lambda x: x.astype(jnp.float32) if low(x) else x, params)


def context(config: ConfigLike) -> contextlib.AbstractContextManager[Any]:
  """Sets how exact products of float32 matrices are, where programs are traced.

  Args:
    config: mapping.

  Returns:
    Context manager.
  """
  if of(config) != "highest":
    return contextlib.nullcontext()
  return jax.default_matmul_precision("highest")
