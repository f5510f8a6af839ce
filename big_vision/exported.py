"""Runs what `tools/export` has written, without the code of the models.

  from big_vision import exported

  m = exported.load("pets_stablehlo")
  m(image=pictures)["probabilities"]  # pictures: [B, H, W, 3].

Needs JAX for StableHLO, onnxruntime for ONNX, TensorFlow for a SavedModel.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from big_vision import extras, lookup, untrusted

INFO = "export.json"


class Exported:
  """A function from named arrays to named arrays.

  Attributes:
    info: content of `export.json`: inputs, outputs, class names, ...
  """

  def __init__(
    self,
    info: dict[str, Any],
    run: Callable[[dict[str, np.ndarray]], dict[str, Any]],
  ) -> None:
    """Takes over a function.

    Args:
      info: content of `export.json`.
      run: computes outputs by name of inputs by name.
    """
    self.info, self._run = info, run

  def __call__(self, **arrays: Any) -> dict[str, np.ndarray]:
    """Computes the outputs of a batch.

    Args:
      **arrays: by the names of `info["inputs"]`.

    Returns:
      Arrays by the names of `info["outputs"]`.

    Raises:
      ValueError: inputs are missing, unknown, or of another shape.
    """
    specs = {spec["name"]: spec for spec in self.info["inputs"]}
    if set(arrays) != set(specs):
      raise ValueError(
        f"The inputs are {', '.join(specs)}; found {', '.join(arrays) or None}."
      )
    inputs = {}
    for name, spec in specs.items():
      x = np.asarray(arrays[name])
      shape = spec["shape"]
      fits = len(shape) == x.ndim and all(
        isinstance(s, str) or s == n
        for s, n in zip(shape, x.shape, strict=True)
      )
      if not fits or (spec["dtype"] == "uint8" and x.dtype != np.uint8):
        sizes = ", ".join(map(str, shape))
        raise ValueError(
          f"{name} should be {spec['dtype']} [{sizes}], not {x.dtype} "
          f"{list(x.shape)}."
        )
      inputs[name] = x.astype(spec["dtype"])
    return {k: np.asarray(v) for k, v in self._run(inputs).items()}


def load(folder: str | os.PathLike[str]) -> Exported:
  """Loads an exported model.

  Args:
    folder: that `tools/export` has written.

  Returns:
    The function.

  Raises:
    ConfigError: the folder is not such a one.
    ModuleNotFoundError: the package that runs it is not installed.
  """
  folder = os.fspath(folder)
  path = os.path.join(folder, INFO)
  if not os.path.exists(path):
    raise lookup.ConfigError(
      f"{folder} has no {INFO}: it should be a folder that big_vision's "
      "tools/export has written."
    )
  with open(path, encoding="utf-8") as f:
    try:
      info = untrusted.json_value(f.read())
      run = _LOADERS[info["format"]]
    except (ValueError, KeyError, TypeError) as e:
      raise lookup.ConfigError(
        f"{path} cannot be read: it should name a format, one of "
        f"{', '.join(_LOADERS)} ({e})."
      ) from e
  return Exported(info, run(folder))


def _stablehlo(folder):
  import jax
  import jax.export
  from safetensors import flax as safetensors_flax

  with open(os.path.join(folder, "model.stablehlo"), "rb") as f:
    program = jax.export.deserialize(bytearray(f.read()))
  params = safetensors_flax.load_file(
    os.path.join(folder, "params.safetensors")
  )
  call = jax.jit(program.call)
  return lambda inputs: call(params, inputs)


def _onnx(folder):
  runtime = extras.load("onnxruntime")
  session = runtime.InferenceSession(
    os.path.join(folder, "model.onnx"),
    providers=runtime.get_available_providers(),
  )
  names = [output.name for output in session.get_outputs()]
  return lambda inputs: dict(
    zip(names, session.run(names, inputs), strict=True)
  )


def _savedmodel(folder):
  tf = extras.load("tensorflow")
  module = tf.saved_model.load(folder)  # The signature lives as long as it.
  signature = module.signatures["serving_default"]

  def run(inputs, module=module):
    del module
    arrays = {k: tf.constant(v) for k, v in inputs.items()}
    return {k: v.numpy() for k, v in signature(**arrays).items()}

  return run


_LOADERS = {
  "stablehlo": _stablehlo,
  "onnx": _onnx,
  "savedmodel": _savedmodel,
}
