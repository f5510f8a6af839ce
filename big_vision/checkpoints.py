"""Checkpoints: trees of arrays in npz files and in folders.

A run writes folders (`save_checkpoint_ts`), asynchronously and sharded:

  <path>-<step:09d>       permanent checkpoint, one folder per leaf inside
  <path>-<step:09d>-tmp   temporary one, deleted when the next is complete
  <path>-LAST             text file, suffix of the newest complete checkpoint

A folder appears under its name when all of it is written, and LAST changes
after that, so a crash at any time leaves LAST with a complete checkpoint. On
the way there may be `<folder>.partial` (being written), `<folder>.old` (being
replaced) and `<path>-CUR` (the next LAST); `collect_orphans` deals with them
after a crash. Remote stores (gs://) cannot rename folders: there a folder is
written under its name at once, and only LAST tells that it is complete.
"""

import functools
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import logging

from big_vision import (
  checkpoint_checksums,
  checkpoint_io,
  checkpoint_npz,
  checkpoint_orbax,
  checkpoint_write,
  disk_space,
  fs,
  lookup,
  trees,
)
from big_vision.checkpoint_io import CheckpointManager
from big_vision.checkpoint_npz import (
  load_checkpoint,
  load_checkpoint_np,
  npload,
  save_checkpoint,
)
from big_vision.types import PyTree

__all__ = [
  "AVERAGE",
  "averaged",
  "CheckpointManager",
  "collect_orphans",
  "leaf_names",
  "latest",
  "load_checkpoint",
  "load_checkpoint_np",
  "load_checkpoint_ts",
  "load_params",
  "of_steps",
  "npload",
  "save_checkpoint",
  "save_checkpoint_ts",
  "save_ranked",
  "tsload",
  "tssave",
]

_PARTIAL, _OLD, _LINK = ".partial", ".old", ".link"
# Entry of the state with the average of the parameters, see `training/ema.py`.
AVERAGE = "params_ema"
_PATH = re.compile(rf"(.*?/.*?)(?::({AVERAGE}))?(?::([\w/]+))?")


# Parameters from anywhere.


def load_params(ckpt: str | os.PathLike | Mapping[str, Any], **kw: Any) -> Any:
  """Reads the parameters, or a part of them, from any kind of checkpoint.

  Args:
    ckpt: `<path>` or `<path>:<key>`, where the path has a slash and key is a
      name in the parameters, such as "img/head"; `<path>:params_ema` and
      `<path>:params_ema:<key>` are the average of the parameters, of a run with
      `config.ema_decay`. A path with ".npz" is an npz file. Any other path is
      the folder of a checkpoint or the prefix of the checkpoints of a run; only
      the part that is asked for is read. A dict with the content of an npz file
      is accepted, too.
    **kw: for `load_checkpoint_ts`, for example `shardings`.

  Returns:
    Nested dict of arrays, or one array if that is what the key names.

  Raises:
    ValueError: the path has no slash.
    KeyError: the key does not exist; lists the ones that exist.
    lookup.ConfigError: `regex` is given, or there is no average.
  """
  if "regex" in kw:
    raise lookup.ConfigError("Give the part to read as '<path>:<key>'.")
  key = path = average = None
  if isinstance(ckpt, str | os.PathLike):
    match = _PATH.fullmatch(os.fspath(ckpt))
    if not match:
      raise lookup.ConfigError(
        f"Checkpoint path {ckpt!r} has no slash: prepend './' if it is in "
        "the current folder."
      )
    path, average, key = match.groups()
    if ".npz" not in path:
      return _load_params_ts(path, key, of=average or "params", **kw)
    ckpt = path

  params = load_checkpoint_np(ckpt)
  if average and average not in params:
    raise _no_average(path)
  if (of := average or "params") in params:
    params = params[of]
  elif "opt" in params and "target" in params["opt"]:
    params = params["opt"]["target"]  # As flax.optim stored them.
  return _part(params, key, path) if key else params


def averaged(path: str | os.PathLike) -> str:
  """Names the average of the parameters in place of the parameters.

  Args:
    path: as for `load_params`.

  Returns:
    `<path>:params_ema`, with the key that `path` has.
  """
  match = _PATH.fullmatch(os.fspath(path))
  if not match:
    raise _no_average(path)
  names = [match[1], AVERAGE, match[3]]
  return ":".join(name for name in names if name)


