"""Gives prepared TFDS datasets random access; see `tools/convert_dataset.py`."""

import concurrent.futures
import os

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
  # Not through the cache: what is written here changes what is opened later.
  data_dir = embedded.default_data_dir(data_dir)
  builder = bv_tfds.get_builder(name, data_dir, "NAME")
  folder = os.fspath(builder.data_path)
  builder = tfds.builder_from_directory(folder)
  if builder.info.file_format.value != _TFRECORD:
    raise ValueError(
      f"{name}: the files in {folder} have the format "
      f"{builder.info.file_format.value}; only tfrecord can be converted."
    )
  shards = [
    (f.filename, f.examples_in_shard)
    for split in builder.info.splits.values()
    for f in split.file_instructions
  ]
  with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
    if to == "index":
      _write_index(folder, list(pool.map(lambda s: _index_of(*s), shards)))
    else:
      for i, _ in enumerate(pool.map(lambda s: _copy(*s), shards), start=1):
        logging.info("%s: %d of %d shards", name, i, len(shards))
      _announce(builder, folder, replace)
  if replace:
    for path, _ in shards:
      fs.remove(path)
  bv_tfds.clear_cache()
  return folder


def _index_of(path, num_examples):
  """Returns the name of a shard and the bounds of its records."""
  _check_exists(path)
  bounds = records.record_bounds(path)
  _check_count(path, len(bounds) - 1, num_examples)
  return os.path.basename(path), bounds


def _write_index(folder, shards):
  path = fs.join(folder, records.INDEX_FILE)
  with fs.open(path + ".part", "wb") as f:
    np.savez(f, **dict(shards))
  fs.rename(path + ".part", path)


def _copy(path, num_examples):
  """Writes the shard again as array_record, unless that file exists."""
  from array_record.python import array_record_module

  _check_exists(path)
  out = records.path_in_format(path, tfds.core.FileFormat(_ARRAY_RECORD))
  if fs.exists(out):
    return
  if not fs.is_local(out):
    raise ValueError(
      f"{out}: array_record files are written locally only; use --format=index, "
      "or convert a local copy."
    )
  # Group size 1: each record can be read without its neighbors.
  writer = array_record_module.ArrayRecordWriter(out + ".part", "group_size:1")
  num = 0
  for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
    writer.write(record)
    num += 1
  writer.close()
  _check_count(path, num, num_examples)
  fs.rename(out + ".part", out)


def _announce(builder, folder, replace):
  """Tells TFDS (in dataset_info.json) about the new files."""
  proto = builder.info.as_proto
  formats = set(proto.alternative_file_formats) | {_ARRAY_RECORD}
  if replace:
    proto.file_format = _ARRAY_RECORD
    formats.discard(_ARRAY_RECORD)
  proto.alternative_file_formats[:] = sorted(formats)
  builder.info.write_dataset_info_json(folder)


def _check_exists(path):
  if not fs.exists(path):
    raise ValueError(f"The shard {path} is missing.")


def _check_count(path, num, expected):
  if num != expected:
    raise ValueError(
      f"The shard {path} has {num} examples, dataset_info.json says {expected}. "
      "Copy or prepare the dataset anew."
    )
