"""Several labels per example, and numbers to predict: from columns of tables.

A feature of a source can be made of a list of columns. Of `label`, each column is
a class and has 0 or 1 for an example; of any other feature, each has a number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision import untrusted
from big_vision.lookup import ConfigError
from big_vision.tf import tf

_SEPARATORS = ";|,"
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_ONES, _ZEROS = ("1", "1.0", "True"), ("0", "0.0", "False")
_WHERE = "config.input.data.features: the column"


class LabelSets:
  """Holds the labels of examples that have any number of them.

  Attributes:
    values: int64, the labels of all examples, one after the other.
    splits: int64 [N + 1], where the labels of each example begin and end.
  """

  def __init__(self, sets: Sequence[Sequence[int] | np.ndarray]):
    """Takes the labels of N examples.

    Args:
      sets: N sequences of labels.
    """
    self.splits = np.cumsum([0, *map(len, sets)], dtype=np.int64)
    parts = [np.asarray(labels, np.int64) for labels in sets]
    self.values = np.concatenate([np.zeros([0], np.int64), *parts])

  def __len__(self) -> int:
    return len(self.splits) - 1

  def __getitem__(self, index: int) -> np.ndarray:
    return self.values[self.splits[index] : self.splits[index + 1]]

  def take(self, indices: Sequence[int] | np.ndarray) -> LabelSets:
    """Selects examples.

    Args:
      indices: their numbers.

    Returns:
      Their labels.
    """
    return LabelSets([self[i] for i in indices])

  def outside(self, num_classes: int | None) -> dict[int, int]:
    """Finds labels that are out of range.

    Args:
      num_classes: labels have to be smaller; None if that is unknown.

    Returns:
      Number of the example -> place of its first such label.
    """
    bad = self.values < 0
    if num_classes is not None:
      bad |= self.values >= num_classes
    places = np.flatnonzero(bad)[::-1]  # The first of an example comes last.
    examples = np.searchsorted(self.splits, places, side="right") - 1
    found = zip(examples.tolist(), places.tolist(), strict=True)
    return {i: place - int(self.splits[i]) for i, place in found}

  def read(self, index: tf.Tensor) -> tf.Tensor:
    """Reads the labels of an example within a graph.

    Args:
      index: int64 scalar.

    Returns:
      int64 [number of its labels].
    """
    values, splits = self._tensors
    return values[tf.gather(splits, index) : tf.gather(splits, index + 1)]

  @functools.cached_property
  def _tensors(self):
    """The arrays, once for all graphs."""
    with tf.init_scope():
      return tf.constant(self.values), tf.constant(self.splits)


def split_cells(cells: Sequence[str]) -> list[list[str]]:
  """Splits cells that list several labels each.

  Args:
    cells: of a column. They are separated by the first of `;`, `|` and `,` that
      any of them has, or are lists as Python and JSON write them, `["a", "b"]`.

  Returns:
    The labels of each cell; none of an empty one.
  """
  given = [cell for cell in cells if cell]
  if given and all(cell[0] == "[" and cell[-1] == "]" for cell in given):
    try:
      lists = [untrusted.literal(cell) if cell else [] for cell in cells]
      return [[str(label) for label in labels] for labels in lists]
    except (ValueError, SyntaxError):
      pass  # Names of classes may have brackets.
  separator = next((s for s in _SEPARATORS if any(s in c for c in cells)), None)
  split = [cell.split(separator) if separator else [cell] for cell in cells]
  return [[x.strip() for x in labels if x.strip()] for labels in split]


def is_yes_or_no(values: Sequence[Any]) -> bool:
  """Tells whether a column has nothing but 0 and 1."""
  return {str(value).lower() for value in values} <= {*_YES, *_NO}


def yes_or_no(
  values: Sequence[Any], column: str, where: Callable[[int], str]
) -> np.ndarray:
  """Reads a column of 0 and 1.

  Args:
    values: numbers, bools, or text.
    column: its name, for errors.
    where: number of the value -> the place it is from, for errors.

  Returns:
    bool [N].

  Raises:
    ConfigError: there is anything else.
  """
  words = [str(value).lower() for value in values]
  for i, word in enumerate(words):
    if word not in _YES and word not in _NO:
      raise ConfigError(
        f"{_WHERE} {column!r} has {_shown(values[i])} in {where(i)}: write 1 for "
        "examples of this class, 0 for others."
      )
  return np.isin(words, _YES)


def _shown(value):
  """Shows a value as it is in the file, at most its begin."""
  text = repr(value.item() if isinstance(value, np.generic) else value)
  return text if len(text) <= 60 else f"{text[:59]}…"


def sets_of(columns: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Makes labels of one column per class.

  Args:
    columns: bool [N] each.

  Returns:
    The numbers of the columns that are true, for each example.
  """
  return [np.flatnonzero(row) for row in np.stack(columns, axis=1)]


