"""Trees of arrays in npz files: flat names, "/" between the parts."""

import io
import math
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision import fs, lookup, trees
from big_vision.types import PyTree

_START = 64  # So many bytes tell what a file is.
# Zeros are compressed to a thousandth of their size. Beyond a GiB, files of more
# than that are made to fill memory.
_MAX_COMPRESSION, _PLAUSIBLE = 100, 1 << 30


class MisfitError(ValueError):
  """A checkpoint has not what is asked for, or in other shapes."""


def named_leaves(tree: PyTree) -> tuple[list[tuple[str, Any]], Any]:
  """Flattens a tree into pairs of name and leaf.

  Args:
    tree: any pytree.

  Returns:
    (list of (name, leaf), treedef).

  Raises:
    ValueError: two leaves have the same name.
  """
  leaves, treedef = trees.tree_flatten_with_names(tree)
  twice = [n for n, c in Counter(n for n, _ in leaves).items() if c > 1]
  if twice:
    raise ValueError(f"Several leaves are called {twice[0]!r}.")
  return leaves, treedef


def npload(fname: str | os.PathLike) -> np.ndarray | dict[str, np.ndarray]:
  """Reads a NumPy file, local or remote.

  Args:
    fname: path of a `.npy` or `.npz` file.

  Returns:
    The array of a `.npy`, a dict of name -> array of a `.npz` file.

  Raises:
    FileNotFoundError: the file does not exist.
    lookup.ConfigError: it is not such a file, or damaged, or a remote one that
      cannot be reached; names it.
  """
  with fs.open(fname, "rb") if fs.is_local(fname) else _fetch(fname) as buffer:
    start = buffer.read(_START)
    size = buffer.seek(0, os.SEEK_END)
    buffer.seek(0)
    try:
      loaded = np.load(buffer, allow_pickle=False)
      if isinstance(loaded, np.ndarray):
        return loaded
      with loaded:
        _check_expansion(fname, size, loaded.zip)
        return dict(loaded)
    except lookup.ConfigError:
      raise
    # Damage gets to zipfile, zlib, struct, pickle, and to sizes of arrays.
    except Exception as e:
      raise lookup.ConfigError(
        f"{os.fspath(fname)} {_what_is_wrong(start, e)}"
      ) from e


def shapes(fname: str | os.PathLike) -> dict[str, tuple[int, ...]]:
  """Reads the shapes of the arrays of a local npz file, but not their data.

  Args:
    fname: path of a `.npz` file.

  Returns:
    Name -> shape.

  Raises:
    lookup.ConfigError: it is not such a file, or damaged, or its arrays would
      need implausibly more memory than the file; names it, and the array.
  """
  fname = os.fspath(fname)
  with fs.open(fname, "rb") as f:
    start = f.read(_START)
  name, found = "", {}
  try:
    with zipfile.ZipFile(fname) as z:
      _check_expansion(fname, os.path.getsize(fname), z)
      for member in z.infolist():
        name = member.filename.removesuffix(".npy")
        if name in found:
          raise ValueError("it is there twice")
        with z.open(member) as f:
          found[name], dtype = _npy_header(f)
          if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded")  # As NumPy says.
          expected = math.prod(found[name]) * dtype.itemsize
          if f.tell() + expected != member.file_size:
            raise ValueError(
              f"it has {member.file_size - f.tell()} bytes, not {expected}"
            )
  except lookup.ConfigError:
    raise
  # As in `npload`.
  except Exception as e:
    array = f" of array {name!r:.200}" if name else ""
    raise lookup.ConfigError(
      f"{fname}{array} {_what_is_wrong(start, e)}"
    ) from e
  return found


def _check_expansion(fname, size, z):
  """Raises ConfigError for a file that was made to fill memory."""
  expanded = sum(member.file_size for member in z.infolist())
  if expanded > max(_MAX_COMPRESSION * size, _PLAUSIBLE):
    raise lookup.ConfigError(
      f"{os.fspath(fname)} of {size} bytes would need {expanded} bytes of "
      "memory: it is not read."
    )


def _npy_header(f):
  """Reads (shape, dtype) at the beginning of a .npy file."""
  read = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }[np.lib.format.read_magic(f)]
  shape, _, dtype = read(f)
  return shape, dtype


def _fetch(fname):
  """Reads all of a remote file, as the parts of a zip file lie at its end."""
  try:
    with fs.open(fname, "rb") as f:
      return io.BytesIO(f.read())
  except (ImportError, FileNotFoundError, lookup.ConfigError):
    raise
  except (
    Exception
  ) as e:  # Those who open remote files have errors of their own.
    said = (str(e).splitlines() or [type(e).__name__])[0].rstrip(". ")
    raise lookup.ConfigError(
      f"{fname} cannot be read: {said}. Without a network, copy the file to this "
      "machine and give its path."
    ) from e


def what_stands_for(start: bytes) -> str | None:
  """Recognizes what often has the name of a file of numbers, but is none.

  Args:
    start: the first bytes of the file.

  Returns:
    The end of a sentence about the file; None for anything else.
  """
  if not start:
    return "is empty: download or copy it again."
  if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
    return (
      "is a web page: download it again, from the address of the file itself."
    )
  if start.startswith(b"version https://git-lfs"):
    return "is a pointer of Git LFS, not the file: run `git lfs pull`."
  return None


