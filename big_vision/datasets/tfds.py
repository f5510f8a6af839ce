"""TensorFlow Datasets as a data source."""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from big_vision import lookup
from big_vision.datasets import (
  bad_examples,
  building,
  embedded,
  python_reader,
  records,
  source,
  tfds_files,
)
from big_vision.datasets.classes import Classes
from big_vision.datasets.ids import hash_id
from big_vision.pp import decoding
from big_vision.tf import plain, tf


class DataSource(python_reader.Reader, source.DataSource):
  """Reads a dataset that TFDS has prepared on disk.

  Args:
    name: TFDS name as in "imagenet2012" or "coco_captions/2014:1.1.0"; or
      "from_data_dir": the one dataset whose files are in `data_dir`.
    split: any TFDS split, for example "train[:99%]".
    data_dir: the TFDS folder; None means $TFDS_DATA_DIR, else
      ~/tensorflow_datasets.
    skip_decode: names of features that stay encoded bytes.
    random_access: whether training reads examples by number: shuffled as
      a whole without a buffer, resumed at once. None: if the files allow it
      without much preparation, see `records.open_split`.

  Raises:
    ValueError: unknown or unprepared dataset, or no such split.
  """

  def __init__(
    self,
    name: str,
    split: str,
    data_dir: str | None = None,
    skip_decode: Sequence[str] = ("image",),
    random_access: bool | None = None,
  ):
    self.builder = get_builder(name, embedded.default_data_dir(data_dir))
    check_split(self.builder, split)
    self.split = split
    self._skip_decode = tuple(skip_decode)
    self._random_access = random_access
    self._datasets = {}

  @functools.cached_property
  def _records(self):
    """Opened on first use: what is only read in order does not need it."""
    return records.open_split(self.builder, self.split, self._random_access)

  @property
  def random_access(self) -> bool:
    return self._records is not None

  @property
  def bytes_per_example(self) -> float | None:
    splits = self.builder.info.splits.values()
    num = sum(s.num_examples for s in splits)
    return sum(s.num_bytes for s in splits) / num if num else None

  @property
  def specs(self) -> Sequence[tf.TensorSpec]:
    """See `python_reader.Reader`: a serialized example, its TFDS id."""
    return [tf.TensorSpec([], tf.string)] * 2

  def read_python(self, index: int) -> list[Any]:
    """See `python_reader.Reader`."""
    return self._records[index]

  @plain
  def complete(
    self, index: tf.Tensor, fetched: Sequence[tf.Tensor]
  ) -> source.Example:
    """See `python_reader.Reader`."""
    record, tfds_id = python_reader.unpack(fetched)
    features = self.builder.info.features
    example = features.deserialize_example(record, decoders=self._decoders())
    return self._finish({**example, "tfds_id": tfds_id})

  def classes_of(self, feature: str) -> Classes | None:
    """See the base class: what TFDS says about the feature."""
    return classes_of(self.builder, feature)

  def find_damage(self) -> str | None:
    """See the base class."""
    return records.find_damage(self.builder, self.split)

  def example_spec(self) -> Any:
    """See the base class; opens no file."""
    spec = example_spec(self.builder, tuple(self._skip_decode))
    text = tf.TensorSpec([], tf.string)
    return {**spec, "tfds_id": text, "_id": tf.TensorSpec([], tf.int32)}

  def get_tfdata(
    self,
    ordered: bool = False,
    *,
    process_split: bool = True,
    allow_cache: bool = True,
    **kw: Any,
  ) -> tf.data.Dataset:
    """Opens the raw examples, with `tfds_id` and its hash `_id` (int32 scalar).

    Args:
      ordered: file order; otherwise files are shuffled.
      process_split: only this process' part.
      allow_cache: keep the dataset object for the next call.
      **kw: further fields of `tfds.ReadConfig`.

    Returns:
      tf.data.Dataset of dicts of tensors.
    """
    if self.builder.info.file_format not in tfds.core.FileFormat.with_tf_data():
      return source.by_index(self, ordered, process_split)
    split = self.split
    if process_split:
      split = self._process_splits()[jax.process_index()]
    key = (ordered, process_split, repr(sorted(kw.items())))
    if allow_cache and key in self._datasets:
      return self._datasets[key]
    ds = self._open(split, shuffle_files=not ordered, **kw)
    if allow_cache:
      self._datasets[key] = ds
    return ds

  def training_order(
    self, order_seed: tf.Tensor | None = None, **kw: Any
  ) -> tuple[tf.data.Dataset, None]:
    """See the base class: with a seed, the order of the files is shuffled."""
    if order_seed is None:
      return self._open(self.split, shuffle_files=False, **kw), None
    kw = {"shuffle_seed": order_seed, **kw}  # The config may fix it.
    return self._open(self.split, shuffle_files=True, **kw), None

  @property
  def total_examples(self) -> int:
    return self.builder.info.splits[self.split].num_examples

  def num_examples_per_process(self) -> list[int]:
    splits = self.builder.info.splits
    return [splits[s].num_examples for s in self._process_splits()]

  def _process_splits(self):
    return tfds.even_splits(self.split, jax.process_count())

  def _decoders(self):
    return _decoders(self.builder, self._skip_decode)

  def _open(self, split, shuffle_files, **kw):
    """Opens a split; the read config's own options come last."""
    # The order must not depend on how fast files are read.
    options = tf.data.Options().merge(
      kw.pop("options", None) or tf.data.Options()
    )
    options.deterministic = True
    read_config = tfds.ReadConfig(
      **{
        "skip_prefetch": True,  # The input pipeline prefetches batches.
        "try_autocache": False,  # Examples are cached by `cache_raw` only.
        "add_tfds_id": True,
        "options": options,
        **kw,
      }
    )
    # AutoGraph, active while epochs are opened, cannot handle TFDS.
    as_dataset = tf.autograph.experimental.do_not_convert(
      self.builder.as_dataset
    )
    ds = as_dataset(
      split=split,
      shuffle_files=shuffle_files,
      read_config=read_config,
      decoders=self._decoders(),
    )
    return ds.map(self._finish, num_parallel_calls=tf.data.AUTOTUNE)

  @plain
  def _finish(self, example):
    """Checks the labels of a raw example and adds `_id`."""
    for name, feature in self.builder.info.features.items():
      is_label = isinstance(feature, tfds.features.ClassLabel)
      if is_label and feature.num_classes and name in example:
        # -1 is TFDS' label of examples without one.
        example = bad_examples.check_label(
          example, name, feature.num_classes, example.get("tfds_id", ""), -1
        )
    return {**example, "_id": hash_id(example["tfds_id"])}