def _no_average(path):
  return lookup.ConfigError(
    f"Checkpoint {os.fspath(path)!r} has no average of the parameters "
    f"({AVERAGE}): that is in checkpoints of runs with config.ema_decay."
  )


def _part(params, key, path):
  """Returns a part of the parameters of a checkpoint."""
  try:
    return trees.tree_get(params, key)
  except KeyError as e:  # Lists all names.
    names = [n for n, _ in checkpoint_npz.named_leaves(params)[0]]
    near = lookup.did_you_mean(key, [*names, *params])
    hint = near if near.startswith(". Did") else "."
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise KeyError(
      f"Checkpoint {path!r} has no parameters {key!r}{hint} It has "
      f"{', '.join(sorted(params))}, with {', '.join(names[:5])}{more}."
    ) from e


def _load_params_ts(path, key, of, **kw):
  folder = _resolve(path)
  regex = f"{of}/{key}($|/.*)" if key else f"{of}/.*"
  names = leaf_names(folder)
  if not any(re.match(regex, n) for n in names):
    tree = trees.tree_unflatten([(n, 0) for n in names])
    if not tree:
      run = latest(f"{folder}/checkpoint.bv")
      hint = (
        f" Write {folder}/checkpoint.bv for that of the run." if run else ""
      )
      raise KeyError(f"Folder {folder!r} does not hold a checkpoint.{hint}")
    if of == AVERAGE and of not in tree:
      raise _no_average(folder)
    if of not in tree:
      raise KeyError(
        f"Checkpoint {folder!r} has no leaves below 'params', but "
        f"{', '.join(sorted(tree))}."
      )
    _part(tree[of], key, folder)  # Raises, with the keys there are.
  params = tsload(folder, regex=regex, **kw)[of]
  return trees.tree_get(params, key) if key else params


# Folders: reading.


def _read_last(path):
  """Returns the content of `<path>-LAST`, or None."""
  try:
    with fs.open(f"{path}-LAST") as f:
      return f.read().strip() or None
  except Exception:  # No such file in the first place, in many disguises.
    return None


def latest(path: str) -> str | None:
  """Finds the newest complete checkpoint of a run.

  Args:
    path: prefix of the folders, `<workdir>/checkpoint.bv`.

  Returns:
    The folder that LAST names. If there is no LAST, or no such folder, the newest
    of those that are complete for certain; None if there is none.
  """
  last = _read_last(path)
  if last and fs.isdir(f"{path}-{last}"):
    return f"{path}-{last}"
  why = f"names {last}, which is not there" if last else "is missing"
  for folder, is_complete in _found(path):
    if is_complete and checkpoint_io.leaf_names(folder):
      logging.warning(
        "%s-LAST %s. Taking the newest complete checkpoint, %s.",
        path, why, folder,
      )  # fmt: skip
      return folder
    logging.warning("%s-LAST %s. %s may be incomplete.", path, why, folder)
  return None


def _found(path):
  """Yields (folder, whether it is complete for certain), the newest first."""
  folder, base = fs.dirname(path) or ".", os.path.basename(path)
  if not fs.isdir(folder):
    return
  pattern = re.compile(re.escape(base) + r"-(\d{9,})(-tmp)?")
  matches = [m for n in fs.listdir(folder) if (m := pattern.fullmatch(n))]
  matches.sort(key=lambda m: (int(m[1]), not m[2]), reverse=True)
  for m in matches:
    # A remote one is written under its name; when the next begins, it is done.
    complete = fs.is_local(path) or m[1] != matches[0][1]
    yield fs.join(folder, m[0]), complete


def point_to(path: str, folder: str) -> None:
  """Makes a complete checkpoint the newest one of its run.

  The next save goes on from there, and `collect_orphans` does not remove it.

  Args:
    path: prefix of the folders, `<workdir>/checkpoint.bv`.
    folder: the checkpoint, `<path>-<step:09d>` or `<path>-<step:09d>-tmp`.
  """
  _point(path, folder.removeprefix(f"{path}-"))


