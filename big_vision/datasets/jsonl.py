"""JSON-lines files as a data source: one flat JSON object per line.

Values may be paths or URLs of files; their bytes then take their place. Labels
may be lists, of examples that have several.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision import fs, lookup, untrusted
from big_vision.datasets import (
  bad_examples,
  label_sets,
  python_reader,
  slices,
  source,
)
from big_vision.datasets.classes import Classes
from big_vision.download import cached_download
from big_vision.tf import tf

_TYPES = {bool: np.bool_, int: np.int32, float: np.float32, str: object}
_NUMBER = "_number"  # Of a row, where more is known of it than its columns.
_NUM_DOWNLOADS = 100  # In parallel.
_SPLIT = "split"  # Key of the name of a row's split.


class DataSource(source.DataSource):
  """Reads the rows of a JSON-lines file.

  Args:
    fname: path of the file, local or gs://.
    split: values of the key `split` of the rows and slices as in TFDS,
      "train[:90%]"; "all" are all rows.
    split_seed: slices are taken after shuffling by this seed, see
      `slices.positions`.
    features: dict of feature -> key, for values under a further name. The values
      of `label` may be lists of labels. A list of keys for `label`: each is a
      class and has 0 or 1, unless it is one with lists; for another feature:
      numbers or lists of numbers, float32 [how many they are]. Where it is given,
      lists and objects of other keys are left out.
    fopen_keys: keys whose value is a path; the bytes of that file replace it.
      A dict gives the folder that the paths of each key are relative to.
    download_keys: those of `fopen_keys` that hold URLs.
    start: first line to keep (0-based).
    stop: first line to drop after that; 0, None and inf mean the end.
    classes: names of the classes, where `label` is text: it becomes the position
      in them.
    num_classes: values of `label` have to be integers in [0, num_classes).

  Raises:
    ValueError: invalid JSON, rows whose keys or types differ, no rows, no such
      split, a label that is none of the classes.
    AssertionError: a download key is not in `fopen_keys`.
  """

  can_read_by_index = True

  def __init__(
    self,
    fname: str,
    split: str | None = None,
    *,
    split_seed: int | None = None,
    features: Mapping[str, str | Sequence[str]] | None = None,
    fopen_keys: Iterable[str] | Mapping[str, str] = (),
    download_keys: Iterable[str] = (),
    start: int | None = 0,
    stop: float | None = float("inf"),
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
  ):
    if not isinstance(fopen_keys, Mapping):
      fopen_keys = dict.fromkeys(_strings(fopen_keys), "")
    self._folders = dict(fopen_keys)
    self._download_keys = _strings(download_keys)
    assert set(self._download_keys) <= set(self._folders), (
      f"data.download_keys={sorted(self._download_keys)} must all be in "
      f"data.fopen_keys={sorted(self._folders)}"
    )
    where = lambda i: f"line {i + (start or 0)} of {fname}"
    self._all, lists, of_columns = _read_features(
      fname, start or 0, stop or float("inf"), features or {}, where
    )
    sets, self._names = None, None
    if lists is not None:
      sets, names = _label_sets(lists, of_columns or classes, fname)
      if not (of_columns or classes or label_sets.is_vectors(lists)):
        self._names = names  # For `labels_as_text`.
      classes = names
      largest = max((max(labels, default=-1) for labels in sets), default=-1)
      self._all_sets = Classes(largest + 1) if largest >= 0 else None
    elif classes is not None:
      self._all["label"] = _numbers(self._all.get("label"), classes, fname)
    if classes is not None:
      num_classes, self.class_names = len(classes), list(classes)
    self.num_classes = num_classes
    rows = _rows_of_split(self._all, split or slices.ALL, split_seed)
    self._columns = {k: v[rows] for k, v in self._all.items()}
    self._sets = None
    if sets is not None:
      self._sets = label_sets.LabelSets([sets[i] for i in rows])
      outside = self._sets.outside(num_classes).items()
      wrong = {i: int(self._sets[i][place]) for i, place in outside}
    else:
      labels = self._columns.get("label", np.zeros([0]))
      wrong = dict(enumerate(labels.tolist() if num_classes else ()))
    messages = {
      i: bad_examples.label_message(label, num_classes, where(rows[i]))
      for i, label in wrong.items()
    }
    self._bad = bad_examples.BadExamples(
      {i: m for i, m in messages.items() if m}
    )
    for key in self._folders:
      values = self._columns.get(key)
      if values is None or values.dtype != object:
        raise ValueError(
          f"data.fopen_keys: {key!r} of {fname} must hold paths; its rows have "
          f"{sorted(self._columns)}"
        )

  def get_tfdata(
    self,
    ordered: bool = False,
    *,
    process_split: bool = True,
    allow_cache: bool = True,
  ) -> tf.data.Dataset:
    """See the base class. Unordered: shuffled once, always in the same way."""
    del allow_cache  # Opening is cheap.
    indices = np.arange(self.total_examples)
    if process_split:
      indices = self._process_indices()[jax.process_index()]
    if not ordered:
      indices = np.random.default_rng(0).permutation(indices)
    ds = self._rows(indices)
    if self._must_complete:
      ds = ds.map(self._complete, tf.data.AUTOTUNE)
    return ds

  def some_labels(self, num: int) -> list[Any] | None:
    """See the base class."""
    labels = self.values_of("label")
    if labels is None:
      return None
    picked = source.pairs_of_neighbors(self.total_examples, num)
    return [np.asarray(labels[i]).tolist() for i in picked]

  def values_of(self, feature: str) -> Any:
    """See the base class."""
    if feature == "label" and self._sets is not None:
      return self._sets
    values = self._columns.get(feature)
    return None if values is None or values.dtype == object else values

  def bad_examples(self) -> list[str]:
    return self._bad.messages

  def classes_of(self, feature: str) -> Classes | None:
    """See the base class. Of integers: the largest in all rows."""
    values = self._all.get(feature)
    if feature == "label" and self.num_classes is not None:
      return super().classes_of(feature)
    if feature == "label" and self._sets is not None:
      return self._all_sets
    if values is None or values.dtype.kind not in "ib" or values.max() < 0:
      return None
    return Classes(int(values.max()) + 1)

  def labels_as_text(self) -> list[str] | None:
    """See the base class. Of all rows."""
    labels = self._all.get("label")
    if labels is None or labels.dtype != object:
      return self._names
    return sorted(set(labels))

  def split_names(self) -> list[str]:
    """Lists the values of the key `split` in order; none without such a key."""
    return list(_split_sizes(self._all))

  def example_spec(self) -> dict[str, tf.TensorSpec]:
    """See the base class."""
    spec = {
      k: tf.TensorSpec(v.shape[1:], tf.string if v.dtype == object else v.dtype)
      for k, v in self._columns.items()
    }
    if self._sets is not None:
      spec["label"] = tf.TensorSpec([None], tf.int64)
    return spec

  def read(self, index: tf.Tensor) -> source.Example:
    """Reads an example by its number, as sources with random access do.

    Training does not, unless it balances classes: its order would be another.

    Args:
      index: int64 scalar.

    Returns:
      Dict of tensors.
    """
    row = {k: tf.gather(v, index) for k, v in self._tensors.items()}
    return self._complete(row)

  def training_order(
    self, order_seed: tf.Tensor | None = None
  ) -> tuple[
    tf.data.Dataset, Callable[[source.Example], source.Example] | None
  ]:
    """See the base class: files are read by the second return value."""
    del order_seed
    ds = self._rows(np.arange(self.total_examples))
    return ds, self._complete if self._must_complete else None

  @property
  def total_examples(self) -> int:
    return len(self._columns["id"])

  def num_examples_per_process(self) -> list[int]:
    return [len(x) for x in self._process_indices()]

  def _process_indices(self):
    n, num_processes = self.total_examples, jax.process_count()
    assert n >= num_processes, f"{n} examples for {num_processes} processes"
    return np.array_split(np.arange(n), num_processes)

  @property
  def _must_complete(self):
    """Whether rows are more than their columns."""
    return bool(self._folders or self._bad.messages or self._sets is not None)

  def _rows(self, indices):
    """Opens the rows at `indices`, paths instead of files."""
    return tf.data.Dataset.from_tensor_slices(self._tensors_of(indices))

  @functools.cached_property
  def _tensors(self):
    """All rows, of which `read` takes one."""
    with tf.init_scope():
      return {
        k: tf.constant(v)
        for k, v in self._tensors_of(np.arange(self.total_examples)).items()
      }

  def _tensors_of(self, indices):
    """Makes tensors [len(indices), ...] of the columns."""
    columns = {k: v[indices] for k, v in self._columns.items()}
    for key in self._download_keys:
      columns[key] = np.array(_download_all(columns[key]), object)
    for key, folder in self._folders.items():
      if folder and key not in self._download_keys:
        paths = [fs.join(folder, path) for path in columns[key]]
        columns[key] = np.array(paths, object)
    if self._bad.messages or self._sets is not None:
      columns[_NUMBER] = np.asarray(indices, np.int64)
    # Python strings become UTF-8.
    return {
      k: tf.constant(list(v), tf.string) if v.dtype == object else v
      for k, v in columns.items()
    }

  def _complete(self, row):
    """Adds labels, fails for wrong ones; replaces paths by files' bytes."""
    row = dict(row)
    if _NUMBER in row:
      number = row.pop(_NUMBER)
      if self._sets is not None:
        row["label"] = self._sets.read(number)
      row = self._bad.check(number, row)
    for key, folder in self._folders.items():
      folder = "" if key in self._download_keys else folder
      row[key] = python_reader.read_file(row[key], folder or "")
    return row