def _what_is_wrong(start, error):
  """Ends a sentence about a file by its first bytes and the error it gave."""
  if other := what_stands_for(start):
    return other
  if not start.startswith((b"PK", b"\x93NUMPY")):
    return f"is not a NumPy file (.npz or .npy): it begins with {start[:8]!r}."
  if "Object arrays" in str(error):
    return "holds Python objects, which are not read: store arrays of numbers."
  reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
  if "allow_pickle" in reason:  # What NumPy says of a part it does not know.
    reason = "a part of it is not an array"
  return f"is damaged or incomplete ({reason:.200}): download or copy it again."


def load_checkpoint_np(
  npz: str | os.PathLike | Mapping[str, Any], tree: Any = None
) -> PyTree:
  """Reads a tree from an npz file.

  Args:
    npz: path of a file with names like "params/head/kernel", or a mapping with
      the content of such a file.
    tree: treedef whose `unflatten` gets the values in stored order; for
      callers of earlier versions.

  Returns:
    Nested dict of NumPy arrays, bfloat16 included.

  Raises:
    ConfigError: the file is not of that kind, or damaged.
  """
  stored: Any = npload(npz) if isinstance(npz, str | os.PathLike) else npz
  if tree is not None:
    return tree.unflatten([trees.recover_dtype(v) for v in stored.values()])
  if isinstance(stored, np.ndarray):
    raise lookup.ConfigError(
      f"{npz} is one array; a checkpoint is an .npz file of named arrays."
    )
  leaves, _ = named_leaves(dict(stored))
  return trees.tree_unflatten([(n, trees.recover_dtype(v)) for n, v in leaves])


def save_checkpoint(tree: PyTree, path: str, compressed: bool = False) -> None:
  """Writes a tree into an npz file, which appears when it is complete.

  Args:
    tree: pytree of arrays or numbers.
    path: file to write, conventionally ending in `.npz`.
    compressed: whether to compress, which is much slower.

  Raises:
    ValueError: the type of a leaf does not fit into an npz file.
  """
  leaves, _ = named_leaves(tree)
  values = {}
  for name, x in leaves:
    x = np.asarray(jax.device_get(x))
    if x.dtype.name == "bfloat16":
      x = x.view("V2")  # The only type that void stands for.
    elif x.dtype.hasobject or x.dtype.kind == "V":
      raise ValueError(f"Leaf {name!r} of type {x.dtype} cannot be saved.")
    values[name] = x

  if fs.dirname(path):
    fs.makedirs(fs.dirname(path))
  method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
  # Not np.savez, which does not accept a leaf called "file".
  staged = f"{path}.partial-{jax.process_index()}-{os.getpid()}"
  try:
    with fs.open(staged, "wb") as f:
      # Zip files are written back and forth, remote files only forth.
      buffer = f if fs.is_local(path) else io.BytesIO()
      with zipfile.ZipFile(buffer, "w", method) as z:
        for name, x in values.items():
          with z.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, x, allow_pickle=False)
      if isinstance(buffer, io.BytesIO):
        f.write(buffer.getbuffer())
  except BaseException:
    if fs.exists(staged):
      fs.remove(staged)
    raise
  fs.rename(staged, path)


def load_checkpoint(tree: PyTree, path: str) -> PyTree:
  """Reads an npz file into the structure of a tree.

  Args:
    tree: pytree whose names say what to read and whose structure is returned.
      Shapes of leaves that are jax.ShapeDtypeStruct are checked.
    path: the npz file.

  Returns:
    The tree with NumPy arrays; more leaves in the file are ignored.

  Raises:
    ValueError: a leaf is missing or has another shape; names it.
  """
  stored = dict(named_leaves(load_checkpoint_np(path))[0])
  leaves, treedef = named_leaves(tree)
  check_present([n for n, _ in leaves], stored, path)
  check_shapes(leaves, [stored[n] for n, _ in leaves], path)
  return treedef.unflatten([stored[n] for n, _ in leaves])


def check_present(
  names: Sequence[str], stored: Iterable[str], path: str
) -> None:
  """Checks that a checkpoint has all leaves.

  Args:
    names: names of the wanted leaves.
    stored: names of the leaves of the checkpoint.
    path: the checkpoint, for the message.

  Raises:
    MisfitError: leaves are missing; names some of them.
  """
  stored = set(stored)
  missing = [n for n in names if n not in stored]
  if missing:
    shown = ", ".join(map(repr, missing[:5]))
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    hint = lookup.did_you_mean(missing[0], stored)
    raise MisfitError(f"Checkpoint {path!r} lacks {shown}{more}{hint}")


def check_shapes(
  leaves: Sequence[tuple[str, Any]], stored: Sequence[Any], path: str
) -> None:
  """Checks the shapes of leaves of a checkpoint.

  Args:
    leaves: (name, leaf); only leaves that are jax.ShapeDtypeStruct are checked.
    stored: objects with the stored `shape`, in the same order.
    path: the checkpoint, for the message.

  Raises:
    MisfitError: shapes differ; names some of them.
  """
  bad = [
    f"{name!r} should be {x.shape} but is {tuple(s.shape)}"
    for (name, x), s in zip(leaves, stored, strict=True)
    if isinstance(x, jax.ShapeDtypeStruct) and x.shape != s.shape
  ]
  if bad:
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    raise MisfitError(
      f"Shapes in checkpoint {path!r} differ from the model's: "
      f"{'; '.join(bad[:5])}{more}."
    )
