"""Reads and writes safetensors files; each entry of a header is checked by itself.

The file: eight bytes with the length of the header, the header, a JSON object
name -> {dtype, shape, data_offsets}, and the data. The library `safetensors`
checks the same, but its errors do not say which tensor is wrong.
"""

import functools
import json
import math
import os
from collections.abc import Collection, Mapping
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from big_vision import lookup

_MAX_HEADER = 100_000_000  # Bytes, as in the library.
_TYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U64": np.uint64,
  "U32": np.uint32,
  "U16": np.uint16,
  "U8": np.uint8,
  "BOOL": np.bool_,
  "C64": np.complex64,
}


class _Tensor(NamedTuple):
  """A tensor of the file: `begin` is in bytes from the file's beginning."""

  dtype: np.dtype
  shape: tuple[int, ...]
  begin: int


def shapes(path: str) -> dict[str, tuple[int, ...]]:
  """Reads the header.

  Args:
    path: local file.

  Returns:
    Name -> shape, of all tensors.

  Raises:
    ConfigError: the file is damaged; names the tensor.
  """
  return {name: x.shape for name, x in _header(path).items()}


def read(
  path: str, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
  """Reads tensors.

  Args:
    path: local file.
    names: of those to read, which the file has; None means all.

  Returns:
    Name -> array.

  Raises:
    ConfigError: the file is damaged; names the tensor.
  """
  header = _header(path)
  out = {}
  with open(path, "rb") as f:
    for name in header if names is None else names:
      x = header[name]
      f.seek(x.begin)
      values = np.fromfile(f, x.dtype, math.prod(x.shape))
      out[name] = values.reshape(x.shape)
  return out


def write(
  f: IO[bytes],
  tensors: Mapping[str, np.ndarray],
  shapes: Mapping[str, tuple[int, ...]],
) -> None:
  """Writes a file for transformers and others.

  Args:
    f: file, open for writing bytes.
    tensors: name -> float32 array, looked up one by one.
    shapes: name -> shape, of those to write.

  Raises:
    ValueError: a tensor is of another shape or type.
  """
  # Without it transformers refuses the file.
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for name, shape in shapes.items():
    begin, end = end, end + 4 * math.prod(shape)
    header[name] = dict(
      dtype="F32", shape=list(shape), data_offsets=[begin, end]
    )
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  f.write(len(text).to_bytes(8, "little") + text)
  for name, shape in shapes.items():
    x = tensors[name]
    if x.dtype != np.float32 or x.shape != shape:
      raise ValueError(f"{name} is {x.dtype} {x.shape}, not float32 {shape}.")
    if x.size:
      f.write(np.ascontiguousarray(x).data.cast("B"))


def _header(path):
  """Reads and checks the header: name -> _Tensor."""
  stat = os.stat(path)
  return _header_of(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(64)  # For those who read tensors one by one.
def _header_of(path, size, changed):
  del changed
  with open(path, "rb") as f:
    length = int.from_bytes(f.read(8), "little")
    if not 2 <= length <= min(size - 8, _MAX_HEADER):
      raise lookup.ConfigError(
        f"{path} is not a whole safetensors file: it says that its header has "
        f"{length} bytes, and the file has {size}."
      )
    header = f.read(length)
  try:
    entries = json.loads(header, object_pairs_hook=_without_repetition)
  except (ValueError, RecursionError) as e:  # Of JSON or UTF-8.
    raise lookup.ConfigError(
      f"{path} is not a safetensors file, or damaged: its header is not JSON: "
      f"{e!s:.200}."
    ) from e
  if not isinstance(entries, dict):
    raise lookup.ConfigError(f"{path} has a header that is not a dict.")
  entries.pop("__metadata__", None)
  found, ranges = {}, []
  for name, entry in entries.items():
    try:
      dtype, shape, begin, end = _entry(entry, size - 8 - length)
    except ValueError as e:
      raise lookup.ConfigError(f"{path}: tensor {name!r:.200} {e}.") from e
    found[name] = _Tensor(dtype, shape, 8 + length + begin)
    ranges.append((begin, end, name))
  ranges.sort()
  for (_, end, name), (begin, _, other) in zip(
    ranges[:-1], ranges[1:], strict=True
  ):
    if begin < end:
      raise lookup.ConfigError(
        f"{path}: tensors {name!r:.200} and {other!r:.200} overlap."
      )
  return found


def _without_repetition(pairs):
  """Makes a dict; raises ValueError for a name that is there twice."""
  out = dict(pairs)
  if len(out) < len(pairs):
    seen = set()
    twice = next(k for k, _ in pairs if k in seen or seen.add(k))
    raise ValueError(f"{twice!r:.200} is there twice")
  return out


def _entry(entry: Any, size: int) -> tuple[np.dtype, tuple[int, ...], int, int]:
  """Checks what a header says of a tensor.

  Args:
    entry: value of the header.
    size: of the data, in bytes.

  Returns:
    (dtype, shape, begin, end).

  Raises:
    ValueError: it cannot be; a sentence without its subject.
  """
  if not isinstance(entry, dict):
    raise ValueError(f"has no dict in the header, but {entry!r:.40}")
  name = entry.get("dtype")
  if name not in _TYPES:
    raise ValueError(
      f"is of type {name!r:.20}, which is not read: convert quantized weights "
      "to F32 or BF16"
    )
  dtype = np.dtype(_TYPES[name])
  shape, offsets = _numbers(entry, "shape"), _numbers(entry, "data_offsets")
  # NumPy counts the other dimensions also where one of them is zero.
  if len(shape) > 64 or math.prod(x or 1 for x in shape) >= 1 << 48:
    raise ValueError(f"has the shape {shape!r:.60}")
  if len(offsets) != 2 or not offsets[0] <= offsets[1] <= size:
    raise ValueError(
      f"lies at bytes {offsets!r:.60} of {size}: the file is incomplete or damaged"
    )
  num_bytes = math.prod(shape) * dtype.itemsize
  if num_bytes != offsets[1] - offsets[0]:
    raise ValueError(
      f"is {tuple(shape)} of {name}, {num_bytes} bytes, but has "
      f"{offsets[1] - offsets[0]}"
    )
  return dtype, tuple(shape), offsets[0], offsets[1]


def _numbers(entry, key):
  """Returns a list of numbers from what a header says of a tensor."""
  value = entry.get(key)
  if isinstance(value, list) and all(type(x) is int and x >= 0 for x in value):
    return value
  raise ValueError(f"has {key} {value!r:.60}")
