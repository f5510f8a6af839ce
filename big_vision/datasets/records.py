"""Random access to prepared TFDS datasets: any example by its number.

TFDS writes examples into shards. Those of the format array_record have an index
inside. TFRecord files have none, but their records tell their lengths, so that
one pass over the heads of the records finds out where each begins. That is done
on opening for small local datasets; for others `tools/convert_dataset.py` does
it once and writes the result beside the shards, as INDEX_FILE.
"""

from __future__ import annotations

import bisect
import concurrent.futures
import functools
import itertools
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision import checkpoint_npz, fs
from big_vision.datasets.crc32c import masked_crc32c
from big_vision.lookup import ConfigError
from big_vision.tf import tf

INDEX_FILE = "big_vision_index.npz"

# What is indexed on opening, without being asked: takes a second at most.
_MAX_EXAMPLES = 200_000
_MAX_BYTES = 2 << 30
_SEARCH_SECONDS = 60  # How long to look for a damaged record.
_NUM_THREADS = 16  # To look into shards; the disk is what takes the time.

# A TFRecord is its length (uint64), a checksum of that (uint32), the data and
# a checksum of the data (uint32).
_HEAD, _TAIL = 12, 4
# Lengths repeat.
_length_checksum = functools.lru_cache(1 << 16)(masked_crc32c)
_REMEDY = "Copy or prepare the dataset anew."

_ARRAY_RECORD = tfds.core.FileFormat.ARRAY_RECORD
_TFRECORD = tfds.core.FileFormat.TFRECORD


def open_split(
  builder: Any, split: str, random_access: bool | None = None
) -> Records | None:
  """Opens the records of a split, if any can be read on its own.

  Args:
    builder: TFDS builder of a prepared dataset.
    split: any TFDS split.
    random_access: True to index TFRecord files however long it takes,
      False for None as the result; by default small local ones are indexed, and
      others used if there is an index (see the head of this file).

  Returns:
    `Records`, or None without random access.

  Raises:
    ValueError: a shard is missing or damaged, or its format cannot be indexed.
  """
  files = builder.info.splits[split].file_instructions
  formats = builder.info.available_file_formats()
  if random_access is False:
    if builder.info.file_format == _ARRAY_RECORD:
      raise ValueError(
        "data.random_access=False: files of the format array_record have no "
        "other access. Leave it out."
      )
    return None
  if _ARRAY_RECORD in formats:
    return Records(_in_format(files, builder.info, _ARRAY_RECORD), _ArrayRecord)
  if _TFRECORD not in formats:
    if random_access:
      raise ValueError(
        f"data.random_access: {builder.info.full_name} has files of the "
        f"formats {sorted(f.value for f in formats)}, not array_record or "
        "tfrecord."
      )
    return None
  index = _stored_index(os.fspath(builder.data_path))
  if index is not None:
    return Records(files, functools.partial(_indexed, index))
  if random_access or _are_small(files):
    scanned = Records(files, _scanned)
    scanned.open_all()
    return scanned
  return None


def find_damage(builder: Any, split: str) -> str | None:
  """Looks for the first damaged record, as TensorFlow's errors do not name it.

  Args:
    builder: TFDS builder of a prepared dataset.
    split: any TFDS split.

  Returns:
    A message with the file and the record; None if there is none, the format is
    not TFRecord, or it takes too long.
  """
  if builder.info.file_format != _TFRECORD:
    return None
  deadline = time.monotonic() + _SEARCH_SECONDS
  for f in builder.info.splits[split].file_instructions:
    try:
      shard = _TFRecord(f.filename, record_bounds(f.filename))
      for position in range(len(shard)):
        if time.monotonic() > deadline:
          return None
        shard[position]  # noqa: B018 - checks it
    except (OSError, ValueError, tf.errors.OpError) as e:
      return str(e)
  return None


def _in_format(files, info, file_format):
  """Renames the shards of `files` to those of another format."""
  if info.file_format == file_format:
    return files
  return [
    f.replace(filename=path_in_format(f.filename, file_format)) for f in files
  ]


