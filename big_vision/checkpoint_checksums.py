"""Checksums of the files of arrays in checkpoints: damage is found when read.

The folder of an array has a file for its metadata (`.zarray`) and one for each
chunk (`0.1`). The CRC-32 of each of them is in its attributes, `.zattrs`:

  {"big_vision_crc32": {".zarray": "1c291ca3", ".zattrs": "5e6f7a8b",
                        "0.0": "9a0b3c4d", "0.1": "2f3a4b5c",
                        "arrays": "00000029"}}

where the one of `.zattrs` is that of the other entries, see `_own`, and `arrays` is
the number of arrays of the checkpoint: of what is lost as a whole nothing else tells.

Each process computes those of the files that it has written, from what the
store gives back. It leaves them in one file in the folder of the checkpoint,
from which process 0 makes the attributes and which it then deletes. Nothing is
gathered, and a reader needs only the checksums of the chunks that it reads.
"""

import dataclasses
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from typing import Any

import jax.numpy as jnp
import numpy as np

from big_vision import fs, lookup, untrusted

_KEY = "big_vision_crc32"
_METADATA, _ATTRIBUTES, _PIECE = ".zarray", ".zattrs", ".crc32-"
_COUNT = "arrays"
_BLOCK = 4 << 20  # Bytes that are read at once.
_THREADS = 32  # Remote look-ups are slow.


class Damaged(lookup.ConfigError):
  """A file of a checkpoint is damaged or missing.

  Attributes:
    problem: which one, and what is wrong with it; without the advice that the
      text of the error ends with.
  """

  def __init__(self, problem: str) -> None:
    super().__init__(
      f"{problem} Restore it from a copy, or use another checkpoint."
    )
    self.problem = problem


