"""Copies of prepared TFDS datasets with smaller images; see
`tools/convert_dataset.py`.

The copy has the same name, splits, shards and order of examples, so that the
same config reads it, from another folder, and draws the same random numbers.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

from absl import logging

from big_vision import fs, lookup
from big_vision.datasets import conversion, embedded, records
from big_vision.datasets import tfds as bv_tfds
from big_vision.lookup import ConfigError
from big_vision.pp import decoding, raw_images, resizing
from big_vision.tf import tf, tfds

STORES = ("raw", "jpeg")
_ABOUT = "resized.json"  # What was asked for, beside the shards.
_AT_ONCE = 8  # Images in work for each shard.


@dataclasses.dataclass(frozen=True)
class Resizing:
  """Makes images smaller, and says how they are stored.

  Attributes:
    size: pixels of the shorter side; smaller images stay as they are.
    store: "raw" for plain pixels, see `raw_images`; "jpeg".
    quality: of JPEG, 1 to 100.
    feature: entry of examples with the image.
  """

  size: int
  store: str = "raw"
  quality: int = 95
  feature: str = "image"

  def __call__(self, data: tf.Tensor) -> tf.Tensor:
    """Makes the new file of an image.

    Args:
      data: string scalar, any format that `decode` reads.

    Returns:
      String scalar.
    """
    image = decoding.Decoder()(data)
    sides = tf.shape(image)[:2]
    shorter = tf.reduce_min(sides)
    scale = tf.minimum(self.size / shorter, 1.0)
    new = tf.cast(tf.round(tf.cast(sides, tf.float64) * scale), tf.int32)
    # "area" takes the mean of what becomes a pixel.
    image = resizing.resize(image, new, "area", antialias=False)
    if self.store == "raw":
      return raw_images.encode_tensor(image)
    return tf.io.encode_jpeg(
      image, "rgb", self.quality, chroma_downsampling=False
    )


def write(
  name: str,
  resize: Resizing,
  out: str,
  *,
  to: str = "index",
  data_dir: str | None = None,
  num_workers: int = 1,
) -> str:
  """Writes the copy of a dataset.

  Args:
    name: TFDS name.
    resize: what becomes of images.
    out: TFDS folder for the copy; shards that are there already stay.
    to: "index" for TFRecord files with an index, or "array_record".
    data_dir: TFDS folder of the dataset.
    num_workers: shards at a time.

  Returns:
    Path of the folder with the files.

  Raises:
    ConfigError: `out` has the dataset itself, or another copy of it.
    ValueError: the dataset is not prepared, not in TFRecord files, or has no such
      feature.
  """
  data_dir = embedded.default_data_dir(data_dir)
  builder, folder = conversion.open_tfrecord(name, data_dir)
  if resize.feature not in builder.info.features:
    raise lookup.unknown(
      f"feature of {name}", resize.feature, builder.info.features, "--feature"
    )
  new = fs.join(out, *builder.info.full_name.split("/"))
  _begin(folder, new, dataclasses.asdict(resize))
  shards = [
    (split.name, f.filename, f.examples_in_shard)
    for split in builder.info.splits.values()
    for f in split.file_instructions
  ]
  file_format = tfds.core.FileFormat(
    "array_record" if to != "index" else "tfrecord"
  )
  path_of = lambda path: fs.join(
    new, os.path.basename(records.path_in_format(path, file_format))
  )

  def copy(shard):
    _, path, num = shard
    _copy(path, path_of(path), num, resize, to)

  with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
    for i, _ in enumerate(pool.map(copy, shards), start=1):
      logging.info("%s: %d of %d shards", name, i, len(shards))
  sizes: dict[str, int] = {}
  for split, path, _ in shards:
    sizes[split] = sizes.get(split, 0) + os.path.getsize(path_of(path))
  if to == "index":
    written = [(path_of(path), num) for _, path, num in shards]
    conversion.write_index(new, written, num_workers)
  _describe(builder, folder, new, sizes, file_format)
  bv_tfds.clear_cache()
  return new


def _begin(folder, new, about):
  """Makes the folder; refuses one that has something else."""
  if fs.exists(new) and not fs.exists(fs.join(new, _ABOUT)):
    raise ConfigError(
      f"--out: {new} exists, and is no resized copy: choose another folder."
    )
  fs.makedirs(new)
  path = fs.join(new, _ABOUT)
  if fs.exists(path):
    with fs.open(path) as f:
      found = json.load(f)
    if found != about:
      raise ConfigError(
        f"--out: {new} was made with {found}, not {about}: choose another folder."
      )
    return
  with fs.open(path, "w") as f:
    json.dump(about, f)


def _copy(path, out, num_examples, resize, to):
  """Writes one shard, unless that file exists."""
  conversion.check_exists(path)
  if fs.exists(out):
    return
  num = 0
  # Pixels do not get smaller by compression worth its time.
  with conversion.writer_of_shard(out, to, ",uncompressed") as write_record:
    try:
      for record in _converted(path, resize):
        write_record(record)
        num += 1
    except tf.errors.InvalidArgumentError as e:
      raise ValueError(f"{path}, record {num}: {e.message}") from e
    conversion.check_count(path, num, num_examples)


def _converted(path: str, resize: Resizing) -> Iterator[bytes]:
  """Yields the records of a shard with new images."""
  spec = {resize.feature: tf.io.FixedLenFeature([], tf.string)}

  def convert(record):
    data = tf.io.parse_single_example(record, spec)[resize.feature]
    return record, resize(data)

  ds = tf.data.TFRecordDataset(path).map(convert, _AT_ONCE, deterministic=True)
  for record, image in ds.as_numpy_iterator():
    example = tf.train.Example.FromString(record)
    example.features.feature[resize.feature].bytes_list.value[:] = [image]
    yield example.SerializeToString()


def _describe(builder: Any, folder, new, sizes, file_format) -> None:
  """Writes what TFDS wants to know, last: before, there is no dataset."""
  proto = builder.info.as_proto
  for split in proto.splits:
    split.num_bytes = sizes[split.name]
  proto.file_format = file_format.value
  del proto.alternative_file_formats[:]
  for path in fs.glob(fs.join(folder, "*")):
    file = os.path.basename(path)
    if file.endswith((".json", ".txt")) and file != "dataset_info.json":
      with (
        fs.open(path, "rb") as source,
        fs.open(fs.join(new, file), "wb") as f,
      ):
        f.write(source.read())
  builder.info.write_dataset_info_json(new)