def path_in_format(path: str, file_format: Any) -> str:
  """Converts the path of a shard to that of the same shard in another format.

  Args:
    path: of the shard.
    file_format: FileFormat of TFDS.

  Returns:
    The path that TFDS uses.
  """
  return os.fspath(
    tfds.core.file_adapters.convert_path_to_file_format(path, file_format)
  )


def _are_small(files):
  if not all(fs.is_local(f.filename) for f in files):
    return False
  num_examples = sum(f.examples_in_shard for f in files)
  num_bytes = sum(
    os.path.getsize(f.filename) for f in files if os.path.exists(f.filename)
  )
  return num_examples <= _MAX_EXAMPLES and num_bytes <= _MAX_BYTES


class Records:
  """Reads serialized examples by number; thread-safe.

  Args:
    files: list of TFDS FileInstruction, the shards and which part of each.
    open_shard: `path -> object` whose items are the bytes of its records.
  """

  def __init__(self, files: Sequence[Any], open_shard: Callable[[str], Any]):
    self._files = files
    self._ends = list(itertools.accumulate(f.take for f in files))
    self._open_shard = open_shard
    self._shards: dict[str, Any] = {}
    self._lock = threading.Lock()
    _allow_open_files(len(files))
    for f in files:
      if fs.is_local(f.filename) and not os.path.exists(f.filename):
        raise ValueError(f"The shard {f.filename} is missing. {_REMEDY}")

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> tuple[bytes, bytes]:
    """Returns (record, its TFDS id)."""
    number = bisect.bisect_right(self._ends, index)
    f = self._files[number]
    position = f.skip + f.take - (self._ends[number] - index)
    # As if TFDS had read TFRecord files: ids outlive a change of the format.
    name = os.path.basename(f.filename).replace(".array_record-", ".tfrecord-")
    shard = self._shard(f.filename)
    if len(shard) != f.examples_in_shard:
      raise ValueError(
        f"The shard {f.filename} has {len(shard)} records, but according to "
        f"dataset_info.json {f.examples_in_shard}. {_REMEDY}"
      )
    return shard[position], f"{name}__{position}".encode()

  def open_all(self) -> None:
    """Opens all shards now instead of when they are needed."""
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
      for _ in pool.map(self._shard, {f.filename for f in self._files}):
        pass

  def _shard(self, path):
    shard = self._shards.get(path)
    if shard is None:
      shard = self._open_shard(path)
      with self._lock:  # If another thread was first, its shard is kept.
        shard = self._shards.setdefault(path, shard)
    return shard


def _allow_open_files(num):
  """Datasets have a thousand shards, which is the usual limit of processes."""
  try:
    import resource
  except ImportError:  # Not on Windows.
    return
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = soft + num
  if hard != resource.RLIM_INFINITY:
    wanted = min(wanted, hard)
  if soft != resource.RLIM_INFINITY and wanted > soft:
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _ArrayRecord:
  """Reads a shard in the format array_record."""

  def __init__(self, path):
    from array_record.python import array_record_module

    # Nothing is read ahead: the next record is somewhere else.
    self._path = path
    try:
      self._reader = array_record_module.ArrayRecordReader(
        path, options="readahead_buffer_size:0", file_reader_buffer_size=1 << 15
      )
    except (RuntimeError, ValueError, IndexError) as e:
      raise ValueError(f"The shard {path} is damaged: {e}. {_REMEDY}") from e

  def __len__(self):
    return self._reader.num_records()

  def __getitem__(self, position):
    try:
      return self._reader.read([position])[0]
    except (RuntimeError, ValueError, IndexError) as e:
      raise ValueError(
        f"Record {position} of {self._path} is damaged: {e}. {_REMEDY}"
      ) from e