def of_steps(path: str) -> dict[int, str]:
  """Lists the complete checkpoints of a run.

  Args:
    path: prefix of the folders, `<workdir>/checkpoint.bv`.

  Returns:
    Step -> folder, the earliest first.
  """
  last, found = os.path.basename(latest(path) or ""), {}
  for folder, is_complete in _found(path):
    name = os.path.basename(folder)
    if (is_complete and checkpoint_io.leaf_names(folder)) or name == last:
      step = name.removeprefix(f"{os.path.basename(path)}-")
      found.setdefault(int(step.removesuffix("-tmp")), folder)
  return dict(reversed(found.items()))


def _resolve(path):
  """Returns the folder of the newest checkpoint with prefix `path`, or `path`."""
  return latest(os.fspath(path)) or os.fspath(path)


def leaf_names(folder: str) -> list[str]:
  """Lists the names of the leaves of a checkpoint.

  Args:
    folder: folder of the checkpoint, also one of orbax's checkpointers.

  Returns:
    Sorted list of names.

  Raises:
    FileNotFoundError: the folder does not exist.
  """
  found = checkpoint_orbax.find(folder)
  return found.names if found else checkpoint_io.leaf_names(folder)


def load_checkpoint_ts(path: str, **tsload_kw: Any) -> PyTree:
  """Reads the newest checkpoint with a prefix, or the one in a folder.

  Args:
    path: `<workdir>/checkpoint.bv`, or with `-<step>` and so on.
    **tsload_kw: see `tsload`.

  Returns:
    The tree, see `tsload`.
  """
  return tsload(_resolve(path), **tsload_kw)


def tsload(
  path: str,
  *,
  tree: PyTree = None,
  shardings: PyTree = None,
  regex: str | None = None,
) -> PyTree:
  """Reads a tree, or a part of it, from the folder of a checkpoint.

  Args:
    path: folder of the checkpoint, also one of orbax's checkpointers.
    tree: pytree whose names say what to read and whose structure is returned.
      Shapes of leaves that are jax.ShapeDtypeStruct are checked; other leaves
      do not matter.
    shardings: jax.sharding.Sharding of the arrays to return, or a tree of them,
      or a prefix of such a tree. The shardings at the time of writing do not
      matter. Default: the first local CPU
      device. "host" instead of a sharding: NumPy arrays as stored.
    regex: matched with the start of names; default all. Not with `tree`.

  Returns:
    The tree, of jax.Array. Without `tree` a nested dict, in which the
    positions in lists are keys such as "0". Stored 64-bit values become 32-bit
    ones as usual in JAX; integers too large for that stay NumPy arrays.

  Raises:
    FileNotFoundError: the folder does not exist.
    ValueError: `tree` and `regex` given; a leaf is missing or has another
      shape; nothing matches `regex`.
    checkpoint_checksums.Damaged: a file is damaged or missing.
  """
  if tree is not None and regex is not None:
    raise ValueError("Pass tree or regex to say what to read, not both.")

  found = checkpoint_orbax.find(path)
  stored = found.names if found else checkpoint_io.leaf_names(path)
  if tree is None:
    names = [n for n in stored if re.match(regex or "", n)]
    if not names:
      raise ValueError(
        f"No leaf of checkpoint {path!r} matches {regex!r}"
        f"{lookup.did_you_mean(regex or '', stored)}"
        if stored
        else f"Folder {path!r} has no leaves."
      )
    tree = trees.tree_unflatten([(n, n) for n in names])

  leaves, treedef = checkpoint_npz.named_leaves(tree)
  names = [n for n, _ in leaves]
  checkpoint_checksums.check_complete(path, set(names) - set(stored))
  checkpoint_npz.check_present(names, stored, path)
  describe = functools.partial(checkpoint_checksums.describe, path)
  described = found.describe(names) if found else describe(names)
  checkpoint_npz.check_shapes(leaves, described, path)

  if shardings is None:
    cpu = jax.local_devices(backend="cpu")[0]
    shardings = jax.sharding.SingleDeviceSharding(cpu)
  shardings = treedef.flatten_up_to(trees.tree_broadcast(shardings, tree))
  for name, s in zip(names, shardings, strict=True):
    if isinstance(s, str) and s != "host":
      raise ValueError(f"Sharding {s!r} of leaf {name!r}: did you mean 'host'?")
  if found:
    return treedef.unflatten(found.read(names, shardings))
  return treedef.unflatten(
    checkpoint_io.read(path, names, shardings, described)
  )