# Part of an array: one slice per dimension.
Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Stored:
  """A stored array, without its values.

  Attributes:
    shape: shape.
    dtype: type of the values.
    chunks: shape of a chunk.
    separator: what stands between the numbers in the names of chunks.
    checksums: dict of file -> 8 hexadecimal digits; None if the checkpoint was
      written without.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  chunks: tuple[int, ...]
  separator: str
  checksums: dict[str, str] | None

  def files_of(self, indices: Iterable[Index]) -> set[str]:
    """Names the chunks that parts of the array touch.

    Args:
      indices: the parts.

    Returns:
      Names of files.
    """
    names = set()
    for index in indices:
      ranges = []
      for s, size, chunk in zip(index, self.shape, self.chunks, strict=True):
        start, stop, _ = s.indices(size)
        ranges.append(range(start // chunk, -(-stop // chunk)))
      for position in itertools.product(*ranges):
        names.add(self.separator.join(map(str, position)) or "0")
    return names

  def all_files(self) -> set[str]:
    """Names all chunks.

    Returns:
      Names of files.
    """
    return self.files_of([(slice(None),) * len(self.shape)])


def on_disk(name: str) -> str:
  """Returns the name of the folder of a leaf."""
  return name.replace("/", "~")


# Writing.


def leave(
  folder: str, written: Sequence[tuple[str, list[Index]]], process: int
) -> None:
  """Computes the checksums of what this process has written.

  Args:
    folder: folder of the checkpoint, for `collect`.
    written: (name of a leaf, its parts that this process has written).
    process: index of this process.
  """
  jobs = []
  for name, indices in written:
    if indices:
      leaf = fs.join(folder, on_disk(name))
      stored = _parse(_read(fs.join(leaf, _METADATA)), leaf, None)
      jobs += [(name, file) for file in sorted(stored.files_of(indices))]
  digest = lambda job: _crc32(fs.join(folder, on_disk(job[0]), job[1]))
  sums: dict[str, dict[str, str]] = {}
  for (name, file), crc in zip(jobs, _parallel(digest, jobs), strict=True):
    sums.setdefault(name, {})[file] = crc
  with fs.open(fs.join(folder, f"{_PIECE}{process}"), "w") as f:
    json.dump(sums, f)


def collect(folder: str) -> None:
  """Makes the attributes of all leaves when all processes have called `leave`.

  Args:
    folder: folder of the checkpoint.
  """
  pieces = [n for n in fs.listdir(folder) if n.startswith(_PIECE)]
  sums: dict[str, dict[str, str]] = {}
  for piece in pieces:
    for name, files in untrusted.json_value(
      _read(fs.join(folder, piece))
    ).items():
      sums.setdefault(name, {}).update(files)
  count = _hex(sum(not n.startswith(".") for n in fs.listdir(folder)))

  def write(name):
    leaf = fs.join(folder, on_disk(name))
    files = {_METADATA: _crc32(fs.join(leaf, _METADATA)), **sums[name]}
    files[_COUNT] = count
    files[_ATTRIBUTES] = _own(files)
    with fs.open(fs.join(leaf, _ATTRIBUTES), "w") as f:
      json.dump({_KEY: files}, f, separators=(",", ":"), sort_keys=True)
      if fs.is_local(leaf):  # Else a power cut could leave an empty file.
        f.flush()
        os.fsync(f.fileno())

  _parallel(write, list(sums))
  for piece in pieces:
    fs.remove(fs.join(folder, piece))


# Reading.


def check_complete(folder: str, missing: Iterable[str]) -> None:
  """Tells leaves that have lost a file from leaves that a tree does not have.

  Args:
    folder: folder of the checkpoint.
    missing: names of leaves that were not found.

  Raises:
    Damaged: the folder of a leaf is there, its metadata are not.
  """
  for name in missing:
    leaf = fs.join(folder, on_disk(name))
    if fs.exists(fs.join(leaf, _ATTRIBUTES)):
      raise damaged(fs.join(leaf, _METADATA), "it is missing")


def check_all_there(
  folder: str, stored: Sequence[str], wanted: Sequence[str]
) -> None:
  """Checks that a checkpoint has as many arrays as were written.

  Args:
    folder: folder of the checkpoint.
    stored: names of the leaves that it has, one or more.
    wanted: names of leaves that the reader expects.

  Raises:
    Damaged: some are missing; names one, if it is among those that are expected.
  """
  path = fs.join(folder, on_disk(stored[0]), _ATTRIBUTES)
  count = (_read_attributes(path) or {}).get(_COUNT, "0")
  try:
    lost = int(count, 16) - len(stored)
  except (ValueError, TypeError) as e:
    raise damaged(path, f"{count!r:.80} is no number of arrays") from e
  if lost > 0:
    missing = sorted(set(wanted) - set(stored))
    check_complete(folder, missing)
    if not missing:
      raise damaged(folder, f"{lost} of its arrays are missing")
    path = fs.join(folder, on_disk(missing[0]))
    raise damaged(path, "it is missing", more=lost - 1)


def describe(folder: str, names: Sequence[str]) -> list[Stored]:
  """Reads shapes, types and checksums of stored leaves.

  Args:
    folder: folder of the checkpoint.
    names: names of the leaves.

  Returns:
    One `Stored` per name.

  Raises:
    Damaged: a file is damaged; names it.
  """

  def describe_leaf(name):
    leaf = fs.join(folder, on_disk(name))
    sums = _read_attributes(fs.join(leaf, _ATTRIBUTES))
    path = fs.join(leaf, _METADATA)
    content = _read(path)
    if sums is not None:
      problem = _compare(_hex(zlib.crc32(content)), sums.get(_METADATA))
      if problem:
        raise damaged(path, problem)
    stored = _parse(content, leaf, sums)
    listed = {_METADATA, _ATTRIBUTES, *stored.all_files()}
    if sums is not None and set(sums) - {_COUNT} != listed:
      raise damaged(
        fs.join(leaf, _ATTRIBUTES), "it does not list the files of the array"
      )
    return stored

  return _parallel(describe_leaf, names)


def verify(
  folder: str, wanted: Sequence[tuple[str, Stored, Iterable[str]]]
) -> None:
  """Compares files with their checksums, if they have been recorded.

  Args:
    folder: folder of the checkpoint.
    wanted: (name of a leaf, its description, names of its chunks).

  Raises:
    Damaged: a file is damaged or missing; names it.
  """
  jobs = [
    (fs.join(folder, on_disk(name), file), stored.checksums)
    for name, stored, files in wanted
    for file in sorted(files)
  ]

  def check(job):
    path, sums = job
    if not fs.exists(path):
      return "it is missing"
    if sums is None:
      return None
    return _compare(_crc32(path), sums.get(os.path.basename(path)))

  problems = [
    (path, problem)
    for (path, _), problem in zip(jobs, _parallel(check, jobs), strict=True)
    if problem
  ]
  if problems:
    raise damaged(*problems[0], more=len(problems) - 1)


def damaged(path: str, problem: str, more: int = 0) -> Damaged:
  """Makes the error for a file of a checkpoint.

  Args:
    path: the file.
    problem: what is wrong with it.
    more: how many other files have problems.

  Returns:
    The exception, to be raised by the caller.
  """
  others = f" (and {more} more files)" if more else ""
  return Damaged(f"Checkpoint file {path!r} is damaged: {problem}{others}.")


def _compare(actual, recorded):
  """Says how two checksums differ; None if they do not."""
  if actual == recorded:
    return None
  if recorded is None:
    return f"{_ATTRIBUTES} beside it has no checksum of it"
  return f"its CRC-32 is {actual}, but {recorded} when it was written"


def _read_attributes(path):
  """Returns the checksums in an attributes file; None if there are none."""
  if not fs.exists(path):
    return None
  try:
    content = untrusted.json_value(_read(path))
    if _KEY not in content and _similar(_KEY, content):
      raise ValueError("the key of the checksums is misspelled")
    sums = content.get(_KEY)
    if sums is not None and sums.get(_ATTRIBUTES) != _own(sums):
      raise ValueError("its checksums are not those that were written")
  except (ValueError, AttributeError, TypeError) as e:
    raise damaged(path, f"it cannot be read ({e})") from e
  return sums


def _own(sums):
  """Returns the checksum of checksums."""
  lines = [f"{k} {v}" for k, v in sorted(sums.items()) if k != _ATTRIBUTES]
  return _hex(zlib.crc32("\n".join(lines).encode()))


def _similar(key, found):
  """Tells whether one of the names is `key` but for one character."""
  return any(
    len(name) == len(key) and sum(map(str.__ne__, name, key)) <= 1
    for name in found
  )


def _parse(content, leaf, checksums):
  """Reads the content of a `.zarray`."""
  try:
    meta: Any = untrusted.json_value(content)
    return Stored(
      shape=tuple(map(int, meta["shape"])),
      dtype=jnp.dtype(meta["dtype"]),
      chunks=tuple(map(int, meta["chunks"])),
      separator=meta.get("dimension_separator", "."),
      checksums=checksums,
    )
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    reason = f"{type(e).__name__}: {e}"
    path = fs.join(leaf, _METADATA)
    raise damaged(path, f"it cannot be read ({reason})") from e


def _hex(crc):
  return f"{crc:08x}"


def _crc32(path):
  crc = 0
  with fs.open(path, "rb") as f:
    while block := f.read(_BLOCK):
      crc = zlib.crc32(block, crc)
  return _hex(crc)


def _read(path):
  with fs.open(path, "rb") as f:
    return f.read()


def _parallel(fn: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
  """Calls a function for each job, in threads as long as there can be some."""
  try:
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      results = [pool.submit(fn, job) for job in jobs]
  except RuntimeError:  # The program ends while its last save is under way.
    return [fn(job) for job in jobs]
  return [r.result() for r in results]
