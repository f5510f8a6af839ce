"""TensorFlow Datasets as a data source."""

import functools
import importlib
import os
import re

import jax
import tensorflow_datasets as tfds
from absl import logging

from big_vision import lookup
from big_vision.datasets import embedded, ids, python_reader, records, source
from big_vision.tf import tf


class DataSource(python_reader.Reader, source.DataSource):
  """A dataset that TFDS has prepared on disk.

  Args:
    name: str, TFDS name as in "imagenet2012" or "coco_captions/2014:1.1.0"; or
      "from_data_dir": the one dataset whose files are in `data_dir`.
    split: str, any TFDS split, for example "train[:99%]".
    data_dir: str, the TFDS folder; None means $TFDS_DATA_DIR, else
      ~/tensorflow_datasets.
    skip_decode: names of features that stay encoded bytes.
    random_access: bool, whether training reads examples by number: shuffled as
      a whole without a buffer, resumed at once. None: if the files allow it
      without much preparation, see `records.open_split`.

  Raises:
    ValueError: unknown or unprepared dataset, or no such split.
  """

  def __init__(
    self,
    name,
    split,
    data_dir=None,
    skip_decode=("image",),
    random_access=None,
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
  def random_access(self):
    return self._records is not None

  @property
  def bytes_per_example(self):
    splits = self.builder.info.splits.values()
    num = sum(s.num_examples for s in splits)
    return sum(s.num_bytes for s in splits) / num if num else None

  # For `read`, which needs `random_access`: a serialised example, its TFDS id.
  specs = (tf.TensorSpec([], tf.string),) * 2

  def read_python(self, index):
    """See `python_reader.Reader`."""
    return self._records[index]

  def complete(self, index, fetched):
    """See `python_reader.Reader`."""
    record, tfds_id = python_reader.unpack(fetched)
    features = self.builder.info.features
    example = features.deserialize_example(record, decoders=self._decoders())
    return _add_id({**example, "tfds_id": tfds_id})

  def get_tfdata(
    self, ordered=False, *, process_split=True, allow_cache=True, **kw
  ):
    """The raw examples, with `tfds_id` and its hash `_id` (int32 scalar).

    Args:
      ordered: bool, file order; otherwise files are shuffled.
      process_split: bool, only this process' part.
      allow_cache: bool, keep the dataset object for the next call.
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

  def training_order(self, order_seed=None, **kw):
    """See the base class: with a seed, the order of the files is shuffled."""
    if order_seed is None:
      return self._open(self.split, shuffle_files=False, **kw), None
    kw = {"shuffle_seed": order_seed, **kw}  # The config may fix it.
    return self._open(self.split, shuffle_files=True, **kw), None

  @property
  def total_examples(self):
    return self.builder.info.splits[self.split].num_examples

  def num_examples_per_process(self):
    splits = self.builder.info.splits
    return [splits[s].num_examples for s in self._process_splits()]

  def _process_splits(self):
    return tfds.even_splits(self.split, jax.process_count())

  def _decoders(self):
    """What TFDS is told about features that are not to be decoded."""
    skip = {
      k: tfds.decode.SkipDecoding()
      for k in self._skip_decode
      if k in self.builder.info.features
    }
    return skip or None

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
    # AutoGraph, active while epochs are opened, can not handle TFDS.
    as_dataset = tf.autograph.experimental.do_not_convert(
      self.builder.as_dataset
    )
    ds = as_dataset(
      split=split,
      shuffle_files=shuffle_files,
      read_config=read_config,
      decoders=self._decoders(),
    )
    return ds.map(_add_id, num_parallel_calls=tf.data.AUTOTUNE)


def _add_id(example):
  return {**example, "_id": ids.hash_id(example["tfds_id"])}


def get_builder(name, data_dir=None, key="input.data.name"):
  """The builder of a dataset that is prepared on disk.

  The datasets of `embedded.NAMES` are prepared if need be: they take seconds
  and download nothing.

  Args:
    name: str, as in `DataSource`.
    data_dir: str or None, the TFDS folder.
    key: str, the config key that holds the name, for the error.

  Returns:
    A TFDS builder.

  Raises:
    ValueError: unknown or unprepared dataset; says how to prepare it.
  """
  return _get_builder(name, data_dir and os.fspath(data_dir), key)


@functools.cache
def _get_builder(name, data_dir, key):
  if name == "from_data_dir":
    if not data_dir:
      raise ValueError(
        "input.data.name='from_data_dir' needs input.data.data_dir, the folder "
        "with the dataset's files (it has a dataset_info.json)."
      )
    return tfds.builder_from_directory(data_dir)
  base = re.split("[/:]", name)[0]
  try:
    if base in embedded.NAMES:
      return _embedded_builder(name, base, data_dir)
    builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
  except tfds.core.DatasetNotFoundError as e:
    hint = lookup.did_you_mean(base, [*tfds.list_builders(), *embedded.NAMES])
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


def clear_cache():
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


def check_split(builder, split, key="input.data.split"):
  """Raises ValueError naming the nearest splits if `split` does not exist."""
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