# Folders: writing.


def tssave(
  mngr: Any,
  pytree: PyTree,
  path: str,
  on_commit: Callable[[], Any] = lambda: None,
) -> None:
  """Writes a tree into a folder; one that exists is replaced.

  Args:
    mngr: `CheckpointManager`, which writes in the background, or another
      object with `wait_until_finished()`, with which this call writes itself.
    pytree: tree of jax.Array (each process writes its shards), NumPy arrays
      or numbers (process 0 writes).
    path: folder to write.
    on_commit: `on_commit()`, called by process 0 when all is written.

  Raises:
    ValueError: a name contains "~", which stands for "/" on disk.
  """

  def commit(staged):
    _move_into_place(staged, path)
    on_commit()

  _save(mngr, pytree, path + _PARTIAL if fs.is_local(path) else path, commit)


def save_checkpoint_ts(
  mngr: Any, checkpoint: PyTree, path: str, step: int, keep: bool = True
) -> None:
  """Writes a checkpoint of a run; see the top of the file.

  Waits for the previous save with the same manager, copies to host memory and
  returns; the rest happens in the background.

  Args:
    mngr: as for `tssave`.
    checkpoint: tree to write, as for `tssave`.
    path: prefix of the folder, `<workdir>/checkpoint.bv`.
    step: number of finished steps.
    keep: whether the checkpoint is permanent; else the next save deletes it.

  Raises:
    ValueError: as `tssave`; and errors of the previous save.
  """
  suffix = f"{step:09d}" if keep else f"{step:09d}-tmp"
  mngr.wait_until_finished()
  if fs.is_local(path):
    if jax.process_index() == 0:
      _settle(path)
    staged = f"{path}-{suffix}{_PARTIAL}"
  else:  # Never onto what LAST names: it would be incomplete for a while.
    current = _read_last(path) == suffix
    staged = f"{path}-{suffix}{_PARTIAL if current else ''}"
  _save(mngr, checkpoint, staged, lambda staged: _publish(path, suffix, staged))


def save_ranked(
  mngr: Any, checkpoint: PyTree, path: str, step: int, ranking: Sequence[int]
) -> None:
  """Writes one of the best checkpoints of a run, and removes those it replaces.

  Args:
    mngr: as for `tssave`.
    checkpoint: tree to write, as for `tssave`.
    path: prefix of the folders, `<workdir>/best.bv`.
    step: number of finished steps.
    ranking: steps of the checkpoints to keep, the best one first; LAST will name
      that one.

  Raises:
    ValueError: as `tssave`; and errors of the previous save.
  """
  kept = [f"{path}-{s:09d}" for s in ranking]

  def publish():
    _point(path, f"{ranking[0]:09d}")
    for old, _ in list(_found(path)):
      if old not in kept:
        fs.rmtree(old)

  tssave(mngr, checkpoint, f"{path}-{step:09d}", publish)


def _save(mngr, pytree, staged, commit):
  """Writes into the folder `staged`, then process 0 calls `commit(staged)`."""
  mngr.wait_until_finished()
  leaves, _ = checkpoint_npz.named_leaves(pytree)
  for name, _ in leaves:
    if "~" in name or not name:
      raise ValueError(
        f"Cannot save a leaf called {name!r}: names must not be empty and "
        "not contain '~', which stands for '/' on disk."
      )
  checkpoint_io.check_place(staged)
  first = jax.process_index() == 0
  if first:
    fs.rmtree(staged)
    with disk_space.explained(staged):
      fs.makedirs(staged)
  checkpoint_io.barrier("prepared")
  finish = checkpoint_write.start(staged, leaves)

  def complete():
    try:
      with disk_space.explained(staged):
        written = finish()
        checkpoint_io.barrier("written")  # Metadata may be another process'.
        checkpoint_checksums.leave(staged, written, jax.process_index())
        checkpoint_io.barrier("summed")
        if first:
          checkpoint_checksums.collect(staged)
    except Exception:
      if first and fs.is_local(staged):
        fs.rmtree(staged)  # Room for what else is to be written.
      raise
    if first:
      with disk_space.explained(staged):
        commit(staged)
    checkpoint_io.barrier("committed")

  if isinstance(mngr, CheckpointManager):
    mngr.start(complete)
  else:
    # The interface that other managers share can only be waited for, so what
    # is to be complete after that has to be complete now.
    complete()


