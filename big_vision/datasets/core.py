"""Data sources by their name in a config: `get` opens one."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

from big_vision import lookup
from big_vision.datasets import source
from big_vision.datasets.source import DataSource, IndexedDataSource, by_index

__all__ = [
  "DataSource",
  "IndexedDataSource",
  "by_index",
  "get",
  "shared",
  "source_class",
]

# Modules of this folder that define `DataSource` without being a source.
_NO_SOURCES = ("core", "source")


# Sources that are open already, by their arguments; see `shared`.
_opened: contextvars.ContextVar[dict[str, DataSource] | None] = (
  contextvars.ContextVar("big_vision_sources", default=None)
)


@contextlib.contextmanager
def shared(opened: dict[str, DataSource] | None = None) -> Iterator[None]:
  """Opens sources with equal arguments once, inside the `with` block.

  The start of a run compares all its sources before it reads the first.

  Args:
    opened: what is open already, and what is opened now.
  """
  token = _opened.set({} if opened is None else opened)
  try:
    yield
  finally:
    _opened.reset(token)


def get(name: str, **kw: Any) -> DataSource:
  """Opens a data source.

  Args:
    name: "bv:<module>" for `big_vision.datasets.<module>` (or a dotted path to
      your own module); anything else is a TFDS dataset.
    **kw: arguments of that source's `DataSource`.

  Returns:
    The source. One that has only the contract has the defaults of `DataSource`
    for all else.

  Raises:
    ValueError: no such module or dataset; or what the source itself raises.
  """
  # Sources need not know about ConfigDict.
  plain = lambda x: x.to_dict() if hasattr(x, "to_dict") else x
  kw = {k: plain(v) for k, v in kw.items()}
  opened = _opened.get()
  key = repr((name, sorted(kw.items())))
  if opened is not None and key in opened:
    return opened[key]
  found = source.complete(source_class(name)(**kw))
  if opened is not None:
    opened[key] = found
  return found


def source_class(name: str, key: str = "input.data.name") -> Callable[..., Any]:
  """Finds what `get` calls with the remaining arguments.

  Args:
    name: as in `get`.
    key: the config key that holds the name, for the error.

  Returns:
    Callable that returns a `DataSource`.

  Raises:
    ValueError: no such module.
  """
  if name.startswith("bv:"):
    module = lookup.module(
      "datasets",
      name.removeprefix("bv:"),
      kind="dataset",
      key=key,
      needs="DataSource",
      but=_NO_SOURCES,
    )
    return module.DataSource
  from big_vision.datasets import tfds  # Slow to import.

  return functools.partial(tfds.DataSource, name)
