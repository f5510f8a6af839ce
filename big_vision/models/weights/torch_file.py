"""Reads files of `torch.save` without torch, see `torch_pickle`.

There are two forms: a zip file of a pickle and uncompressed storages, written
since PyTorch 1.6, and the older sequence of five pickles and the storages.
"""

import io
import math
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 (gives NumPy its bfloat16)
import numpy as np

from big_vision import checkpoint_npz, lookup
from big_vision.models.weights import torch_pickle

_MAGIC = 0x1950A86A20F9469CFC6C  # First pickle of the older form.
# Of nested dicts, their number, and that of their items.
_MAX_DEPTH, _MAX_NODES, _MAX_ITEMS = 32, 100_000, 4_000_000

Storages = Callable[[str, int], np.ndarray]


class _Tensor(NamedTuple):
  """A tensor, checked: key and length of its storage, and where it lies there."""

  key: str
  dtype: np.dtype
  length: int
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Form(NamedTuple):
  """Holds the content of the pickle of a file, and where its storages are.

  Attributes:
    content: as `torch_pickle.Loaded.content`.
    storages: key -> (position in the file, number of bytes).
  """

  content: Any
  storages: dict[str, tuple[int, int]]


def shapes(path: str) -> dict[str, tuple[int, ...]]:
  """Reads the pickle.

  Args:
    path: local file.

  Returns:
    Name -> shape, of all tensors.

  Raises:
    ConfigError: as `read`.
  """
  return {name: x.shape for name, x in _tensors(path, _open(path)).items()}


