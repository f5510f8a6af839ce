"""JSON-lines files as a data source: one flat JSON object per line.

Values may be paths or URLs of files; their bytes then take their place.
"""

from __future__ import annotations

import collections
import concurrent.futures
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision import fs, lookup
from big_vision.datasets import bad_examples, python_reader, slices, source
from big_vision.datasets.classes import Classes
from big_vision.download import cached_download
from big_vision.tf import tf

_TYPES = {bool: np.bool_, int: np.int32, float: np.float32, str: object}
_NUMBER = "_number"  # Of a row, where some rows are wrong.
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
    features: dict of feature -> key, for values under a further name.
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

  def __init__(
    self,
    fname: str,
    split: str | None = None,
    *,
    split_seed: int | None = None,
    features: Mapping[str, str] | None = None,
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
    self._all = _read_columns(fname, start or 0, stop or float("inf"))
    for feature, key in (features or {}).items():
      if key not in self._all:
        raise lookup.unknown("key", key, self._all, "input.data.features")
      self._all[feature] = self._all[key]
    if classes is not None:
      self._all["label"] = _numbers(self._all.get("label"), classes, fname)
      num_classes, self.class_names = len(classes), list(classes)
    self.num_classes = num_classes
    rows = _rows_of_split(self._all, split or slices.ALL, split_seed)
    self._columns = {k: v[rows] for k, v in self._all.items()}
    labels = self._columns.get("label", np.zeros([0]))
    messages = {
      i: bad_examples.label_message(
        label, num_classes, f"line {rows[i] + (start or 0)} of {fname}"
      )
      for i, label in enumerate(labels.tolist() if num_classes else ())
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
    if self._folders or self._bad.messages:
      ds = ds.map(self._complete, tf.data.AUTOTUNE)
    return ds

  def some_labels(self, num: int) -> list[Any] | None:
    """See the base class."""
    labels = self._columns.get("label")
    if labels is None:
      return None
    picked = source.pairs_of_neighbors(self.total_examples, num)
    return labels[picked].tolist()

  def bad_examples(self) -> list[str]:
    return self._bad.messages

  def classes_of(self, feature: str) -> Classes | None:
    """See the base class. Of integers: the largest in all rows."""
    values = self._all.get(feature)
    if feature == "label" and self.num_classes is not None:
      return super().classes_of(feature)
    if values is None or values.dtype.kind not in "ib" or values.max() < 0:
      return None
    return Classes(int(values.max()) + 1)

  def labels_as_text(self) -> list[str] | None:
    """See the base class. Of all rows."""
    labels = self._all.get("label")
    if labels is None or labels.dtype != object:
      return None
    return sorted(set(labels))

  def split_names(self) -> list[str]:
    """Lists the values of the key `split` in order; none without such a key."""
    return list(_split_sizes(self._all))

  def example_spec(self) -> dict[str, tf.TensorSpec]:
    """See the base class."""
    return {
      k: tf.TensorSpec([], tf.string if v.dtype == object else v.dtype)
      for k, v in self._columns.items()
    }

  def training_order(
    self, order_seed: tf.Tensor | None = None
  ) -> tuple[
    tf.data.Dataset, Callable[[source.Example], source.Example] | None
  ]:
    """See the base class: files are read by the second return value."""
    del order_seed
    ds = self._rows(np.arange(self.total_examples))
    needed = self._folders or self._bad.messages
    return ds, self._complete if needed else None

  @property
  def total_examples(self) -> int:
    return len(self._columns["id"])

  def num_examples_per_process(self) -> list[int]:
    return [len(x) for x in self._process_indices()]

  def _process_indices(self):
    n, num_processes = self.total_examples, jax.process_count()
    assert n >= num_processes, f"{n} examples for {num_processes} processes"
    return np.array_split(np.arange(n), num_processes)

  def _rows(self, indices):
    """Opens the rows at `indices`, paths instead of files."""
    columns = {k: v[indices] for k, v in self._columns.items()}
    for key in self._download_keys:
      columns[key] = np.array(_download_all(columns[key]), object)
    for key, folder in self._folders.items():
      if folder and key not in self._download_keys:
        paths = [fs.join(folder, path) for path in columns[key]]
        columns[key] = np.array(paths, object)
    if self._bad.messages:
      columns[_NUMBER] = np.asarray(indices, np.int64)
    # Python strings become UTF-8.
    return tf.data.Dataset.from_tensor_slices(
      {
        k: tf.constant(list(v), tf.string) if v.dtype == object else v
        for k, v in columns.items()
      }
    )

  def _complete(self, row):
    """Fails for rows with wrong labels; replaces paths by files' bytes."""
    row = dict(row)
    if _NUMBER in row:
      number = row.pop(_NUMBER)
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


def _strings(keys):
  return [keys] if isinstance(keys, str) else sorted(keys)


def _read_columns(fname, start, stop):
  """Reads the rows `start <= line < stop`, as arrays by key, with `id`."""
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
      rows.append((i, _parse(_decode(line, i, fname), i, fname)))
  if not rows:
    raise ValueError(
      f"No rows in {fname} from data.start={start} to data.stop={stop}"
    )
  first_line, first = rows[0]
  types = {k: type(v) for k, v in first.items()}
  for i, row in rows:
    _check(row, types, f"Line {i} of {fname} differs from line {first_line}:")
  columns = {"id": np.array([str(i) for i in range(len(rows))], object)}
  for k, t in types.items():
    columns[k] = np.array([row[k] for _, row in rows], _TYPES[t])
  return columns


def _decode(line, i, fname):
  """Decodes a line: UTF-8, of which the first may begin with a mark."""
  try:
    return line.decode("utf-8-sig" if i == 0 else "utf-8")
  except UnicodeDecodeError as e:
    raise ValueError(
      f"Invalid JSON in line {i} of {fname}: not UTF-8 but "
      f"{line[e.start : e.end]!r}; save the file as UTF-8"
    ) from None


def _parse(line, i, fname):
  """Parses one line: a dict of scalars."""
  try:
    row = json.loads(line)
  except json.JSONDecodeError as e:
    raise ValueError(f"Invalid JSON in line {i} of {fname}: {e}") from e
  if not isinstance(row, dict):
    raise ValueError(f"Invalid JSON in line {i} of {fname}: not an object")
  for k, v in row.items():
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
