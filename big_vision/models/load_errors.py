"""Names config keys in the errors of loading a checkpoint into a model."""

import contextlib
import contextvars
import dataclasses
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision import lookup, trees
from big_vision.types import Params

# Config key with the arguments of the `load` that runs.
_key: contextvars.ContextVar[str]
_key = contextvars.ContextVar("load_key", default="config.model_load")
# So many parameters are listed.
_MAX_LISTED = 3


@dataclasses.dataclass(frozen=True)
class Misfit:
  """Says how parameters of a checkpoint and of a model differ.

  Attributes:
    summary: the first differences, in one line.
    dont_load: config key that lists what not to load.
  """

  summary: str
  dont_load: str


def _misfit_error(summary: str, text: str | None = None) -> ValueError:
  """Makes the error; its type is the specified one, no class of its own."""
  error = ValueError(text or summary)
  vars(error)["misfit"] = Misfit(summary, f"{load_key()}.dont_load")
  return error


def misfit_of(error: BaseException) -> Misfit | None:
  """Returns what `of_names` and `of_shapes` say about their errors.

  Args:
    error: any exception.

  Returns:
    The Misfit; None for other errors.
  """
  return vars(error).get("misfit")


def load_key() -> str:
  """Returns the config key with the arguments of the `load` that runs."""
  return _key.get()


@contextlib.contextmanager
def within(key: str) -> Iterator[None]:
  """Names the config key with the arguments of a `load`, for its errors.

  Args:
    key: full name, "config.model_load"; or one inside of the current key,
      "img_load_kw".

  Yields:
    Nothing; the key is set in the body, in this thread.
  """
  full = key if key.startswith("config.") else f"{load_key()}.{key}"
  token = _key.set(full)
  try:
    yield
  finally:
    _key.reset(token)


def check_arguments(load: Callable[..., Any], kw: Any) -> None:
  """Refuses keys that a model's `load` does not take.

  Args:
    load: function `(init_params, init_file, model_cfg, **kw)`.
    kw: mapping, what `load_key()` has.

  Raises:
    ValueError: it is not a mapping, or has other keys.
  """
  if not hasattr(kw, "items"):
    raise lookup.ConfigError(
      f"{load_key()}={kw!r} should be a dict of arguments, for example "
      "dict(dont_load=['head/.*'])."
    )
  known = inspect.signature(load).parameters
  if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
    lookup.check_keys(kw, list(known)[3:], load_key().removeprefix("config."))


def towers(load: Callable[..., Any]) -> list[str]:
  """Lists the parts of a model that have arguments of their own in its `load`.

  Args:
    load: function `(init_params, init_file, model_cfg, **kw)`.

  Returns:
    For example ["img", "txt"]; [] for most models.
  """
  names, end = inspect.signature(load).parameters, "_load_kw"
  return [name.removesuffix(end) for name in names if name.endswith(end)]


def check_path(load: Callable[..., Any], init_file: Any, key: str) -> None:
  """Refuses what cannot be the path of a checkpoint.

  Args:
    load: function of a model of this package.
    init_file: str, path, or for models of several towers a mapping.
    key: config key that holds it, "config.model_init".

  Raises:
    lookup.ConfigError: it is something else.
  """
  parts = towers(load)
  if isinstance(init_file, str | os.PathLike) or (
    parts and hasattr(init_file, "items")
  ):
    return
  raise lookup.ConfigError(
    f"{key}={plain(init_file)!r} should be the path of a checkpoint"
    + (f", or a dict with some for {', '.join(parts)}." if parts else ".")
  )


def plain(value: Any) -> Any:
  """Returns a part of a config so that `repr` is one line."""
  return value.to_dict() if hasattr(value, "to_dict") else value


def of_names(
  loaded: Mapping[str, Any],
  inited: Mapping[str, Any],
  missing: Sequence[str],
  unused: Sequence[str],
  text: str,
) -> ValueError:
  """Makes the error for parameters that only one side has.

  Args:
    loaded: name -> array, those of the checkpoint.
    inited: name -> array or shape, those of the model.
    missing: names that the checkpoint lacks.
    unused: names that the model lacks.
    text: the message in full.

  Returns:
    The exception, to be raised by the caller.
  """
  show = lambda names, params: listed(
    [f"{n} {tuple(np.shape(params[n]))}" for n in sorted(names)]
  )
  parts = []
  if missing:
    parts.append(f"the checkpoint lacks {show(missing, inited)}")
  if unused:
    parts.append(f"the model lacks {show(unused, loaded)}")
  return _misfit_error("; ".join(parts), text)


def of_shapes(loaded: Params, shapes: Params) -> ValueError | None:
  """Compares the shapes of parameters that both sides have.

  Args:
    loaded: tree of arrays, or of their shapes.
    shapes: tree of arrays or shapes, the parameters of the model.

  Returns:
    The exception, to be raised by the caller; None if all are equal.
  """
  have = dict(trees.tree_flatten_with_names(loaded)[0])
  differ = [
    f"{name}: {tuple(np.shape(have[name]))} in the checkpoint, "
    f"{tuple(np.shape(x))} in the model"
    for name, x in trees.tree_flatten_with_names(shapes)[0]
    if name in have and tuple(np.shape(have[name])) != tuple(np.shape(x))
  ]
  return _misfit_error(listed(differ, "; ")) if differ else None


def listed(items: Sequence[str], separator: str = ", ") -> str:
  """Lists the first items, and how many more there are.

  Args:
    items: texts.
    separator: what stands between them.

  Returns:
    One line.
  """
  shown = separator.join(items[:_MAX_LISTED])
  rest = len(items) - _MAX_LISTED
  return f"{shown}{separator}and {rest} more" if rest > 0 else shown