def read(
  path: str, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
  """Reads tensors.

  Args:
    path: local file.
    names: of those to read, which the file has; None means all.

  Returns:
    Name -> array that must not be written to: tensors that share their storage
    do so here, too.

  Raises:
    ConfigError: the file is damaged, or holds anything else than tensors and
      what usually lies beside them.
  """
  form = _open(path)
  tensors = _tensors(path, form)
  storages: dict[str, np.ndarray] = {}
  out = {}
  with open(path, "rb") as f:
    for name in tensors if names is None else names:
      x = tensors[name]
      if x.key not in storages:
        f.seek(form.storages[x.key][0])
        storages[x.key] = np.fromfile(f, np.uint8, form.storages[x.key][1])
        if len(storages[x.key]) < form.storages[x.key][1]:
          raise lookup.ConfigError(f"{path} has changed while it was read.")
        storages[x.key].flags.writeable = False
      out[name] = np.lib.stride_tricks.as_strided(
        storages[x.key][: x.length * x.dtype.itemsize].view(x.dtype)[
          x.offset :
        ],
        x.shape,
        [step * x.dtype.itemsize for step in x.strides],
        writeable=False,
      )
  return out


def _open(path):
  """Reads the pickle and finds the storages."""
  with open(path, "rb") as f:
    start = f.read(64)
  try:
    if start.startswith(b"PK"):
      return _open_zip(path)
    return _open_older(path)
  except torch_pickle.Refused as e:
    raise lookup.ConfigError(
      f"{path} {e}: only tensors and plain values are read. If you trust it, "
      "load it with torch elsewhere, and save its state dict as safetensors."
    ) from e
  except (ValueError, EOFError, OSError, zipfile.BadZipFile) as e:
    said = checkpoint_npz.what_stands_for(start)
    said = said or f"{e}".rstrip(".") + ": download or copy it again."
    raise lookup.ConfigError(f"{path} {said}") from e


def _open_zip(path):
  size = os.path.getsize(path)
  try:
    with zipfile.ZipFile(path) as z:
      members = z.infolist()
  except Exception as e:  # Damage gets to struct, too.
    raise ValueError(f"is damaged or incomplete ({e!s:.200})") from e
  names = [m.filename for m in members]
  twice = [n for n, c in Counter(names).items() if c > 1]
  if twice:
    raise ValueError(f"has {twice[0]!r:.80} twice")
  pickles = [n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
  if len(pickles) != 1:
    raise ValueError("is a zip file, but not one of torch.save")
  folder = pickles[0].removesuffix("data.pkl")
  if folder + "constants.pkl" in names:
    raise torch_pickle.Refused("is a TorchScript program")
  for m in members:
    if m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1:
      raise ValueError(
        f"has {m.filename!r:.80} compressed, which torch.save does not do"
      )
  if sum(m.file_size for m in members) > size:
    raise ValueError("is damaged: its parts are larger than the file")
  with open(path, "rb") as f:
    parts = {m.filename: _position(f, m, size) for m in members}
    # Without the checksums, which torch can leave out.
    order = _content(f, parts.get(folder + "byteorder", (0, 0)))
    if order not in (b"", b"little"):
      raise ValueError("is not in the order of bytes of this machine")
    if parts[pickles[0]][1] > torch_pickle.MAX_BYTES:
      raise ValueError("has a pickle that is too large for one of tensors")
    stream = io.BytesIO(_content(f, parts[pickles[0]]))
  content = torch_pickle.load(stream).content
  folder += "data/"
  storages = {
    n.removeprefix(folder): part
    for n, part in parts.items()
    if n.startswith(folder)
  }
  return _Form(content, storages)


def _position(f, member, size):
  """Returns where an uncompressed member is in the file: (begin, length)."""
  f.seek(member.header_offset)
  header = f.read(30)
  name, extra = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
  begin = member.header_offset + 30 + name + extra
  if header[:4] != b"PK\x03\x04" or begin + member.file_size > size:
    raise ValueError(
      f"is damaged: {member.filename!r:.80} is not where it says"
    )
  return begin, member.file_size


def _content(f, part):
  f.seek(part[0])
  return f.read(min(part[1], torch_pickle.MAX_BYTES))


def _open_older(path):
  size = os.path.getsize(path)
  with open(path, "rb") as f:
    stream = io.BytesIO(f.read(torch_pickle.MAX_BYTES))
    try:
      magic = torch_pickle.load(stream).content
    except ValueError:
      magic = None
    if magic != _MAGIC:
      raise ValueError("is not a file of torch.save")
    torch_pickle.load(stream)  # The version of the format.
    system = torch_pickle.load(stream).content
    if isinstance(system, dict) and system.get("little_endian") is False:
      raise ValueError("is not in the order of bytes of this machine")
    content, persistent = torch_pickle.load(stream)
    keys = torch_pickle.load(stream).content
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
      raise ValueError("is damaged: it has no list of storages")
    if len(set(keys)) < len(keys):
      raise ValueError("has a storage twice")
    storages, at = {}, stream.tell()
    itemsize = {}
    for x in persistent:
      key, dtype, _ = _storage(x)
      if itemsize.setdefault(key, dtype.itemsize) != dtype.itemsize:
        raise ValueError(f"has storage {key!r:.80} in two types")
    for key in keys:
      if key not in itemsize:
        raise ValueError(f"has a storage {key!r:.80} without a type")
      f.seek(at)
      length = int.from_bytes(f.read(8), "little") * itemsize[key]
      storages[key] = at + 8, length
      at += 8 + length
      if at > size:
        raise ValueError(
          f"is incomplete: storage {key!r:.80} ends after the file"
        )
  return _Form(content, storages)


def _storage(x):
  """Checks what a pickle says of a storage: (key, dtype, length)."""
  x = x.value if isinstance(x, torch_pickle.Persistent) else None
  if not isinstance(x, tuple) or len(x) not in (5, 6) or x[0] != "storage":
    raise ValueError("has a tensor without storage")
  _, kind, key, _, length, *view = x
  name = kind.name if isinstance(kind, torch_pickle.Global) else None
  if name not in torch_pickle.STORAGES:
    raise ValueError("has a storage of an unknown type")
  if not isinstance(key, str) or type(length) is not int or length < 0:
    raise ValueError("has a storage without a key or length")
  if view and view[0] is not None:
    raise ValueError("has views of storages, of PyTorch before 1.0")
  return key, np.dtype(torch_pickle.STORAGES[name]), length


def _flat(content):
  """Lists the tensors in nested dicts and lists, with their names."""
  found, num_nodes, num_items = [], 0, 0
  left = [("", content, 0)] if isinstance(content, dict) else []
  while left:
    name, x, depth = left.pop()
    if isinstance(x, torch_pickle.Stored):
      found.append((name.removeprefix("."), x))
      continue
    items = x.items() if isinstance(x, dict) else enumerate(x)
    num_nodes, num_items = num_nodes + 1, num_items + len(x)
    # A dict that lies in others twice is met twice, also one within itself.
    if depth > _MAX_DEPTH or num_nodes > _MAX_NODES or num_items > _MAX_ITEMS:
      raise ValueError(f"is nested too deeply, at {name:.80}")
    nested = (torch_pickle.Stored, dict, list, tuple)
    left += [
      (f"{name}.{k}", v, depth + 1)
      for k, v in reversed(list(items))
      if isinstance(v, nested)
    ]
  return found


def _tensors(path, form):
  """Checks all tensors of a file: name -> _Tensor."""
  out = {}
  try:
    for name, x in _flat(form.content):
      if name in out:
        raise ValueError(f"has the tensor {name!r:.200} twice")
      try:
        out[name] = _tensor(x, form.storages)
      except ValueError as e:
        raise lookup.ConfigError(f"{path}: tensor {name!r:.200} {e}.") from e
  except lookup.ConfigError:
    raise
  except ValueError as e:
    raise lookup.ConfigError(f"{path} {e}.") from e
  if not out:
    raise lookup.ConfigError(f"{path} holds no tensors.")
  return out


def _tensor(x, storages):
  """Checks a tensor; raises ValueError, a sentence without its subject."""
  key, dtype, length = _storage(x.storage)
  numbers = lambda values: (
    isinstance(values, tuple)
    and all(type(n) is int and 0 <= n < 1 << 63 for n in values)
  )
  offset, shape, strides = x.offset, x.shape, x.strides
  if not numbers(shape) or not numbers(strides) or not numbers((offset,)):
    raise ValueError("has sizes that are not numbers")
  if len(shape) != len(strides) or len(shape) > 64:
    raise ValueError(f"has {len(shape)} dimensions and {len(strides)} strides")
  if key not in storages:
    raise ValueError(f"is in storage {key!r:.80}, which the file lacks")
  if length * dtype.itemsize > storages[key][1]:
    raise ValueError(
      f"is in storage {key!r:.80} of {length} numbers, but the file has "
      f"{storages[key][1]} bytes of it"
    )
  size = math.prod(shape)
  last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
  if size and (offset + last >= length or size > length):
    raise ValueError(
      f"{shape} with strides {strides} from {offset} exceeds its storage of "
      f"{length} numbers"
    )
  if not size and math.prod(n or 1 for n in shape) >= 1 << 48:
    raise ValueError(f"has the shape {shape}")  # NumPy counts these, too.
  if not size:
    offset = 0
  return _Tensor(key, dtype, length, offset, shape, strides)
