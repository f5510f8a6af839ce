"""Trees of arrays in npz files: flat names, "/" between the parts."""

import io
import os
import zipfile
from collections import Counter

import jax
import numpy as np

from big_vision import fs, lookup, trees


def named_leaves(tree):
  """(name, leaf) pairs of a tree; ValueError if two have the same name."""
  leaves, treedef = trees.tree_flatten_with_names(tree)
  twice = [n for n, c in Counter(n for n, _ in leaves).items() if c > 1]
  if twice:
    raise ValueError(f"Several leaves are called {twice[0]!r}.")
  return leaves, treedef


def npload(fname):
  """Reads a NumPy file, local or remote.

  Args:
    fname: str, path of a `.npy` or `.npz` file.

  Returns:
    The array of a `.npy`, a dict of name -> array of a `.npz` file.
  """
  if fs.is_local(fname):
    loaded = np.load(fname, allow_pickle=False)
  else:
    with fs.open(fname, "rb") as f:
      loaded = np.load(io.BytesIO(f.read()), allow_pickle=False)
  if isinstance(loaded, np.ndarray):
    return loaded
  with loaded:
    return dict(loaded)


def load_checkpoint_np(npz, tree=None):
  """Reads a tree from an npz file.

  Args:
    npz: str, path of a file with names like "params/head/kernel", or a
      dict-like with what such a file holds.
    tree: treedef, its `unflatten` gets the values in stored order (old use).

  Returns:
    Nested dict of NumPy arrays, bfloat16 included.
  """
  if isinstance(npz, str | os.PathLike):
    npz = npload(npz)
  if tree is not None:
    return tree.unflatten([trees.recover_dtype(v) for v in npz.values()])
  leaves, _ = named_leaves(dict(npz))
  return trees.tree_unflatten([(n, trees.recover_dtype(v)) for n, v in leaves])


def save_checkpoint(tree, path, compressed=False):
  """Writes a tree into an npz file, which appears when it is complete.

  Args:
    tree: pytree of arrays or numbers.
    path: str, file to write, conventionally ending in `.npz`.
    compressed: bool, smaller and much slower.

  Raises:
    ValueError: a leaf is of a type that an npz file can not hold.
  """
  leaves, _ = named_leaves(tree)
  values = {}
  for name, x in leaves:
    x = np.asarray(jax.device_get(x))
    if x.dtype.name == "bfloat16":
      x = x.view("V2")  # The only type that void stands for.
    elif x.dtype.hasobject or x.dtype.kind == "V":
      raise ValueError(f"Leaf {name!r} of type {x.dtype} can not be saved.")
    values[name] = x

  if fs.dirname(path):
    fs.makedirs(fs.dirname(path))
  method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
  # Not np.savez, for which a leaf can not be called "file".
  staged = f"{path}.partial-{jax.process_index()}-{os.getpid()}"
  try:
    with fs.open(staged, "wb") as f:
      # Zip files are written back and forth, remote files only forth.
      buffer = f if fs.is_local(path) else io.BytesIO()
      with zipfile.ZipFile(buffer, "w", method) as z:
        for name, x in values.items():
          with z.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, x, allow_pickle=False)
      if buffer is not f:
        f.write(buffer.getbuffer())
  except BaseException:
    if fs.exists(staged):
      fs.remove(staged)
    raise
  fs.rename(staged, path)


def load_checkpoint(tree, path):
  """Reads an npz file into the structure of a tree.

  Args:
    tree: pytree; its names say what to read, its structure is returned.
      Leaves that are jax.ShapeDtypeStruct have their shapes checked.
    path: str.

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


def check_present(names, stored, path):
  stored = set(stored)
  missing = [n for n in names if n not in stored]
  if missing:
    shown = ", ".join(map(repr, missing[:5]))
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    hint = lookup.did_you_mean(missing[0], stored)
    raise ValueError(f"Checkpoint {path!r} lacks {shown}{more}{hint}")


def check_shapes(leaves, stored, path):
  bad = [
    f"{name!r} should be {x.shape} but is {s.shape}"
    for (name, x), s in zip(leaves, stored, strict=True)
    if isinstance(x, jax.ShapeDtypeStruct) and x.shape != s.shape
  ]
  if bad:
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    raise ValueError(
      f"Shapes in checkpoint {path!r} differ from the model's: "
      f"{'; '.join(bad[:5])}{more}."
    )