class _TFRecord:
  """Reads a shard in the format TFRecord.

  Args:
    path: str.
    bounds: [N + 1] int64, where the records begin, and the size of the file.
  """

  def __init__(self, path, bounds):
    self._path = path
    self._bounds = bounds
    self._file = open(path, "rb", buffering=0) if fs.is_local(path) else None  # noqa: SIM115

  def __len__(self):
    return len(self._bounds) - 1

  def __getitem__(self, position):
    begin, end = (int(b) for b in self._bounds[position : position + 2])
    record = self._read(begin, end - begin)
    if not _has_length(record, len(record)):
      raise ValueError(
        f"{self._path} does not fit its index at record {position}: it was "
        f"changed or is damaged. Make {INDEX_FILE} anew with "
        "big_vision.tools.convert_dataset."
      )
    data = record[_HEAD:-_TAIL]
    checksums = struct.pack(
      "<II", _length_checksum(record[:8]), masked_crc32c(data)
    )
    if checksums != record[8:_HEAD] + record[-_TAIL:]:
      raise ValueError(
        f"Record {position} of {self._path} is damaged: it does not match its "
        f"checksum. {_REMEDY}"
      )
    return data

  def _read(self, begin, length):
    if self._file is not None:
      fd = self._file.fileno()
      length = min(length, os.fstat(fd).st_size)  # The index may be wrong.
      return os.pread(fd, length, begin)
    return fs.read_range(self._path, begin, length)


def _has_length(record, size):
  """Tells whether a record begins with its length, `size` in all."""
  if size < _HEAD + _TAIL:
    return False
  return struct.unpack_from("<Q", record)[0] == size - _HEAD - _TAIL


def _stored_index(data_path):
  """dict of shard name -> bounds, or None if there is no index."""
  path = fs.join(data_path, INDEX_FILE)
  if not fs.exists(path):
    return None
  try:
    index: Any = checkpoint_npz.npload(path)
    for name, bounds in index.items():
      if (
        bounds.ndim != 1
        or bounds.dtype != np.int64
        or np.any(np.diff(bounds) < 0)
        or not len(bounds)
        or bounds[0] < 0
      ):
        raise ValueError(f"{name!r} are not positions of records")
    return index
  except (OSError, ValueError, AttributeError) as e:
    raise ConfigError(
      f"The index {path} cannot be read ({e}). Delete it, or make it anew with "
      "big_vision.tools.convert_dataset."
    ) from e


def _indexed(index, path):
  name = os.path.basename(path)
  if name not in index:
    raise ValueError(
      f"{INDEX_FILE} knows nothing of {path}; make it anew with "
      "big_vision.tools.convert_dataset."
    )
  return _TFRecord(path, index[name])


def _scanned(path):
  stat = os.stat(path) if fs.is_local(path) else None
  stamp = (stat.st_size, stat.st_mtime_ns) if stat else None
  return _TFRecord(path, _bounds(path, stamp))


@functools.lru_cache(4096)
def _bounds(path, stamp):
  del stamp  # Tells files of one name apart.
  return record_bounds(path)


def record_bounds(path: str) -> np.ndarray:
  """Finds out where the records of a TFRecord file begin.

  Args:
    path: remote files are read as a whole.

  Returns:
    [N + 1] int64 array, the last entry is the size of the file.

  Raises:
    ValueError: the file is cut off or no TFRecord file.
  """
  if not fs.is_local(path):
    with fs.open(path, "rb") as f:
      return _bounds_of(f.read(), path)
  with open(path, "rb") as f:
    if not os.fstat(f.fileno()).st_size:
      return np.zeros([1], np.int64)
    with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
      # Only the heads are looked at: do not load what is between.
      if hasattr(mmap, "MADV_RANDOM"):
        data.madvise(mmap.MADV_RANDOM)
      return _bounds_of(data, path)


def _checksum(data, position):
  return struct.unpack_from("<I", data, position)[0]


def _bounds_of(data, path):
  length_at = struct.Struct("<Q").unpack_from
  bounds, begin, size = [], 0, len(data)
  while begin + _HEAD <= size:
    bounds.append(begin)
    begin += _HEAD + length_at(data, begin)[0] + _TAIL
  if begin != size:
    # A damaged length leads astray: which is the first?
    is_bad = lambda b: masked_crc32c(data[b : b + 8]) != _checksum(data, b + 8)
    number = next(
      (i for i, b in enumerate(bounds) if is_bad(b)), len(bounds) - 1
    )
    raise ValueError(
      f"The shard {path} is cut off or damaged in record {max(number, 0)}. "
      f"{_REMEDY}"
    )
  return np.array([*bounds, size], np.int64)
