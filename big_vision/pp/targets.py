"""Targets of a regression: their units and their names, as configs tell them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision.pp import builder, registry


def units(pp: str, key: str = "labels") -> tuple[np.ndarray, np.ndarray] | None:
  """Finds what preprocessing subtracts from targets and divides them by.

  Args:
    pp: preprocessing string.
    key: entry that the targets become.

  Returns:
    (mean, std), float64 [T] or [1], of the op `standardize` that writes the entry:
    `prediction * std + mean` has the units of the data. None without such an op.
  """
  for section in builder.split_pipeline(pp):
    try:
      name, args, kw = registry.parse_name(section)
    except (ValueError, SyntaxError):  # A string that only its own op parses.
      continue
    outkey = kw.get("key") or kw.get("outkey") or "targets"
    if name.strip() == "standardize" and outkey == key:
      given = dict(zip(("mean", "std"), args, strict=False)) | kw
      mean, std = (np.atleast_1d(given[k]) for k in ("mean", "std"))
      return mean.astype(np.float64), std.astype(np.float64)
  return None


def names(data: Mapping[str, Any] | None, num: int) -> list[str]:
  """Names targets.

  Args:
    data: arguments of `datasets.core.get`; `features.targets` may be the list of
      their columns.
    num: how many there are, T.

  Returns:
    T str: the columns; `column[0]` and so on of one column with lists; their
    numbers if nothing is known.
  """
  features: Any = (data or {}).get("features")
  columns: Any = features.get("targets") if hasattr(features, "get") else ()
  columns = columns or ()
  columns = [columns] if isinstance(columns, str) else list(columns)
  if len(columns) == num:
    return columns
  if len(columns) == 1:
    return [f"{columns[0]}[{i}]" for i in range(num)]
  return [str(i) for i in range(num)]