def _decoders(builder, skip_decode):
  """Tells TFDS how to decode images, and what is not to be decoded."""
  features = builder.info.features
  decoders = {
    k: _decode_image()
    for k, feature in features.items()
    if type(feature) is tfds.features.Image
    and feature.np_dtype == np.uint8
    and len(feature.shape) == 3
  }
  skip = {k: tfds.decode.SkipDecoding() for k in skip_decode if k in features}
  return {**decoders, **skip} or None


@tfds.decode.make_decoder()
def _decode_image(data, feature):
  """Decodes an image as the op `decode` does: with its limit of pixels."""
  image = decoding.Decoder(channels=feature.shape[-1])(data)
  return tf.ensure_shape(image, feature.shape)


def classes_of(
  builder: tfds.core.DatasetBuilder, feature: str
) -> Classes | None:
  """Finds the classes of a feature; the dataset need not be prepared.

  Args:
    builder: of the dataset.
    feature: its name; of nested ones a path, "objects/label".

  Returns:
    The classes; None if it is not a ClassLabel.
  """
  found: Any = builder.info.features
  for name in feature.split("/"):
    found = getattr(found, "feature", found)  # Of a sequence.
    if not hasattr(found, "keys") or name not in found:
      return None
    found = found[name]
  found = getattr(found, "feature", found)
  if not isinstance(found, tfds.features.ClassLabel) or not found.num_classes:
    return None
  return Classes(found.num_classes, tuple(found.names))


@functools.lru_cache(16)
def example_spec(
  builder: tfds.core.DatasetBuilder, skip_decode: tuple[str, ...] = ("image",)
) -> Any:
  """Describes a raw example; the dataset need not be prepared.

  Args:
    builder: of the dataset.
    skip_decode: names of features that stay encoded bytes.

  Returns:
    Nested dict of `tf.TypeSpec`.
  """
  features, decoders = builder.info.features, _decoders(builder, skip_decode)
  read = tf.autograph.experimental.do_not_convert(
    lambda record: features.deserialize_example(record, decoders=decoders)
  )
  return tf.data.Dataset.from_tensors("").map(read).element_spec