def _move_into_place(staged, target):
  """Renames a folder, replacing what is there. Only for local ones."""
  if staged == target:
    return
  if fs.exists(target):
    fs.rmtree(target + _OLD)
    fs.rename(target, target + _OLD)
  fs.rename(staged, target)
  fs.rmtree(target + _OLD)


def _point(path, suffix):
  """Makes `<path>-LAST` say `suffix`; atomic."""
  with fs.open(f"{path}-CUR", "w") as f:
    f.write(suffix)
    if fs.is_local(path):  # Else a power cut could leave an empty LAST.
      f.flush()
      os.fsync(f.fileno())
  fs.rename(f"{path}-CUR", f"{path}-LAST")


def _publish(path, suffix, staged):
  """Makes the complete folder `staged` the newest checkpoint."""
  last = _read_last(path)
  if not fs.is_local(path):
    suffix = staged.removeprefix(f"{path}-")
  elif last == suffix:
    # The same step again. LAST must not lead to nothing while the folder that
    # it names is replaced, so meanwhile it names the new one where it is.
    _point(path, suffix + _PARTIAL)
    _settle(path)
    return
  else:
    _move_into_place(staged, f"{path}-{suffix}")
  _point(path, suffix)
  if last and last != suffix and last.removesuffix(_PARTIAL).endswith("-tmp"):
    fs.rmtree(f"{path}-{last}")


def _settle(path):
  """Completes what a crash may have interrupted while a folder was replaced."""
  last = _read_last(path)
  if last and last.endswith(_PARTIAL):
    staged = f"{path}-{last}"
    suffix = last.removesuffix(_PARTIAL)
    target = f"{path}-{suffix}"
    # A second name for each file, instead of moving the folder away from
    # where LAST says.
    fs.rmtree(target + _LINK)
    shutil.copytree(staged, target + _LINK, copy_function=_link)
    fs.rmtree(target)
    fs.rename(target + _LINK, target)
    _point(path, suffix)
    fs.rmtree(staged)


def _link(src, dst):
  try:
    os.link(src, dst)
  except OSError:  # File systems without hard links.
    shutil.copy2(src, dst)


def collect_orphans(path: str) -> list[str]:
  """Removes what crashes have left behind; call it when a run starts.

  These are temporary checkpoints other than the newest, and folders that are
  incomplete. Permanent checkpoints are never touched.

  Args:
    path: prefix of the folders, `<workdir>/checkpoint.bv`.

  Returns:
    List of the removed paths (process 0; empty in the others).
  """
  folder, base = fs.dirname(path) or ".", os.path.basename(path)
  if jax.process_index() != 0 or not fs.isdir(folder):
    return []
  if fs.is_local(path):
    _settle(path)
  last = _read_last(path)
  pattern = re.compile(
    re.escape(base) + r"-(\d{9,})(-tmp)?(\.partial|\.old|\.link)?"
  )
  for old in (n for n in fs.listdir(folder) if n.endswith(_OLD)):
    target = fs.join(folder, old.removesuffix(_OLD))
    if pattern.fullmatch(old) and not fs.exists(target):
      # Interrupted between two renames: its replacement is still elsewhere.
      fs.rename(fs.join(folder, old), target)

  if not last or not fs.isdir(f"{path}-{last}"):
    newest = latest(path)
    if newest is None and not fs.is_local(path):
      return []  # A checkpoint that may be complete is not ours to remove.
    if newest is not None:
      last = newest.removeprefix(f"{path}-")
      _point(path, last)

  removed = []
  for name in fs.listdir(folder):
    match = pattern.fullmatch(name)
    if match and name != f"{base}-{last}" and (match[2] or match[3]):
      removed.append(fs.join(folder, name))
  if fs.exists(f"{path}-CUR"):
    removed.append(f"{path}-CUR")
  for r in removed:
    logging.info("Removing what an interrupted run has left: %s", r)
    fs.rmtree(r) if fs.isdir(r) else fs.remove(r)
  return removed
