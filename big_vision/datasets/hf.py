"""Datasets of the Hugging Face library as a data source.

Local folders of Arrow or Parquet files, or a dataset of the hub. Rows are read
from memory-mapped Arrow files, one by one; images stay encoded.
"""

import functools
import itertools
from collections.abc import Mapping

import numpy as np
from absl import logging

from big_vision import lookup
from big_vision.datasets import (
  bad_examples,
  core,
  hf_files,
  hf_types,
  python_reader,
  slices,
  tfds,
)
from big_vision.tf import tf


class DataSource(python_reader.Reader, core.IndexedDataSource):
  """The rows of a dataset, in their order. Needs the package `datasets`.

  Args:
    path: str, a folder that `save_to_disk` wrote; a folder, files or a glob of
      Parquet or Arrow files; else what `datasets.load_dataset` takes: "org/name"
      of the hub, a local folder of another kind.
    split: str, with slices as in TFDS, "train[:90%]+validation". For files that
      begin with the name of the split, or are in a folder of that name. None:
      all, if there is one split only.
    config: str, name of the configuration, for `load_dataset`.
    revision: str, of the hub, for `load_dataset`.
    features: dict of feature -> column ("image" -> "img"); columns of a struct
      are "struct/column". By default all columns under their own names, those
      left out (and logged) that tensors can not hold.
    num_classes: int, values of `label` have to be smaller. Columns of the type
      ClassLabel know their number of classes.
    cache_dir: str, where `datasets` keeps downloads and converted Parquet files.

  Raises:
    ValueError: no such dataset, split or column; or `datasets` is missing.
  """

  def __init__(
    self,
    path,
    split=None,
    *,
    config=None,
    revision=None,
    features=None,
    num_classes=None,
    cache_dir=None,
  ):
    load = {"name": config, "revision": revision, "cache_dir": cache_dir}
    load = {k: v for k, v in load.items() if v is not None}
    split, parts = hf_files.open_splits(path, split, load)
    self._parts = list(itertools.chain.from_iterable(parts.values()))
    for part in self._parts:
      if part.problem:
        logging.error("%s", part.problem)
    self._ends = np.cumsum([len(part) for part in self._parts])
    sizes = {k: sum(map(len, v)) for k, v in parts.items()}
    self._numbers = slices.positions(split, sizes)
    table = next((p.table for p in self._parts if not p.problem), None)
    if table is None:
      raise ValueError(
        f"config.input.data.path: no file of {path!r} can be used. "
        f"{self._parts[0].problem}"
      )
    self._columns = _choose(hf_types.columns(table.schema), features)
    if num_classes is not None and "label" in self._columns:
      self._columns["label"].num_classes = num_classes
    self._bad = bad_examples.BadExamples(self._find_bad())
    logging.info(
      "%d rows of %s (split %s), columns %s",
      self.total_examples,
      path,
      split,
      {k: c.name for k, c in self._columns.items()},
    )

  @property
  def total_examples(self):
    return len(self._numbers)

  def bad_examples(self):
    return self._bad.messages

  @functools.cached_property
  def specs(self):
    """See the base class."""
    specs = [column.spec for column in self._columns.values()]
    return [*specs, tf.TensorSpec([], tf.string)]

  def complete(self, index, fetched):
    """See the base class.

    Returns:
      dict: the features; `tfds_id`, the file, the row in it and the file name
      of the image if that is known; `_id`, int32 hash of file name and row.
    """
    index = self._bad.check(index, {"index": index})["index"]
    *values, tfds_id = python_reader.unpack(fetched)
    example = dict(zip(self._columns, values, strict=True))
    number = tf.gather(self._numbers, index)
    part = tf.searchsorted(self._ends, number[None], side="right")[0]
    row = number - tf.gather(np.concatenate([[0], self._ends]), part)
    file_name = tf.gather([p.name for p in self._parts], part)
    name = tf.strings.join([file_name, ":", tf.strings.as_string(row)])
    return {**example, "tfds_id": tfds_id, "_id": tfds.hash_id(name)}

  def read_python(self, index):
    """See the base class."""
    number = int(self._numbers[index])
    p = int(np.searchsorted(self._ends, number, side="right"))
    part = self._parts[p]
    row = number - int(self._ends[p]) + len(part)
    where, values = f"{part.path}:{row}", []
    for column in self._columns.values():
      value, file_name = column.read(part.table, row, where)
      if file_name:
        where = f"{part.path}:{row} ({file_name})"
      values.append(value)
    return [*values, where.encode()]

  def _find_bad(self):
    """dict of example number -> message."""
    by_number = {
      end - len(part): part.problem
      for end, part in zip(self._ends, self._parts, strict=True)
      if part.problem
    }
    if not by_number:
      return {}
    return {
      i: by_number[int(number)]
      for i, number in enumerate(self._numbers)
      if int(number) in by_number
    }


def _choose(known, features):
  """dict of feature -> column, as `features` of the config asks."""
  usable = {name: column for name, column in known.items() if column}
  if features is None:
    if left_out := sorted(set(known) - set(usable)):
      logging.warning("Columns that can not be tensors: %s", left_out)
    return usable
  if not isinstance(features, Mapping):
    features = {name: name for name in features}
  out = {}
  for feature, name in features.items():
    if name not in known:
      raise lookup.unknown("column", name, known, "input.data.features")
    if name not in usable:
      raise ValueError(
        f"config.input.data.features: the column {name!r} has a type that can "
        f"not be a tensor. Those that can: {', '.join(sorted(usable))}."
      )
    out[feature] = usable[name]
  return out