def _split_sizes(columns):
  """dict of split -> number of rows, by the key `split` if that is text."""
  names = columns.get(_SPLIT, np.zeros([0]))
  return dict(collections.Counter(names if names.dtype == object else ()))


def _rows_of_split(columns, spec, seed):
  """Returns the numbers of the rows that a split string means."""
  sizes = {**_split_sizes(columns), slices.ALL: len(columns["id"])}
  of_split = {
    name: np.flatnonzero(columns[_SPLIT] == name)
    for name in sizes
    if name != slices.ALL
  }
  of_split[slices.ALL] = np.arange(sizes[slices.ALL])
  for name in slices.names(spec):
    if name not in sizes:
      raise lookup.unknown("split", name, sizes, "input.data.split")
  positions = slices.positions(spec, sizes, seed=seed)
  return np.concatenate([of_split[n] for n in slices.names(spec)])[positions]


def _numbers(labels, classes, fname):
  """Returns the positions of labels in the list of classes."""
  number = {name: i for i, name in enumerate(classes)}
  if labels is None or labels.dtype != object:
    raise ValueError(
      f"config.input.data.classes: the labels of {fname} are not text. Leave "
      "classes out."
    )
  for label in labels:
    if label not in number:
      raise ValueError(
        f"config.input.data.classes: {fname} has the label {label!r}, which is "
        f"none of the {len(classes)} classes"
        f"{lookup.did_you_mean(label, classes)}"
      )
  return np.array([number[label] for label in labels], np.int32)


