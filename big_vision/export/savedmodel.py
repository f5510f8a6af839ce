"""Writes a SavedModel of TensorFlow, with `jax.experimental.jax2tf`.

The signature `serving_default` has the inputs and outputs by name. The program is
StableHLO in an operation of TensorFlow; the parameters are variables.
"""

import os
from collections.abc import Sequence
from typing import Any

from jax.experimental import jax2tf

from big_vision import extras
from big_vision.export.forward import Forward, refuse_free_sizes

PLATFORMS = ("cpu", "cuda", "tpu")


def write(
  forward: Forward, folder: str, platforms: Sequence[str] = PLATFORMS
) -> dict[str, Any]:
  """Writes the files.

  Args:
    forward: the function.
    folder: exists.
    platforms: names of JAX.

  Returns:
    For `export.json`: `files`, `platforms`, `signature`.

  Raises:
    ConfigError: the batch cannot be free.
    ModuleNotFoundError: TensorFlow is not installed.
  """
  tf = extras.load("tensorflow")
  free = lambda s: s if isinstance(s, str) else str(int(s))
  shapes: Any = {
    i.name: "(" + ", ".join(map(free, i.shape)) + ",)" for i in forward.inputs
  }
  converted = jax2tf.convert(
    forward.fn,
    polymorphic_shapes=[None, shapes],
    with_gradient=False,
    native_serialization_platforms=tuple(platforms),
  )
  module = tf.Module()
  # Names of variables have no colons.
  module.params = {
    k: tf.Variable(v, trainable=False, name=k.replace(":", "_"))
    for k, v in forward.params.items()
  }
  signature = [
    tf.TensorSpec(
      [None if isinstance(s, str) else s for s in i.shape], i.dtype, i.name
    )
    for i in forward.inputs
  ]
  names = [i.name for i in forward.inputs]

  @tf.function(autograph=False, input_signature=signature)
  def serve(*arrays):
    inputs = dict(zip(names, arrays, strict=True))
    return converted(dict(module.params), inputs)

  with refuse_free_sizes(forward):
    concrete = serve.get_concrete_function()
  tf.saved_model.save(module, folder, signatures={"serving_default": concrete})
  return {
    "files": sorted(os.listdir(folder)),
    "platforms": list(platforms),
    "signature": "serving_default",
  }
