"""Reads the tensors of public checkpoints, without torch.

  x.safetensors               header and data, see `safetensors_file`
  x.bin, x.pth[.tar], x.pt    files of torch.save, see `torch_file`
  x.npz                       arrays of NumPy
  x.safetensors.index.json    which of several files beside it has which tensor
  x.bin.index.json            the same of torch

Nothing in a file is executed, and before memory is taken, the sizes that a file
states are compared with its own.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from big_vision import checkpoint_npz, lookup, trees, untrusted
from big_vision.models.weights import safetensors_file, torch_file

_INDEX = ".index.json"
_MAX_INDEX = 64 << 20  # Bytes.


class _Npz:
  """Reads npz files as the other modules read theirs."""

  @staticmethod
  def shapes(path):
    return checkpoint_npz.shapes(path)

  @staticmethod
  def read(path, names):
    checkpoint_npz.shapes(path)  # Checks the sizes.
    stored: Any = checkpoint_npz.npload(path)
    return {
      name: trees.recover_dtype(stored[name])
      for name in (stored if names is None else names)
    }


_READERS: dict[str, Any] = {
  ".safetensors": safetensors_file,
  ".bin": torch_file,
  ".pth": torch_file,
  ".pth.tar": torch_file,
  ".pt": torch_file,
  ".npz": _Npz,
}


def shapes(path: str) -> dict[str, tuple[int, ...]]:
  """Reads names and shapes of all tensors, but not their data.

  Args:
    path: local file, see the top of this file. Tensors in nested dicts have
      names like "model.blocks.0.norm.weight"; what lies beside tensors is
      dropped.

  Returns:
    Name -> shape.

  Raises:
    ConfigError: the file is missing, damaged, of another kind, or asks for more
      than tensors; names the file, and the tensor.
  """
  found: dict[str, tuple[int, ...]] = {}
  for part in _files(path):
    found |= _reader(part).shapes(part)
  return found


def read(
  path: str, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
  """Reads tensors.

  Args:
    path: local file, see `shapes`.
    names: which of them to read; None means all.

  Returns:
    Name -> array, bfloat16 as that of ml_dtypes.

  Raises:
    ConfigError: as `shapes`, or the file lacks a tensor.
  """
  out = {}
  missing = set(names or ())
  for part in _files(path):
    known = _reader(part).shapes(part)
    missing -= known.keys()
    here = None if names is None else [n for n in names if n in known]
    if here is None or here:
      out |= _reader(part).read(part, here)
  if missing:
    name = min(missing)
    hint = lookup.did_you_mean(name, shapes(path))
    raise lookup.ConfigError(f"{path} has no tensor {name!r:.200}{hint}")
  return out


class Tensors(Mapping[str, np.ndarray]):
  """Tensors of several files, read when they are looked up.

  Those of files of torch are read together, when the first is looked up.
  """

  def __init__(self, files: Mapping[str, str]):
    """Takes the names.

    Args:
      files: name of a tensor -> local file that has it.
    """
    self._files = files
    self._together: dict[str, np.ndarray] = {}

  def __getitem__(self, name: str) -> np.ndarray:
    """Reads a tensor.

    Args:
      name: of the tensor.

    Returns:
      The array, bfloat16 as that of ml_dtypes.

    Raises:
      ConfigError: as `read`.
    """
    file = self._files[name]
    if file.endswith(".safetensors"):
      return safetensors_file.read(file, [name])[name]
    if name not in self._together:
      names = [n for n, other in self._files.items() if other == file]
      self._together |= read(file, names)
    return self._together[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._files)

  def __len__(self) -> int:
    return len(self._files)


def _reader(path):
  """Finds the module that reads a file, by the end of its name."""
  if not os.path.isfile(path):
    raise lookup.ConfigError(f"{path} does not exist, or is not a file.")
  with open(path, "rb") as f:
    other = checkpoint_npz.what_stands_for(f.read(64))
  if other:
    raise lookup.ConfigError(f"{path} {other}")
  for end, reader in _READERS.items():
    if path.endswith(end):
      return reader
  raise lookup.ConfigError(
    f"{path} is not one of the files of weights that are read here, "
    f"{', '.join(_READERS)}."
  )


def _files(path):
  """Lists the files with the tensors of a checkpoint."""
  path = os.fspath(path)
  if not path.endswith(_INDEX):
    return [path]
  where = _weight_map(path)
  folder = os.path.dirname(path)
  end = os.path.splitext(path.removesuffix(_INDEX))[1]
  files = {}
  for name in dict.fromkeys(where.values()):
    files[name] = os.path.join(folder, name)
    _check_shard(path, name, end)
  found: dict[str, str] = {}
  for name, file in files.items():
    tensors = _reader(file).shapes(file)
    twice = found.keys() & tensors.keys()
    if twice:
      raise lookup.ConfigError(
        f"{path}: tensor {min(twice)!r:.200} is in both {found[min(twice)]:.80} and {name}."
      )
    found |= dict.fromkeys(tensors, name)
  missing = where.keys() - found.keys()
  if missing:
    name = min(missing)
    raise lookup.ConfigError(
      f"{path}: tensor {name!r:.200} should be in {where[name]:.80}, but is in none of "
      "its files."
    )
  return list(files.values())


def _weight_map(path):
  """Reads an index: name of tensor -> name of file."""
  if not os.path.isfile(path):
    raise lookup.ConfigError(f"{path} does not exist, or is not a file.")
  if os.path.getsize(path) > _MAX_INDEX:
    raise lookup.ConfigError(f"{path} is too large for an index.")
  with open(path, "rb") as f:
    content = f.read()
  try:
    index = untrusted.json_value(content)
  except ValueError as e:
    said = (
      checkpoint_npz.what_stands_for(content[:64])
      or f"is not JSON: {e!s:.200}."
    )
    raise lookup.ConfigError(f"{path} {said}") from e
  where = index.get("weight_map") if isinstance(index, dict) else None
  if (
    not isinstance(where, dict)
    or not where
    or not all(isinstance(x, str) for x in where.values())
  ):
    raise lookup.ConfigError(
      f"{path} lacks `weight_map`, a dict from tensors to files."
    )
  return where


def _check_shard(path, name, end):
  """Raises ConfigError for a file that an index must not name."""
  folder = os.path.dirname(path) or "."
  if name != os.path.basename(name) or not name.endswith(end) or "\\" in name:
    raise lookup.ConfigError(
      f"{path} names the file {name!r:.200}: only names of files beside it that end "
      f"in {end} are read."
    )
  # In the hub's cache the index itself is a link, into the same folder.
  allowed = {os.path.realpath(folder), os.path.dirname(os.path.realpath(path))}
  real = os.path.realpath(os.path.join(folder, name))
  if os.path.dirname(real) not in allowed:
    raise lookup.ConfigError(
      f"{path} names the file {name!r:.200}, a link out of its folder: copy the file "
      "itself there."
    )
