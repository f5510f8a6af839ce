"""Folders of images as a data source: one sub-folder per class.

  path/train/cat/0001.jpg         or, without splits,     path/cat/0001.jpg
  path/train/dog/more/0002.png                            path/dog/0002.png

A CSV file of labels may take the place of the class folders.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from big_vision import fs, lookup
from big_vision.datasets import (
  bad_examples,
  folder_listing,
  ids,
  label_sets,
  python_reader,
  slices,
  source,
  text_files,
)
from big_vision.datasets.classes import Classes
from big_vision.tf import tf

# Columns of the CSV file, by what they become.
_COLUMNS = {"image": "file", "label": "label"}
_SPLIT = "split"  # Name of a column.


class DataSource(source.IndexedDataSource):
  """Reads image files, in the order of their paths or of the rows of a CSV file.

  Args:
    path: the folder, local or gs://.
    split: sub-folders of `path` and slices of them as in TFDS, for example
      "train[:90%]" or "train+val"; None or "all": all of `path`. Since slices
      of sorted paths would cut off classes, "[:90%]" are the 90% of images that
      a hash of their paths puts first, still in the order of the paths.
    split_seed: seed of that hash, for other slices of the same size.
    classes: list of class names, or path of a file with one per line: the label
      is the position in it. By default the sorted names of the class folders,
      those of the other splits included.
    labels: path of a CSV file with a header and the columns `file`
      (relative to `path`, or absolute) and `label` (all class names, or all
      ints); only these images are used. `classes` are then by default the
      sorted names in all rows, those of the other splits included. A column
      `split` names the splits; otherwise they are the folders that files are in.
    features: dict of feature -> column of the CSV file. By default
      `dict(image="file", label="label")`; any others are text, and `label` may
      be missing. A list of columns for `label`: each is a class and has 0 or 1;
      for another feature: numbers, float32 [number of columns].
    multi_label: whether cells of the column `label` have any number of labels,
      such as `cat;dog`, see `label_sets.split_cells`.
    num_classes: labels have to be smaller. By default the number of
      classes, if they have names.

  Raises:
    ValueError: no images, no such split, folders that are not classes, labels
      of several types.
  """

  def __init__(
    self,
    path: str,
    split: str | None = None,
    *,
    split_seed: int | None = None,
    classes: Sequence[str] | str | None = None,
    labels: str | None = None,
    features: Mapping[str, str | Sequence[str]] | None = None,
    multi_label: bool = False,
    num_classes: int | None = None,
  ):
    if not fs.isdir(path):
      raise ValueError(f"config.input.data.path: there is no folder {path!r}.")
    self._root = os.fspath(path).rstrip("/") + "/"
    split = split or slices.ALL
    names = slices.names(split)
    classes = None if classes is None else read_classes(classes)
    are_ints, self._largest, table, sets = False, -1, None, None
    if labels:
      table = _read_csv(labels, dict(features or _COLUMNS), multi_label)
      if any(file.startswith("/") for file in table.files):
        table.files[:] = [_absolute(self._root, f) for f in table.files]
        self._root = "/"
      if table.sets is not None:
        sets, classes = label_sets.class_numbers(
          table.sets, table.classes or classes
        )
        if classes is None:
          self._largest = max((max(x, default=-1) for x in sets), default=-1)
      elif table.labels is not None:
        are_ints = _check_types(table.labels, table.lines, classes, labels)
        if classes is None and not are_ints:
          classes = sorted({label for label in table.labels if label})
        self._largest = int(max(_ints(table.labels))) if are_ints else -1
      parts = {name: _rows_of_split(table, name, labels) for name in names}
    elif features:
      raise ValueError(
        "config.input.data.features names columns of the CSV file data.labels, "
        "which is not given."
      )
    else:
      classes, parts = folder_listing.list_splits(self._root, names, classes)
    sizes = {name: len(files) for name, (files, _) in parts.items()}
    # What an image is of: its class or, in a CSV file, its row.
    files, targets = [], []
    for name, start, stop in slices.resolve(split, sizes):
      of_split = parts[name]
      chosen = _slice(of_split[0], start, stop, split_seed)
      files += [of_split[0][i] for i in chosen]
      targets += [of_split[1][i] for i in chosen]
    self._texts, self._numbers, self._sets = {}, {}, None
    if table is not None:
      rows = targets
      column = lambda cells: [cells[row] for row in rows]
      self._texts = {
        name: tf.constant(column(cells), tf.string)
        for name, cells in table.texts.items()
      }
      self._numbers = {k: v[rows] for k, v in table.numbers.items()}
      if sets is not None:
        self._sets = label_sets.LabelSets(column(sets))
      has_labels = table.labels is not None
      targets = column(table.labels) if has_labels else None
    if num_classes is None and classes is not None:
      num_classes = len(classes)
    self.classes = classes and [text_files.printable(c) for c in classes]
    self.class_names = self.classes
    self.num_classes = num_classes
    self._labels, wrong = None, {}  # Example -> a label that is not one.
    if self._sets is not None:
      assert table is not None  # They are from it.
      texts = column(table.sets)
      for i, place in self._sets.outside(num_classes).items():
        wrong[i] = texts[i][place]
    elif targets is not None:
      self._labels = _ints(targets) if are_ints else _numbers(targets, classes)
      outside = _outside(self._labels, num_classes)
      wrong = {int(i): targets[i] for i in outside}
    file_of = lambda i: text_files.printable(self._root + files[i])
    bad = {
      i: _bad_label(file_of(i), label, classes, num_classes, labels)
      for i, label in wrong.items()
    }
    self._bad = bad_examples.BadExamples(bad)
    # Not in `read`, where AutoGraph would warn that it cannot convert them.
    self._root_bytes = os.fsencode(self._root)
    self._root_name = text_files.printable(self._root)
    # Names need not be UTF-8: files are opened by their bytes.
    paths, shown = map(os.fsencode, files), map(text_files.printable, files)
    self._files = tf.constant(list(paths), tf.string)
    self._names = tf.constant(list(shown), tf.string)
    labels_of = f", labels from {num_classes} classes" if num_classes else ""
    text = "%d images%s, in %s (split %s)"
    logging.info(text, len(files), labels_of, labels or path, split)

  @property
  def total_examples(self) -> int:
    return int(self._files.shape[0])

  def classes_of(self, feature: str) -> Classes | None:
    """See the base class. Of ints in a CSV file: the largest."""
    if feature == "label" and self.num_classes is None and self._largest >= 0:
      return Classes(self._largest + 1)
    return super().classes_of(feature)

  def some_labels(self, num: int) -> list[Any] | None:
    """See the base class."""
    labels = self.values_of("label")
    if labels is None:
      return None
    picked = source.pairs_of_neighbors(self.total_examples, num)
    return [labels[i].tolist() for i in picked]

  def values_of(self, feature: str) -> Any:
    """See the base class."""
    if feature != "label":
      return self._numbers.get(feature)
    return self._labels if self._sets is None else self._sets

  def bad_examples(self) -> list[str]:
    return self._bad.messages

  def read(self, index: tf.Tensor) -> source.Example:
    """See the base class.

    Args:
      index: int64 scalar tensor.

    Returns:
      dict: `image`, encoded bytes; `label`, int64; `file_name`, the path below
      the folder; `class_name` if classes have names; `tfds_id`, the whole path;
      `_id`, int32 hash of `file_name`; further `features` of a CSV file. Of
      several labels, `label` is int64 [number of labels].
    """
    name = tf.gather(self._names, index)
    example = {
      "file_name": name,
      "tfds_id": tf.strings.join([self._root_name, name]),
      "_id": ids.hash_id(name),
    }
    for key, texts in self._texts.items():
      example[key] = tf.gather(texts, index)
    for key, numbers in self._numbers.items():
      example[key] = tf.gather(numbers, index)
    if self._sets is not None:
      example["label"] = self._sets.read(index)
    elif self._labels is not None:
      example["label"] = tf.gather(self._labels, index)
    example = self._bad.check(index, example)
    if self._labels is not None and self.classes is not None:
      class_names = tf.constant(self.classes, tf.string)
      example["class_name"] = tf.gather(class_names, example["label"])
    # It is read after the check only.
    with tf.control_dependencies([example["file_name"]]):
      file = tf.gather(self._files, index)
    path = tf.strings.join([self._root_bytes, file])
    return {"image": python_reader.read_file(path, self._root), **example}


def split_names(labels: str, columns: tuple[str, ...] = ()) -> list[str]:
  """Lists the splits in a CSV file: the values of its column `split`.

  Args:
    labels: path of the file.
    columns: names of others that it has, by which its delimiter is known.

  Returns:
    The names in the order of the rows; none without such a column.
  """
  rows = text_files.read_table(labels, columns, "input.data.labels", (_SPLIT,))
  return list(dict.fromkeys(cells[-1] for _, cells in rows if cells[-1]))


def read_classes(
  classes: Sequence[str] | str | os.PathLike, key: str = "input.data.classes"
) -> list[str]:
  """Reads the class names of a config.

  Args:
    classes: the names, or path of a file with one name per line.
    key: the config key, for errors.

  Returns:
    The names.

  Raises:
    ValueError: no names, or one twice.
  """
  source = repr(classes)
  if isinstance(classes, (str, os.PathLike)):
    text = text_files.read(classes, key)
    classes = [line.strip() for line in text_files.lines(text)]
  classes = [str(c) for c in classes if c != ""]
  if not classes or len(set(classes)) < len(classes):
    twice = sorted({c for c in classes if classes.count(c) > 1})
    what = f"has {twice} more than once" if twice else "has no names"
    raise ValueError(f"config.{key}: {source} {what}.")
  return classes


@dataclasses.dataclass(frozen=True)
class _Table:
  """Holds the columns of a CSV file: its rows in order.

  Attributes:
    files: paths of images.
    labels: None if there is no such column, or if examples have several labels.
    sets: the labels of each example, None unless it may have several.
    classes: names of columns that are classes, None if labels are cells.
    splits: names of splits, empty strings where there are none.
    texts: dict of feature -> column.
    numbers: dict of feature -> float32 [N, number of columns].
    lines: numbers of the lines.
  """

  files: list[str]
  labels: list[str] | None
  sets: list[list[str]] | None
  classes: list[str] | None
  splits: list[str]
  texts: dict[str, list[str]]
  numbers: dict[str, np.ndarray]
  lines: list[int]


def _read_csv(path, features, multi_label, key="input.data.labels"):
  """Reads the columns of a CSV file that become features."""
  if "image" not in features:
    raise ValueError(
      f"config.input.data.features={features!r} has to name the column of the "
      "paths as `image`."
    )
  one = {k: v for k, v in features.items() if isinstance(v, str)}
  several = {k: list(v) for k, v in features.items() if k not in one}
  names = [*dict.fromkeys([*one.values(), *sum(several.values(), [])])]
  rows = text_files.read_table(path, tuple(names), key, optional=(_SPLIT,))
  lines = [line for line, _ in rows]
  cells = {
    name: [row[i] for _, row in rows] for i, name in enumerate([*names, _SPLIT])
  }
  texts = {feature: cells[name] for feature, name in one.items()}
  files = texts.pop("image")
  for line, file in zip(lines, files, strict=True):
    if not file:
      raise ValueError(f"config.{key}: line {line} of {path} has no file.")
  labels, sets = texts.pop("label", None), None
  where = lambda i: f"line {lines[i]} of {path}"
  classes = several.pop("label", None)
  if multi_label and labels is not None and label_sets.is_yes_or_no(labels):
    classes = [one["label"]]
  if classes is not None:
    columns = [label_sets.yes_or_no(cells[c], c, where) for c in classes]
    sets = [
      [classes[i] for i in of_one] for of_one in label_sets.sets_of(columns)
    ]
  elif multi_label and labels is not None:
    sets = label_sets.split_cells(labels)
  numbers = {
    feature: label_sets.numbers({c: cells[c] for c in columns}, where)
    for feature, columns in several.items()
  }
  return _Table(
    files=files,
    labels=labels if sets is None else None,
    sets=sets,
    classes=classes,
    splits=cells[_SPLIT],
    texts=texts,
    numbers=numbers,
    lines=lines,
  )


def _absolute(root, file):
  """Returns the path from the root of the file system, without the slash."""
  return os.path.join(os.path.abspath(root), file).lstrip("/")


def _check_types(labels, lines, classes, path):
  """Tells whether the labels of a CSV file are ints; all must be alike."""
  kinds = [_kind(label) for label in labels]
  first = next((i for i, kind in enumerate(kinds) if kind), None)
  if classes is not None and set(labels) <= {"", *classes}:
    return False  # Classes may be called "0" and "1".
  if first is None or (classes is not None and kinds[first] != "an integer"):
    return False
  for i, kind in enumerate(kinds):
    if kind == kinds[first] != "a number" or not kind:
      continue
    where = (
      f"config.input.data.labels: line {lines[i]} of {path} has the label "
    )
    if kind == "a number":
      raise lookup.ConfigError(
        f"{where}{labels[i]!r}, which is no integer. Write integers, such as 1, "
        "or names of classes."
      )
    raise lookup.ConfigError(
      f"{where}{labels[i]!r}, {kind}, but line {lines[first]} has "
      f"{labels[first]!r}, {kinds[first]}. Write all labels as names of classes "
      "or all as integers; or list the names in data.classes."
    )
  return kinds[first] == "an integer"


def _kind(label):
  """Says what a label in text is; "" for none."""
  if re.fullmatch(r"[+-]?\d+", label):
    return "an integer"
  if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=e))(e[+-]?\d+)?", label.lower()):
    return "a number"
  return "a name" if label else ""


def _rows_of_split(table, name, path):
  """Returns (files, numbers of the rows) of a split."""
  files, names = table.files, sorted({s for s in table.splits if s})
  if name == slices.ALL:
    chosen = range(len(files))
  elif name in names:
    chosen = [i for i, split in enumerate(table.splits) if split == name]
  else:
    chosen = [i for i, f in enumerate(files) if f.startswith(name + "/")]
  if not chosen and name != slices.ALL:
    known = f"; its column {_SPLIT!r} has {names}" if names else ""
    raise ValueError(
      f"config.input.data.split: no file in {path} begins with {name + '/'!r}; "
      f"the first is {files[0] if files else None!r}{known}. Leave split out to "
      "use all rows."
    )
  return [files[i] for i in chosen], chosen


def _slice(files, start, stop, seed):
  """Returns the sorted positions of those of rank `start` to `stop` by hash."""
  if stop - start == len(files):
    return range(len(files))
  prefix = b"" if seed is None else b"%d:" % seed
  names = [prefix + os.fsencode(f) for f in files]
  ranks = tf.strings.to_hash_bucket_fast(names, 2**63 - 1).numpy()
  return np.sort(np.argsort(ranks, kind="stable")[start:stop])


def _ints(labels):
  """Converts labels that are ints; the missing ones become -1."""
  limit = np.iinfo(np.int64).max  # What is beyond is out of range anyway.
  ints = (int(label or -1) for label in labels)
  return np.array([max(min(i, limit), -limit) for i in ints], np.int64)


def _numbers(labels, classes):
  """Returns the positions in `classes`, -1 for what is not a class."""
  number = {name: i for i, name in enumerate(classes)}
  return np.array([number.get(label, -1) for label in labels], np.int64)


def _outside(labels, num_classes):
  """Positions of labels that are out of range."""
  bad = labels < 0
  if num_classes is not None:
    bad |= labels >= num_classes
  return np.nonzero(bad)[0]


def _bad_label(file, label, classes, num_classes, csv_path):
  """Says what is wrong with a label that is given as text."""
  where = f"{file} in {csv_path}" if csv_path else file
  if not label:
    return f"There is no label of {where}."
  if label in (classes or ()):
    number = classes.index(label)
  elif _kind(label) == "an integer":
    number = int(label)
  else:
    hint = lookup.did_you_mean(label, classes)
    return f"The label {label!r} of {where} is not a class{hint}"
  return bad_examples.label_message(number, num_classes, where)
