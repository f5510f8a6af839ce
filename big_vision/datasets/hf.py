"""Datasets of the Hugging Face library as a data source.

Local folders of Arrow or Parquet files, or a dataset of the hub. Rows are read
from memory-mapped Arrow files, one by one; images stay encoded.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from big_vision import lookup
from big_vision.datasets import (
  bad_examples,
  concatenation,
  hf_files,
  hf_types,
  ids,
  label_sets,
  python_reader,
  slices,
  source,
)
from big_vision.datasets.classes import Classes
from big_vision.tf import tf


class DataSource(python_reader.Reader, source.IndexedDataSource):
  """Reads the rows of a dataset, in their order. Needs the package `datasets`.

  Args:
    path: a folder that `save_to_disk` wrote; a folder, files or a glob of
      Parquet or Arrow files; else what `datasets.load_dataset` takes: "org/name"
      of the hub, a local folder of another kind.
    split: with slices as in TFDS, "train[:90%]+validation". For files that
      begin with the name of the split, or are in a folder of that name. None:
      all, if there is one split only.
    split_seed: slices are taken after shuffling by this seed, see
      `slices.positions`.
    config: name of the configuration, for `load_dataset`.
    revision: of the hub, for `load_dataset`.
    features: dict of feature -> column ("image" -> "img"); columns of a struct
      are "struct/column". By default all columns under their own names, those
      left out (and logged) that tensors cannot hold.
      A list of columns for `label`: each is a class and has 0 or 1, unless it is
      one of lists of labels; for another feature: numbers or lists of numbers,
      float32 [how many they are].
    classes: names of the classes, where `label` is text: it becomes the position
      in them.
    num_classes: values of `label` have to be smaller. Columns of the type
      ClassLabel know their number of classes.
    cache_dir: where `datasets` keeps downloads and converted Parquet files.

  Raises:
    ValueError: no such dataset, split or column; or `datasets` is missing.
  """

  def __init__(
    self,
    path: str,
    split: str | None = None,
    *,
    split_seed: int | None = None,
    config: str | None = None,
    revision: str | None = None,
    features: Mapping[str, str | Sequence[str]] | Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    cache_dir: str | None = None,
  ):
    load = {"name": config, "revision": revision, "cache_dir": cache_dir}
    load = {k: v for k, v in load.items() if v is not None}
    split, parts = hf_files.open_splits(path, split, load)
    files = list(itertools.chain.from_iterable(parts.values()))
    for file in files:
      if file.problem:
        logging.error("%s", file.problem)
    sizes = {k: sum(map(len, v)) for k, v in parts.items()}
    self._rows = concatenation.Concatenation(
      files, slices.positions(split, sizes, seed=split_seed)
    )
    table = next((f.table for f in files if not f.problem), None)
    if table is None:
      raise ValueError(
        f"config.input.data.path: no file of {path!r} can be used. "
        f"{files[0].problem}"
      )
    known = hf_types.columns(table.schema)
    several = {}
    if isinstance(features, Mapping):
      several = {k: v for k, v in features.items() if not isinstance(v, str)}
      features = {k: v for k, v in features.items() if isinstance(v, str)}
    self._columns = _choose(known, features)
    self._sets, self._numbers = None, {}
    for feature, names in several.items():
      columns = list(_choose(known, names).values())
      if feature == "label":
        self._read_sets(columns, path, classes, num_classes)
      else:
        every = {c.name: self._every(c) for c in columns}
        found = label_sets.numbers(every, lambda i: f"row {i} of {path}")
        picked = np.array(self._rows.pick(list(found)))
        self._numbers[feature] = picked
    if classes is not None and self._sets is None:
      self._columns["label"] = hf_types.TextLabel(
        _text_label(self._columns), classes
      )
    if num_classes is not None and "label" in self._columns:
      self._columns["label"].num_classes = num_classes
    self._bad = self._rows.find_bad()
    # Labels fail when they are read, but are known now.
    self._known_bad = self._rows.find_bad(self._bad_labels(files))
    logging.info(
      "%d rows of %s (split %s), columns %s",
      self.total_examples,
      path,
      split,
      {k: c.name for k, c in self._columns.items()},
    )

  def _every(self, column):
    """Reads a column of all rows of all files."""
    values = []
    for part in self._rows.parts:
      if part.problem:
        raise lookup.ConfigError(
          f"config.input.data: labels in the column {column.name!r} cannot be "
          f"read. {part.problem}"
        )
      values += column.values(part.table).to_pylist()
    return values

  def _read_sets(self, columns, path, classes, num_classes):
    """Reads the labels of examples that have several, and names their classes."""
    where = lambda i: f"row {i} of {path}"
    every = [self._every(column) for column in columns]
    names, self._found_names = columns[0].names, None
    if len(columns) == 1 and columns[0].spec.shape.rank == 1:
      [lists] = every
      if None in lists:
        raise lookup.ConfigError(
          f"config.input.data.features: {columns[0].name!r} in "
          f"{where(lists.index(None))} is null; [] has no label."
        )
      sets, found = label_sets.class_numbers(lists, classes)
      if columns[0].spec.dtype == tf.string and classes is None:
        self._found_names = found
    else:
      found = [column.name for column in columns]
      flags = [
        label_sets.yes_or_no(values, name, where)
        for values, name in zip(every, found, strict=True)
      ]
      sets = label_sets.sets_of(flags)
    names = names or found
    num = num_classes or columns[0].num_classes
    num = len(names) if names else num
    for i, place in label_sets.LabelSets(sets).outside(num).items():
      label = every[0][i][place]
      raise lookup.ConfigError(
        f"config.input.data: the label {label!r} of {where(i)} is none of the "
        f"{num or ''} classes."
      )
    largest = max((max(labels, default=-1) for labels in sets), default=-1)
    self._classes = Classes(num or largest + 1, tuple(names) if names else None)
    self._sets = label_sets.LabelSets(self._rows.pick(sets))

  @property
  def total_examples(self) -> int:
    return len(self._rows)

  def values_of(self, feature: str) -> Any:
    """See the base class."""
    if feature == "label" and self._sets is not None:
      return self._sets
    column = self._columns.get(feature)
    if column is None:
      return self._numbers.get(feature)
    usable = not any(part.problem for part in self._rows.parts)
    if column.spec.dtype == tf.string or not usable or self._bad.messages:
      return None
    every = self._every(column)
    if isinstance(column, hf_types.TextLabel):
      every = [column.number(value) for value in every]
    values = self._rows.pick(every)
    if any(value is None for value in values):
      return None
    is_list = column.spec.shape.rank == 1
    return label_sets.LabelSets(values) if is_list else np.array(values)

  def labels_as_text(self) -> list[str] | None:
    """See the base class. Of all files."""
    if self._sets is not None:
      return self._found_names
    column = self._columns.get("label")
    if column is None or not column.is_text:
      return None
    return column.texts([p.table for p in self._rows.parts if not p.problem])

  def some_labels(self, num: int) -> list[Any] | None:
    """See the base class."""
    if self._sets is not None:
      picked = source.pairs_of_neighbors(self.total_examples, num)
      return [self._sets[i].tolist() for i in picked]
    column, labels = self._columns.get("label"), []
    if column is None or self._bad.messages:
      return None
    for index in source.pairs_of_neighbors(self.total_examples, num):
      file, row = self._rows.locate(index)
      try:
        labels.append(column.read(file.table, row, "")[0])
      except ValueError:
        return None
    return labels if np.ndim(labels) == 1 else None

  def bad_examples(self) -> list[str]:
    return self._known_bad.messages

  def _bad_labels(self, files):
    """Yields (place of the file, row, message) of labels out of range."""
    for place, file in enumerate(files):
      for column in () if file.problem else self._columns.values():
        for row, label in column.bad_labels(file.table):
          where = f"{file.path}:{row}"
          yield (
            place,
            row,
            bad_examples.label_message(label, column.num_classes, where),
          )

  def classes_of(self, feature: str) -> Classes | None:
    """See the base class. Of other integers than ClassLabel: the largest."""
    if feature == "label" and self._sets is not None:
      return self._classes
    column = self._columns.get(feature)
    if column is None:
      return None
    num, names = column.num_classes, column.names
    if num is not None:
      return Classes(num, tuple(names) if names else None)
    tables = [p.table for p in self._rows.parts if not p.problem]
    largest = column.largest(tables)
    return None if largest is None or largest < 0 else Classes(largest + 1)

  @functools.cached_property
  def specs(self) -> list[tf.TensorSpec]:
    """See the base class."""
    specs = [column.spec for column in self._columns.values()]
    return [*specs, tf.TensorSpec([], tf.string)]

  def complete(
    self, index: tf.Tensor, fetched: Sequence[tf.Tensor]
  ) -> source.Example:
    """See the base class.

    Returns:
      dict: the features; `tfds_id`, the file, the row in it and the file name
      of the image if that is known; `_id`, int32 hash of file name and row.
    """
    index = self._bad.check(index, {"index": index})["index"]
    *values, tfds_id = python_reader.unpack(fetched)
    example = dict(zip(self._columns, values, strict=True))
    for feature, numbers in self._numbers.items():
      example[feature] = tf.gather(numbers, index)
    if self._sets is not None:
      example["label"] = self._sets.read(index)
    file, row = self._rows.locate_tensor(index)
    file_name = tf.gather([f.name for f in self._rows.parts], file)
    name = tf.strings.join([file_name, ":", tf.strings.as_string(row)])
    return {**example, "tfds_id": tfds_id, "_id": ids.hash_id(name)}

  def read_python(self, index: int) -> list[Any]:
    """See the base class."""
    file, row = self._rows.locate(index)
    where, values = f"{file.path}:{row}", []
    for column in self._columns.values():
      value, file_name = column.read(file.table, row, where)
      if file_name:
        where = f"{file.path}:{row} ({file_name})"
      values.append(value)
    return [*values, where.encode()]


def _text_label(columns):
  """Returns the column of `label`, which has to be text."""
  column = columns.get("label")
  if column is None or not column.is_text:
    raise ValueError(
      "config.input.data.classes: the feature `label` is not a column of text. "
      "Leave classes out, or name the column in data.features.label."
    )
  return column


def _choose(known, features):
  """dict of feature -> column, as `features` of the config asks."""
  usable = {name: column for name, column in known.items() if column}
  if features is None:
    if left_out := sorted(set(known) - set(usable)):
      logging.warning("Columns that cannot be tensors: %s", left_out)
    return usable
  if not isinstance(features, Mapping):
    features = {name: name for name in features}
  out = {}
  for feature, name in features.items():
    if name not in known:
      raise lookup.unknown("column", name, known, "input.data.features")
    if name not in usable:
      raise ValueError(
        f"config.input.data.features: the column {name!r} has a type that "
        f"cannot be a tensor. Those that can: {', '.join(sorted(usable))}."
      )
    out[feature] = usable[name]
  return out