def get_builder(
  name: str, data_dir: str | None = None, key: str = "input.data.name"
) -> tfds.core.DatasetBuilder:
  """Opens a dataset that is prepared on disk.

  The datasets of `embedded.NAMES` are prepared if need be: they take seconds
  and download nothing.

  Args:
    name: as in `DataSource`.
    data_dir: the TFDS folder; None is that of `embedded.default_data_dir`.
    key: the config key that holds the name, for the error.

  Returns:
    A TFDS builder.

  Raises:
    ValueError: unknown or unprepared dataset; says how to prepare it.
  """
  data_dir = data_dir and os.fspath(data_dir)
  if name != "from_data_dir":  # Which has no default.
    data_dir = embedded.default_data_dir(data_dir)
  return _get_builder(name, data_dir, key)


@functools.cache
def _get_builder(name, data_dir, key):
  if name == "from_data_dir":
    if not data_dir:
      raise ValueError(
        "input.data.name='from_data_dir' needs input.data.data_dir, the folder "
        "with the dataset's files (it has a dataset_info.json)."
      )
    tfds_files.check(data_dir)
    try:
      return tfds.builder_from_directory(data_dir)
    except Exception as e:  # Damaged files get to protos, classes and shapes.
      raise lookup.ConfigError(
        f"config.{key}: TFDS cannot read {data_dir}: {type(e).__name__}: "
        f"{e!s:.500}"
      ) from e
  base = re.split("[/:]", name)[0]
  tfds_files.check_all(data_dir, base)
  try:
    if base in embedded.NAMES:
      return _embedded_builder(name, base, data_dir)
    builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
  except tfds.core.DatasetNotFoundError as e:
    if base in building.MODULES:
      raise ValueError(
        f"config.{key}: the dataset {name!r} is not prepared in "
        f"{_folder(data_dir)}. What to download for it, and to prepare it: "
        f"python -m big_vision.tools.prepare {name}"
      ) from e
    known = [*tfds.list_builders(), *embedded.NAMES, *building.MODULES]
    hint = lookup.did_you_mean(base, known)
    raise ValueError(
      f"config.{key}: no dataset {name!r}, neither prepared in "
      f"{_folder(data_dir)} nor known to TFDS{hint} Prepare datasets with: "
      "python -m big_vision.tools.download_tfds_datasets NAME (`digits` and "
      "`shapes` are prepared automatically), or set data_dir."
    ) from e
  if not builder.info.splits:
    raise ValueError(
      f"config.{key}: the dataset {name!r} is not prepared in "
      f"{_folder(data_dir)}. Prepare it with: python -m "
      f"big_vision.tools.download_tfds_datasets {name}, or set data_dir or "
      "TFDS_DATA_DIR to where it is (`digits` and `shapes` are prepared "
      "automatically)."
    )
  return builder


def clear_cache() -> None:
  """Forgets the builders: the files of datasets have changed."""
  _get_builder.cache_clear()


def _embedded_builder(name, base, data_dir):
  """Opens a prepared copy, whoever made it; makes one if there is none."""
  from tensorflow_datasets.core import read_only_builder  # Slow to import.

  # Without the registry: another class of this name may be registered.
  open_copy = functools.partial(
    read_only_builder.builder_from_files, name, data_dir=data_dir
  )
  try:
    return open_copy()
  except tfds.core.DatasetNotFoundError:
    logging.info("Preparing the dataset %s in %s", base, _folder(data_dir))
    config = re.match("[^/:]+/([^:]+)", name)  # As in "shapes/tiny:1.0.0".
    kw = {"config": config.group(1)} if config else {}
    module = importlib.import_module(embedded.MODULES[base])
    module.prepare(data_dir, **kw)
    return open_copy()


def _folder(data_dir):
  return data_dir or "~/tensorflow_datasets"


def check_split(
  builder: tfds.core.DatasetBuilder, split: str, key: str = "input.data.split"
) -> None:
  """Checks that a split exists and has examples.

  Args:
    builder: of the dataset.
    split: any TFDS split.
    key: the config key that holds it, for the error.

  Raises:
    ValueError: it does not; names the nearest splits.
  """
  known = list(builder.info.splits)
  for part in split.split("+"):
    name = part.strip().split("[")[0]
    if name not in known and name != "all":
      raise lookup.unknown(f"split of {builder.name}", name, known, key)
  try:
    num_examples = builder.info.splits[split].num_examples
  except (ValueError, KeyError, AssertionError) as e:
    raise ValueError(f"config.{key}: bad split {split!r}: {e}") from e
  if not num_examples:
    raise ValueError(f"config.{key}: the split {split!r} has no examples.")
