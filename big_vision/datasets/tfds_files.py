"""Checks the files of a prepared TFDS dataset before TFDS reads them.

TFDS imports the module of every class that `features.json` names, which runs its
code, and has no errors of its own for damaged files.
"""

import os
import sys
from collections.abc import Iterator
from typing import Any

from big_vision import fs, lookup, untrusted

FEATURES = "features.json"
_INFO = "dataset_info.json"
_HOME = "~/tensorflow_datasets"
_OWN = "tensorflow_datasets."


def check_all(root: str | None, name: str) -> None:
  """Checks all versions of a dataset, as far as they are local.

  Args:
    root: the TFDS folder; None for that of TFDS itself.
    name: of the dataset, without config and version.

  Raises:
    ConfigError: as `check`.
  """
  root = root or os.environ.get("TFDS_DATA_DIR") or _HOME
  root = os.path.expanduser(root)
  if not fs.is_local(root):
    return
  for levels in ("*", "*/*"):  # Versions, and those of configs.
    for path in fs.glob(os.path.join(root, name, levels, FEATURES)):
      check(os.path.dirname(path))


def check(folder: str) -> None:
  """Checks what describes a dataset.

  Args:
    folder: with the files of one version.

  Raises:
    ConfigError: a file is damaged, or asks for a module that is neither of TFDS
      nor imported already; names the file.
  """
  for name in (_INFO, FEATURES):
    path = fs.join(folder, name)
    if not fs.exists(path):
      continue  # Old datasets have no features.json, and get it from code.
    try:
      with fs.open(path) as f:
        content = untrusted.json_value(f.read())
      if not isinstance(content, dict):
        raise ValueError(f"it is a {type(content).__name__}, not an object")
    except ValueError as e:
      raise lookup.ConfigError(
        f"{path} is damaged ({e!s:.200}): copy or prepare the dataset again."
      ) from e
    for class_name in _classes(content) if name == FEATURES else ():
      module = class_name.rpartition(".")[0]
      if not class_name.startswith(_OWN) and module not in sys.modules:
        raise lookup.ConfigError(
          f"{path} names the class {class_name!r:.200}, which is not of TFDS, so "
          "that its module is not imported. If you trust it, name that in "
          "config.pp_modules, or import it."
        )


def _classes(content: Any) -> Iterator[str]:
  """Yields the names of the classes of features, of new and of old files."""
  left = [content]
  while left:
    node = left.pop()
    if isinstance(node, dict):
      names = [node.get("pythonClassName")]
      names += [node.get("type")] if "content" in node else []
      yield from (name for name in names if isinstance(name, str))
      left += node.values()
    elif isinstance(node, list):
      left += node