def numbers(
  columns: Mapping[str, Sequence[Any]], where: Callable[[int], str]
) -> np.ndarray:
  """Reads columns of numbers to predict.

  Args:
    columns: name -> numbers, bools, or text; or lists of numbers, of one length.
    where: number of the example -> the place it is from, for errors.

  Returns:
    float32 [N, T], what the columns have side by side.

  Raises:
    ConfigError: there is anything else, or a number that is not finite.
  """
  parts = [_numbers(values, name, where) for name, values in columns.items()]
  return np.concatenate(parts, axis=1)


def _numbers(values, column, where):
  """Reads one column, float32 [N, its numbers of an example]."""
  size = np.size(values[0]) if len(values) else 1
  out = np.full([len(values), size], np.nan, np.float32)
  for i, value in enumerate(values):
    try:
      out[i] = np.reshape(value, [size]).astype(np.float64)
    except (TypeError, ValueError):
      pass  # It stays NaN, which is refused.
    if not np.isfinite(out[i]).all():
      what = "a number, such as 0.5" if size == 1 else f"{size} numbers"
      raise ConfigError(
        f"{_WHERE} {column!r} has {_shown(value)} in {where(i)}: write {what}, or take "
        "the example out."
      )
  return out


def class_numbers(
  labels: Sequence[Sequence[Any]], classes: Sequence[str] | None
) -> tuple[list[list[int]], list[str] | None]:
  """Numbers labels that are names, integers, or 0 or 1 for each class.

  Args:
    labels: of each example.
    classes: names of the classes; None: those that there are, sorted, unless all
      labels are numbers.

  Returns:
    (labels as numbers, -1 for what is not a class; names of the classes, None if
    they are called by their numbers and it is unknown how many there are).
  """
  if is_vectors(labels):
    sets = [
      [i for i, x in enumerate(of_one) if str(x) in _ONES] for of_one in labels
    ]
    return sets, list(classes or map(str, range(len(labels[0]))))
  every = {label for of_one in labels for label in of_one}
  if classes is None:
    if all(_is_int(label) for label in every):
      return [[int(label) for label in of_one] for of_one in labels], None
    classes = sorted(map(str, every))
  number = {name: i for i, name in enumerate(classes)}
  found = [[number.get(str(x), -1) for x in of_one] for of_one in labels]
  return found, list(classes)


def is_vectors(labels: Sequence[Sequence[Any]]) -> bool:
  """Tells whether lists hold 0 or 1 for each class, rather than its number.

  Args:
    labels: of each example.

  Returns:
    Whether they have one length and no other values, and one of them has a value
    twice, which numbers of classes would not.
  """
  if len({len(x) for x in labels}) != 1 or len(labels[0]) < 2:
    return False
  every = {x for of_one in labels for x in of_one}
  if not {str(x) for x in every} <= {*_ONES, *_ZEROS}:
    return False
  return any(len(set(of_one)) < len(of_one) for of_one in labels)


def _is_int(label):
  if isinstance(label, str):
    return label.lstrip("+-").isdecimal()
  return isinstance(label, int | np.integer) and not isinstance(label, bool)