def _label_sets(lists, classes, fname):
  """Returns (numbers of the labels in lists, names of the classes or None)."""
  if classes is not None and not label_sets.is_vectors(lists):
    flat = np.array([x for labels in lists for x in labels], object)
    _numbers(flat, classes, fname)  # Refuses what is not a class.
  return label_sets.class_numbers(lists, classes)


def _strings(keys):
  return [keys] if isinstance(keys, str) else sorted(keys)


def _read_features(fname, start, stop, features, where):
  """Reads the columns and what `features` makes of them.

  Returns:
    (columns, labels, classes): arrays by feature; lists of labels, None if there
    is one each; the keys that are classes, or None.
  """
  key_of = {"label": "label", **features}
  used = [[k] if isinstance(k, str) else list(k) for k in key_of.values()]
  may_be_lists = set(sum(used, []))
  strict = not features
  columns, lists = _read_columns(fname, start, stop, may_be_lists, strict)
  known = {**columns, **lists}
  for key in sum(used[1:] if "label" not in features else used, []):
    if key not in known:
      raise lookup.unknown("key", key, known, "input.data.features")
  classes = None
  for feature, key in features.items():
    if feature == "label" and len(key) == 1 and key[0] in lists:
      key = key[0]
    if isinstance(key, str) and (feature == "label" or key in columns):
      (lists if key in lists else columns)[feature] = known[key]
    elif feature == "label":
      classes = list(key)
      flags = [label_sets.yes_or_no(known[k], k, where) for k in key]
      sets = label_sets.sets_of(flags)
      lists["label"] = [[classes[i] for i in labels] for labels in sets]
    else:
      given = {k: known[k] for k in ([key] if isinstance(key, str) else key)}
      columns[feature] = label_sets.numbers(given, where)
  if "label" in lists:
    columns.pop("label", None)
  return columns, lists.get("label"), classes


