"""Writes a SavedModel of TensorFlow.

The signature `serving_default` has the inputs and outputs by name. The program is
StableHLO in an operation of TensorFlow; the parameters are variables.
`jax.experimental.jax2tf` does the same, but for StableHLO of a version that is newer
than that of TensorFlow's releases.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax

from big_vision import compat, extras
from big_vision.export import stablehlo
from big_vision.export.forward import Forward


def write(
  forward: Forward,
  folder: str,
  platforms: Sequence[str] = stablehlo.PLATFORMS,
) -> dict[str, Any]:
  """Writes the files.

  Args:
    forward: the function.
    folder: exists.
    platforms: names of JAX.

  Returns:
    For `export.json`: `files`, `platforms`, `signature`.

  Raises:
    ConfigError: no platform is left, or the batch cannot be free.
    ModuleNotFoundError: TensorFlow is not installed.
  """
  tf = extras.load("tensorflow")
  xla = extras.load("tensorflow.compiler.tf2xla.python.xla")  # As jax2tf does.
  exported = stablehlo.lowered(forward, platforms)
  module = tf.Module()
  # Names of variables have no colons.
  module.params = {
    k: tf.Variable(v, trainable=False, name=k.replace(":", "_"))
    for k, v in forward.params.items()
  }
  names = [i.name for i in forward.inputs]
  signature = [
    tf.TensorSpec(_sizes(i.shape), i.dtype, i.name) for i in forward.inputs
  ]
  program = compat.oldest_stablehlo(exported.mlir_module_serialized)

  @tf.function(autograph=False, input_signature=signature)
  def serve(*arrays):
    inputs = dict(zip(names, arrays, strict=True))
    given = jax.tree.leaves((dict(module.params), inputs))
    results = xla.call_module(
      [tf.convert_to_tensor(given[i]) for i in exported.module_kept_var_idx],
      version=exported.calling_convention_version,
      module=program,
      Sout=[tf.TensorShape(_sizes(x.shape)) for x in exported.out_avals],
      Tout=[tf.as_dtype(x.dtype) for x in exported.out_avals],
      platforms=[p.upper() for p in exported.platforms],
    )
    return jax.tree.unflatten(exported.out_tree, results)

  concrete = serve.get_concrete_function()
  tf.saved_model.save(module, folder, signatures={"serving_default": concrete})
  return {
    "files": sorted(os.listdir(folder)),
    "platforms": list(exported.platforms),
    "signature": "serving_default",
  }


def _sizes(shape):
  return [s if isinstance(s, int) else None for s in shape]
