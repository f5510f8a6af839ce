"""Parameters at the start of a run: loaded, initialized, counted, listed."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from big_vision import lookup, trees
from big_vision.devices import reshard
from big_vision.models import load_errors
from big_vision.training import console
from big_vision.types import AnyArray, Key, Params, PyTree

_MAX_ROWS = 8  # Of the table of parameters that is shown.


def complete(
  loaded: Params,
  init: Callable[[Key], Params],
  rng: Key,
  shapes: PyTree,
  shardings: PyTree,
  key: str = "model",
) -> Params:
  """Puts loaded parameters onto the mesh and initializes the others there.

  Args:
    loaded: parameters of a checkpoint, named as the model's; what is missing, or
      is a `jax.ShapeDtypeStruct`, is initialized.
    init: computes all parameters from a key.
    rng: the key.
    shapes: tree of ShapeDtypeStruct of all parameters.
    shardings: tree of Sharding of the same structure.
    key: what the config calls the model.

  Returns:
    All parameters, in the dtypes of `shapes`.

  Raises:
    ValueError: a loaded parameter has another shape than the model's.
  """
  named, treedef = trees.tree_flatten_with_names(shapes)
  shape_of = dict(named)
  where = dict(zip(shape_of, jax.tree.leaves(shardings), strict=True))
  have = {
    name: x
    for name, x in trees.tree_flatten_with_names(loaded)[0]
    if not isinstance(x, jax.ShapeDtypeStruct)
  }
  check_shapes(have, shape_of, key)
  missing = [name for name in shape_of if name not in have]
  if have:
    logging.info(
      "Loaded %d of %d parameter arrays; initializing: %s",
      len(have),
      len(shape_of),
      ", ".join(missing) or "none",
    )

  def init_missing(rng: Key) -> dict[str, Any]:
    # What is not returned is not computed.
    every = dict(trees.tree_flatten_with_names(init(rng))[0])
    return {name: every[name] for name in missing}

  fresh = {}
  if missing:
    out = {name: where[name] for name in missing}
    fresh = jax.jit(init_missing, out_shardings=out)(rng)
  kept = reshard(
    {name: _as_array(x, shape_of[name].dtype) for name, x in have.items()},
    {name: where[name] for name in have},
  )
  return treedef.unflatten([(fresh | kept)[name] for name in shape_of])


def _as_array(x: AnyArray, dtype: Any) -> AnyArray:
  """Casts to the dtype of the model; what is on devices stays there."""
  return x.astype(dtype) if isinstance(x, jax.Array) else np.asarray(x, dtype)


def check_shapes(
  loaded: Params, shapes: Params, key: str = "model", hint: str | None = None
) -> None:
  """Checks that what a checkpoint has fits a model.

  Args:
    loaded: tree of arrays, or of their shapes.
    shapes: tree of ShapeDtypeStruct of all parameters of the model.
    key: what the config calls the model.
    hint: what to do about it; None: the general advice.

  Raises:
    ConfigError: a parameter has another shape than the model's.
  """
  misfit = load_errors.of_shapes(loaded, shapes)
  if misfit:
    hint = hint or (
      f"Change config.{key}, or list these names in config.{key}_load.dont_load "
      "to initialize them."
    )
    raise lookup.ConfigError(
      f"config.{key}_init does not fit config.{key}: {misfit}. {hint}"
    )


def log(params: Params, message: str) -> None:
  """Logs the size of all parameters, and of each; a table by block is shown."""
  if jax.process_index():
    return
  named = trees.tree_flatten_with_names(params)[0]
  width = max([len(n) for n, _ in named], default=0)
  rows = [f"  {n:<{width}}  {str(x.dtype):>8}  {x.shape}" for n, x in named]
  logging.info("%s\n%s", message, "\n".join(rows))  # A detail, see `logs`.
  console.note(
    f"{message}: {count(params):,} parameters in {len(named)} arrays\n"
    + "\n".join(_by_block(named))
  )


def _by_block(named: Sequence[tuple[str, Any]]) -> list[str]:
  """Makes the rows of a table: sizes of parts; alike ones are one row."""
  sizes: dict[str, int] = {}
  members: dict[str, set[str]] = {}
  for depth in (3, 2, 1):
    sizes, members = {}, {}
    for name, x in named:
      part = name.rpartition("/")[0] or name
      part = "/".join(part.split("/")[:depth])
      kind = re.sub(r"\d+", "*", part)
      sizes[kind] = sizes.get(kind, 0) + int(np.prod(x.shape, dtype=np.int64))
      members.setdefault(kind, set()).add(part)
    if len(sizes) <= _MAX_ROWS:
      break
  width = max(map(len, sizes), default=0)
  rows = []
  for kind, size in sizes.items():
    num = len(members[kind])
    times = f"  {num} x {size // num:,}" if num > 1 else ""
    rows.append(f"  {kind:<{width}}  {size:>13,}{times}")
  return rows


def count(params: PyTree) -> int:
  """Counts the parameters of a tree of arrays or shapes."""
  return int(
    sum(np.prod(x.shape, dtype=np.int64) for x in jax.tree.leaves(params))
  )