def _read_columns(fname, start, stop, may_be_lists, strict):
  """Reads the rows `start <= line < stop`, by key, with `id`.

  Returns:
    (arrays, lists): columns of single values and, of keys that may have them, of
    lists.
  """
  rows = []  # (line number, row)
  blank = None  # Line number of the first of the blank lines just read.
  with fs.open(fname, "rb") as f:
    # Of bytes, this splits at the ends of lines only.
    for i, line in enumerate(x for part in f for x in part.splitlines()):
      if not start <= i < stop:
        continue
      if not line.strip():
        blank = i if blank is None else blank
        continue
      if blank is not None:
        raise ValueError(f"Invalid JSON in line {blank} of {fname}: blank line")
      row = _parse(_decode(line, i, fname), i, fname, may_be_lists, strict)
      rows.append((i, row))
  if not rows:
    raise ValueError(
      f"No rows in {fname} from data.start={start} to data.stop={stop}"
    )
  first_line, first = rows[0]
  types = {k: type(v) for k, v in first.items()}
  for i, row in rows:
    _check(row, types, f"Line {i} of {fname} differs from line {first_line}:")
  columns = {"id": np.array([str(i) for i in range(len(rows))], object)}
  lists = {}
  for k, t in types.items():
    values = [row[k] for _, row in rows]
    if t is list:
      lists[k] = values
    else:
      columns[k] = np.array(values, _TYPES[t])
  return columns, lists


def _decode(line, i, fname):
  """Decodes a line: UTF-8, of which the first may begin with a mark."""
  try:
    return line.decode("utf-8-sig" if i == 0 else "utf-8")
  except UnicodeDecodeError as e:
    raise ValueError(
      f"Invalid JSON in line {i} of {fname}: not UTF-8 but "
      f"{line[e.start : e.end]!r}; save the file as UTF-8"
    ) from None


def _parse(line, i, fname, may_be_lists, strict):
  """Parses one line: a dict of scalars, or of lists of them where they may be.

  Other values are left out unless `strict`.
  """
  try:
    row = untrusted.json_value(line)
  except ValueError as e:
    raise ValueError(f"Invalid JSON in line {i} of {fname}: {e}") from e
  if not isinstance(row, dict):
    raise ValueError(f"Invalid JSON in line {i} of {fname}: not an object")
  if not strict:
    nested = lambda k, v: type(v) in (list, dict) and k not in may_be_lists
    row = {k: v for k, v in row.items() if not nested(k, v)}
  values = []
  for k, v in row.items():
    is_list = type(v) is list and k in may_be_lists
    values += [(k, x) for x in (v if is_list else [v])]
  for k, v in values:
    if type(v) not in _TYPES:
      raise ValueError(
        f"Invalid JSON in line {i} of {fname}: {k!r} must be a string, number "
        f"or bool, not {v!r}"
      )
    if type(v) is str and not _can_be_encoded(v):
      raise ValueError(
        f"Invalid JSON in line {i} of {fname}: {k!r} has half of a surrogate "
        f"pair: {v!r}"
      )
    if type(v) is int and not -(2**31) <= v < 2**31:
      raise ValueError(
        f"Invalid JSON in line {i} of {fname}: {k!r}={v} does not fit into "
        "int32; write it as a string or float"
      )
  return row


def _can_be_encoded(text):
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def _check(row, types, where):
  """Checks that a row has the keys and types of the first."""
  if row.keys() != types.keys():
    missing = sorted(types.keys() - row.keys())
    extra = sorted(row.keys() - types.keys())
    raise ValueError(f"{where} missing keys {missing}, additional {extra}")
  for k, v in row.items():
    if type(v) is int and types[k] is float:
      continue  # JSON writers drop the ".0".
    if type(v) is not types[k]:
      raise ValueError(
        f"{where} {k!r} is {v!r}, expected {types[k].__name__} (write 1.0 "
        "instead of 1 in the first row if a column has both)"
      )


def _download_all(urls):
  """Paths of the downloaded files, in order; each URL is fetched once."""
  unique = list(dict.fromkeys(urls))
  with concurrent.futures.ThreadPoolExecutor(_NUM_DOWNLOADS) as pool:
    fetch = lambda url: cached_download(url, verbose=False)
    paths = dict(zip(unique, pool.map(fetch, unique), strict=True))
  return [paths[url] for url in urls]
