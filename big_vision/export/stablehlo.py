"""Writes StableHLO, the language of XLA, with `jax.export`.

Files: `model.stablehlo`, the function as `jax.export` serializes it, of a dict of
parameters and a dict of inputs; `params.safetensors`, the parameters.
"""

import os
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
from safetensors import flax as safetensors_flax

from big_vision import lookup
from big_vision.export.forward import Forward, refuse_free_sizes

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, PARAMS = "model.stablehlo", "params.safetensors"


def write(
  forward: Forward, folder: str, platforms: Sequence[str] = PLATFORMS
) -> dict[str, Any]:
  """Writes the files.

  Args:
    forward: the function.
    folder: exists.
    platforms: names of JAX; those that the function cannot be compiled for are
      left out.

  Returns:
    For `export.json`: `files`, `platforms`.

  Raises:
    ConfigError: no platform is left, or the batch cannot be free.
  """
  exported = lowered(forward, platforms)
  program, file = (os.path.join(folder, name) for name in (PROGRAM, PARAMS))
  with open(program, "wb") as f:
    f.write(exported.serialize())
  params = {k: jax.numpy.asarray(v) for k, v in forward.params.items()}
  safetensors_flax.save_file(params, file)
  shutil.copymode(program, file)  # Safetensors makes it private.
  return {"files": [PROGRAM, PARAMS], "platforms": list(exported.platforms)}


def lowered(
  forward: Forward, platforms: Sequence[str] = PLATFORMS
) -> jax.export.Exported:
  """Translates the function, of parameters and inputs, to StableHLO.

  Args:
    forward: the function.
    platforms: names of JAX; those that it cannot be compiled for are left out.

  Returns:
    Result of `jax.export.export`.

  Raises:
    ConfigError: no platform is left, or the batch cannot be free.
  """
  specs = {
    k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in forward.params.items()
  }

  def lower(names):
    with refuse_free_sizes(forward):
      fn = jax.jit(forward.fn)
      return jax.export.export(fn, platforms=names)(specs, forward.specs())

  try:
    return lower(tuple(platforms))
  except NotImplementedError:  # A primitive lacks one of them.
    kept = [p for p in platforms if _lowers(lower, p)]
  if not kept:
    raise lookup.ConfigError(
      f"The model cannot be compiled for any of {', '.join(platforms)}."
    )
  return lower(kept)


def _lowers(lower, platform):
  try:
    lower([platform])
  except NotImplementedError:
    return False
  return True
