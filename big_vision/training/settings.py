"""Settings: a part of a config as a frozen dataclass with checked values."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from big_vision import lookup

T = TypeVar("T")
INF = float("inf")


def number(default: float, low: float = 0, high: float = INF) -> Any:
  """Declares a field of settings that is a number in [low, high].

  Args:
    default: value if the config has none.
    low: lowest value allowed.
    high: highest value allowed.

  Returns:
    The dataclass field; `make` checks its values.
  """
  return dataclasses.field(default=default, metadata={"range": (low, high)})


def make(
  cls: type[T],
  config: Mapping[str, Any],
  key: str,
  old_names: Mapping[str, str] | None = None,
) -> T:
  """Reads settings from a part of a config.

  Args:
    cls: the dataclass.
    config: the part, for example `config.self_distill`.
    key: name of the part, for error messages.
    old_names: names of keys in earlier versions -> today's names.

  Returns:
    An instance of `cls`.

  Raises:
    ValueError: a key is unknown or there under both names, or a number is not
      in its range.
  """
  values = dict(config)
  for old, new in (old_names or {}).items():
    if old in values and new in values:
      raise ValueError(
        f"config.{key}.{old} is the old name of config.{key}.{new}: remove one "
        "of them."
      )
    if old in values:
      values[new] = values.pop(old)
  kind: Any = cls  # A type variable cannot be bound to dataclasses.
  fields = dataclasses.fields(kind)
  lookup.check_keys(values, [f.name for f in fields], key)
  out = cls(**values)
  for field in fields:
    if "range" in field.metadata:
      _check(getattr(out, field.name), f"{key}.{field.name}", field.metadata)
  return out


def _check(value, name, metadata):
  """Raises ValueError if a value is not a number in its range."""
  low, high = metadata["range"]
  if not isinstance(value, (int, float)) or not low <= value <= high:
    raise ValueError(
      f"config.{name} = {value!r} must be a number from {low} to {high}."
    )
