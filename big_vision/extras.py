"""Says how to install what `pip install big_vision` alone leaves out."""

import importlib
from typing import Any

# Modules of the packages in the extra `data`, see pyproject.toml.
_DATA = (
  "datasets", "sentencepiece", "sklearn", "tensorflow", "tensorflow_datasets",
)  # fmt: skip


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
    if e.name != name:  # Something that it needs.
      raise
    raise ModuleNotFoundError(advice(e) or str(e), name=name) from e


def advice(error: BaseException) -> str:
  """Says what to install if an error is that an optional package is missing.

  Args:
    error: what was raised.

  Returns:
    A sentence; "" for other errors.
  """
  if isinstance(error, ModuleNotFoundError) and error.name in _DATA:
    return (
      f"{error.name} is not installed: pip install 'big_vision[data]', or use "
      "setup.sh."
    )
  return ""
