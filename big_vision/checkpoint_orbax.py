"""Trees that orbax's checkpointers have written, read like those of a run.

These are folders of `PyTreeCheckpointer`, `StandardCheckpointer`,
`orbax.checkpoint.v1` and of steps of `CheckpointManager`. They differ from those
of this package in files with the structure of the tree and in one database for
all leaves, see `docs/checkpoints.md`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision import checkpoint_io, checkpoint_npz, fs
from big_vision.types import AnyArray

_METADATA = "_METADATA"
# Instead of it PyTreeCheckpointer once wrote this file.
_LEGACY = "checkpoint"
# Where CheckpointManager and v1 put the tree.
_ITEMS = ("default", "state", "pytree")


class OrbaxTree:
  """A tree on disk.

  Attributes:
    names: sorted names of the leaves that are numbers or arrays.
  """

  def __init__(self, folder: str, legacy: bool = False):
    """Reads the structure of the tree.

    Args:
      folder: where it is.
      legacy: whether it was written by an early version of orbax, which stored
        no shapes.

    Raises:
      lookup.ConfigError: a file is damaged.
    """
    import orbax.checkpoint as ocp
    from etils import epath

    self._folder = epath.Path(fs.absolute(folder))
    self._handler = ocp.PyTreeCheckpointHandler()
    try:
      if legacy:
        found = self._handler.restore(self._folder)
      else:
        found = self._handler.metadata(self._folder).tree
    except Exception as e:
      raise checkpoint_io.readable_error(e, str(self._folder)) from e
    leaves, self._treedef = checkpoint_npz.named_leaves(found)
    self._legacy = legacy
    self._order = [name for name, _ in leaves]
    self._leaves = dict(leaves)
    self.names = sorted(n for n, x in leaves if hasattr(x, "shape"))

  def describe(self, names: Sequence[str]) -> list[Any]:
    """Returns shapes and types of leaves.

    Args:
      names: names of the leaves.

    Returns:
      Objects with `shape` and `dtype`.
    """
    return [self._leaves[name] for name in names]

  def read(
    self, names: Sequence[str], shardings: Sequence[Any]
  ) -> list[AnyArray]:
    """Reads leaves.

    Args:
      names: names of the leaves.
      shardings: list of jax.sharding.Sharding or "host".

    Returns:
      As `checkpoint_io.read`.

    Raises:
      lookup.ConfigError: a file is damaged.
    """
    import orbax.checkpoint as ocp

    if self._legacy:
      values = [np.asarray(self._leaves[n]) for n in names]
      return [_put(x, s) for x, s in zip(values, shardings, strict=True)]
    on_host = ocp.RestoreArgs(restore_type=np.ndarray)
    items: dict[str, Any] = {}
    args: dict[str, Any] = {}
    for name, sharding in zip(names, shardings, strict=True):
      items[name] = self._leaves[name]
      if not checkpoint_io.is_for_host(sharding, self._leaves[name].dtype):
        args[name] = ocp.ArrayRestoreArgs(sharding=sharding)
    tree = lambda values, other: self._treedef.unflatten(
      [values.get(name, other) for name in self._order]
    )
    try:
      restored = self._handler.restore(
        self._folder,
        args=ocp.args.PyTreeRestore(
          item=tree(items, ocp.PLACEHOLDER),
          restore_args=tree(args, on_host),
          partial_restore=True,
        ),
      )
    except Exception as e:
      raise checkpoint_io.readable_error(e, str(self._folder)) from e
    found = dict(checkpoint_npz.named_leaves(restored)[0])
    return [
      found[name] if name in args else _put(np.asarray(found[name]), sharding)
      for name, sharding in zip(names, shardings, strict=True)
    ]


def find(folder: str) -> OrbaxTree | None:
  """Opens the tree of orbax's checkpointers in a folder.

  Args:
    folder: any folder.

  Returns:
    The tree; None if there is none.
  """
  if not fs.isdir(folder):
    return None
  found = set(fs.listdir(folder))
  if _METADATA in found:
    return OrbaxTree(folder)
  for item in _ITEMS:
    if item in found and fs.exists(fs.join(folder, item, _METADATA)):
      return OrbaxTree(fs.join(folder, item))
  if _LEGACY in found and not fs.isdir(fs.join(folder, _LEGACY)):
    return OrbaxTree(folder, legacy=True)
  return None


def _put(x: np.ndarray, sharding: Any) -> AnyArray:
  return x if isinstance(sharding, str) else checkpoint_io.put(x, sharding)
