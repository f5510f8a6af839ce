"""Says how to install what `pip install big_vision` alone leaves out."""

import importlib
from typing import Any

# Extra, see pyproject.toml -> modules of its packages.
_EXTRAS = {
  "data": (
    "datasets", "sentencepiece", "sklearn", "tensorflow", "tensorflow_datasets",
  ),
  "onnx": ("onnx", "onnxruntime"),
  "video": ("av",),
  "coco": ("pycocotools",),
}  # fmt: skip


def load(name: str) -> Any:
  """Imports a module of an optional package.

  Args:
    name: of the module.

  Returns:
    The module.

  Raises:
    ModuleNotFoundError: it is not installed; says how to install it.
  """
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as e:
    if e.name != name.split(".")[0]:  # Something that it needs.
      raise
    raise ModuleNotFoundError(advice(e) or str(e), name=name) from e


def advice(error: BaseException) -> str:
  """Says what to install if an error is that an optional package is missing.

  Args:
    error: what was raised.

  Returns:
    A sentence; "" for other errors.
  """
  if isinstance(error, ModuleNotFoundError):
    for extra, names in _EXTRAS.items():
      if error.name in names:
        return (
          f"{error.name} is not installed: pip install 'big_vision[{extra}]', or "
          "use setup.sh."
        )
  return ""
