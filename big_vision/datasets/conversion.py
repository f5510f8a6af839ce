"""Gives prepared TFDS datasets random access; see `tools/convert_dataset.py`."""

import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from big_vision import fs
from big_vision.datasets import embedded, records
from big_vision.datasets import tfds as bv_tfds
from big_vision.tf import tf, tfds

# Names of formats in TFDS.
_ARRAY_RECORD, _TFRECORD = "array_record", "tfrecord"


def convert(
  name: str,
  to: str,
  *,
  data_dir: str | None = None,
  replace: bool = False,
  num_workers: int = 1,
) -> str:
  """Converts all splits of a dataset.

  Args:
    name: TFDS name.
    to: "index" or "array_record".
    data_dir: the TFDS folder.
    replace: whether to delete the TFRecord files; not for "index", which
      needs them.
    num_workers: shards at a time.

  Returns:
    Path of the folder with the files.

  Raises:
    ValueError: the dataset is not prepared or not in TFRecord files, a shard is
      missing or damaged.
  """
  if replace and to == "index":
    raise ValueError("--replace: the index is one of the TFRecord files.")
  builder, folder = open_tfrecord(name, embedded.default_data_dir(data_dir))
  shards = [
    (f.filename, f.examples_in_shard)
    for split in builder.info.splits.values()
    for f in split.file_instructions
  ]
  if to == "index":
    write_index(folder, shards, num_workers)
  else:
    with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
      for i, _ in enumerate(pool.map(lambda s: _copy(*s), shards), start=1):
        logging.info("%s: %d of %d shards", name, i, len(shards))
    _announce(builder, folder, replace)
  if replace:
    for path, _ in shards:
      fs.remove(path)
  bv_tfds.clear_cache()
  return folder


def open_tfrecord(name: str, data_dir: str | None) -> tuple[Any, str]:
  """Opens a dataset that can be converted.

  Args:
    name: TFDS name.
    data_dir: the TFDS folder.

  Returns:
    (TFDS builder, folder with the files).

  Raises:
    ValueError: it is not prepared, or not in TFRecord files.
  """
  # Not through the cache: what is written here changes what is opened later.
  builder = bv_tfds.get_builder(name, data_dir, "NAME")
  folder = os.fspath(builder.data_path)
  builder = tfds.builder_from_directory(folder)
  if builder.info.file_format.value != _TFRECORD:
    raise ValueError(
      f"{name}: the files in {folder} have the format "
      f"{builder.info.file_format.value}; only tfrecord can be converted."
    )
  return builder, folder


def _index_of(path, num_examples):
  """Returns the name of a shard and the bounds of its records."""
  check_exists(path)
  bounds = records.record_bounds(path)
  check_count(path, len(bounds) - 1, num_examples)
  return os.path.basename(path), bounds


def write_index(
  folder: str, shards: Sequence[tuple[str, int]], num_workers: int
) -> None:
  """Writes the index of TFRecord files, which gives them random access.

  Args:
    folder: for the index.
    shards: path and number of examples of each.
    num_workers: shards at a time.

  Raises:
    ValueError: a shard is missing or damaged.
  """
  with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
    bounds = dict(pool.map(lambda s: _index_of(*s), shards))
  path = fs.join(folder, records.INDEX_FILE)
  with fs.open(path + ".part", "wb") as f:
    np.savez(f, **bounds)
  fs.rename(path + ".part", path)


@contextlib.contextmanager
def writer_of_shard(
  path: str, to: str, options: str = ""
) -> Iterator[Callable[[bytes], Any]]:
  """Opens a shard to write, which has its name when all is written.

  Args:
    path: of the shard; what exists stays as it is.
    to: "index" for TFRecord, or "array_record".
    options: further ones of array_record.

  Yields:
    What writes a record.

  Raises:
    ValueError: the path is not local.
  """
  if not fs.is_local(path):
    raise ValueError(
      f"{path}: {'array_record' if to == _ARRAY_RECORD else 'resized'} files are "
      "written locally only; use --format=index, or convert a local copy."
    )
  if to == _ARRAY_RECORD:
    from array_record.python import array_record_module

    # Group size 1: each record can be read without its neighbors.
    writer = array_record_module.ArrayRecordWriter(
      path + ".part", f"group_size:1{options}"
    )
  else:
    writer = tf.io.TFRecordWriter(path + ".part")
  yield writer.write
  writer.close()
  fs.rename(path + ".part", path)


def _copy(path, num_examples):
  """Writes the shard again as array_record, unless that file exists."""
  check_exists(path)
  out = records.path_in_format(path, tfds.core.FileFormat(_ARRAY_RECORD))
  if fs.exists(out):
    return
  num = 0
  with writer_of_shard(out, _ARRAY_RECORD) as write:
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
      write(record)
      num += 1
    check_count(path, num, num_examples)


def _announce(builder, folder, replace):
  """Tells TFDS (in dataset_info.json) about the new files."""
  proto = builder.info.as_proto
  formats = set(proto.alternative_file_formats) | {_ARRAY_RECORD}
  if replace:
    proto.file_format = _ARRAY_RECORD
    formats.discard(_ARRAY_RECORD)
  proto.alternative_file_formats[:] = sorted(formats)
  builder.info.write_dataset_info_json(folder)


def check_exists(path: str) -> None:
  """Raises ValueError for a shard that is missing."""
  if not fs.exists(path):
    raise ValueError(f"The shard {path} is missing.")


def check_count(path: str, num: int, expected: int) -> None:
  """Raises ValueError for a shard with another number of examples."""
  if num != expected:
    raise ValueError(
      f"The shard {path} has {num} examples, dataset_info.json says {expected}. "
      "Copy or prepare the dataset anew."
    )
