"""Writes a trained model in one of the formats, with a description."""

import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from typing import Any

import big_vision
from big_vision import extras, lookup
from big_vision.export import forward as forward_lib
from big_vision.export import preprocess as preprocess_lib
from big_vision.export import quantize as quantize_lib
from big_vision.exported import INFO

# Format -> (module of this package, package that it needs).
FORMATS = {
  "stablehlo": ("stablehlo", "jax"),
  "onnx": ("onnx_file", "onnx"),
  "savedmodel": ("savedmodel", "tensorflow"),
}


def save(
  model: forward_lib.Model,
  folder: str | os.PathLike[str],
  format: str,
  *,
  quantize: str | None = None,
  preprocess: bool = False,
  input_size: tuple[int, int] | None = None,
  batch_size: int | None = None,
  tower: str = "both",
  **kw: Any,
) -> dict[str, Any]:
  """Exports the forward function of a model.

  Args:
    model: result of `pretrained.load`.
    folder: a new one, or one with an earlier export, which is replaced.
    format: "stablehlo", "onnx" or "savedmodel".
    quantize: "int8" stores kernels so; None as they are.
    preprocess: whether inputs are uint8 pictures, preprocessed by the function.
    input_size: (height, width) of these; None: see `preprocess.include`.
    batch_size: None: free.
    tower: of a model of images and texts: "both", "image" or "text".
    **kw: arguments of the format's `write`.

  Returns:
    The content of `export.json`.

  Raises:
    ConfigError: something cannot be exported, or the folder holds other files.
    ModuleNotFoundError: the package that writes the format is not installed.
  """
  folder = os.fspath(folder)
  if format not in FORMATS:
    raise lookup.unknown("export format", format, FORMATS)
  if quantize not in (None, *quantize_lib.METHODS):
    raise lookup.unknown("quantization", quantize, quantize_lib.METHODS)
  check_folder(folder)
  module, package = FORMATS[format]
  extras.load(package)
  forward = forward_lib.of(model, batch_size=batch_size, tower=tower)
  if preprocess:
    forward = preprocess_lib.include(forward, input_size)
  size = quantize_lib.num_bytes(forward.params)
  info = {
    "format": format,
    "name": model.name,
    "inputs": [
      {"name": i.name, "shape": list(i.shape), "dtype": i.dtype}
      for i in forward.inputs
    ],
    "outputs": [
      {"name": name, "shape": shape, "dtype": dtype}
      for name, (shape, dtype) in forward.outputs().items()
    ],
    **forward.info,
    "preprocessing_included": preprocess,
    "num_bytes_of_params": size,
  }
  if quantize:
    forward = forward.with_params(quantize_lib.quantize(forward.params))
    info["quantize"] = {
      "method": quantize,
      "num_bytes_of_params": quantize_lib.num_bytes(forward.params),
    }
  parent = os.path.dirname(os.path.abspath(folder))
  os.makedirs(parent, exist_ok=True)
  write = importlib.import_module(f"big_vision.export.{module}").write
  # A folder is complete or not there.
  with tempfile.TemporaryDirectory(dir=parent, prefix=".export-") as scratch:
    new = os.path.join(scratch, "new")
    os.mkdir(new)
    info |= write(forward, new, **kw)
    info["versions"] = _versions(package)
    write_info(new, info)
    if os.path.isdir(folder):
      shutil.rmtree(folder)
    os.rename(new, folder)
  return info


def check_folder(folder: str) -> None:
  """Refuses to replace what is not an export.

  Args:
    folder: where to write.

  Raises:
    ConfigError: there is something else.
  """
  if os.path.isdir(folder):
    found = os.listdir(folder)
    if found and INFO not in found:
      raise lookup.ConfigError(
        f"The folder {folder} has other files, such as {sorted(found)[0]}: give "
        "a new folder."
      )
  elif os.path.exists(folder):
    raise lookup.ConfigError(f"{folder} is a file: give a new folder.")


def write_info(folder: str, info: dict[str, Any]) -> None:
  """Writes `export.json`.

  Args:
    folder: exists.
    info: its content.
  """
  path = os.path.join(folder, INFO)
  with open(path, "w", encoding="utf-8") as f:
    json.dump(info, f, indent=2, ensure_ascii=False)
    f.write("\n")


def _versions(package):
  names = sorted({"jax", "jaxlib", "flax", package} - {"tensorflow"})
  found = {name: importlib.metadata.version(name) for name in names}
  if package == "tensorflow":
    found[package] = extras.load(package).__version__
  return {
    "python": platform.python_version(),
    "big_vision": big_vision.__version__,
    **found,
  }
