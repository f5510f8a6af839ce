"""From columns of Hugging Face datasets to tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from big_vision.datasets import bad_examples
from big_vision.tf import tf

_STRINGS = ("string", "large_string", "binary", "large_binary")
_NUMBERS = (
  "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 "
  "float64"
).split()


class Column:
  """Reads a column of a table.

  Args:
    path: tuple of str, name of the column and of those in structs below it.
    dtype: tf.DType.
    shape: list of int or None (any).
    is_file: values are structs of `bytes` and `path`, one of them null.
    num_classes: values have to be smaller.
    names: those of the classes, if they have any.
  """

  def __init__(
    self,
    path: tuple[str, ...],
    dtype: tf.DType,
    shape: Sequence[int | None] = (),
    is_file: bool = False,
    num_classes: int | None = None,
    names: Sequence[str] | None = None,
  ):
    self.name = "/".join(path)
    self.spec = tf.TensorSpec(shape, dtype)
    self.num_classes = num_classes
    self.names = names
    self._path = path
    self._is_file = is_file

  def read(self, table: Any, row: int, where: str) -> tuple[Any, str | None]:
    """Reads one value.

    Args:
      table: pyarrow.Table.
      row: int.
      where: for errors.

    Returns:
      (value, file name or None): bytes, or an array of the shape in `spec`.

    Raises:
      ValueError: the value is missing or does not fit the type.
      OSError: the file of an image cannot be read.
    """
    value = table.column(self._path[0])[row].as_py()
    for key in self._path[1:]:
      value = None if value is None else value[key]
    if value is None:
      raise ValueError(f"{self.name!r} of {where} is null.")
    if self._is_file:
      return _content(value, self.name, where)
    if self.num_classes is not None:
      self._check_labels(value, where)
    if not self.spec.shape.rank and self.spec.dtype == tf.string:
      return (value.encode() if isinstance(value, str) else value), None
    return self._array(value, where), None

  def _array(self, value, where):
    is_text = self.spec.dtype == tf.string
    dtype = object if is_text else self.spec.dtype.as_numpy_dtype
    try:
      array = np.array(value, dtype)
    except (ValueError, TypeError, OverflowError) as e:
      raise ValueError(f"{self.name!r} of {where}: {e}") from e
    if not array.size:  # Of inner dimensions nothing is known.
      array = array.reshape([d or 0 for d in self.spec.shape])
    if not self.spec.shape.is_compatible_with(array.shape):
      raise ValueError(
        f"{self.name!r} of {where} has the shape {array.shape}, not "
        f"{self.spec.shape}: lists of different lengths cannot be a tensor."
      )
    return array

  def _check_labels(self, value, where):
    for label in np.array(value, object).ravel():
      text = bad_examples.label_message(label, self.num_classes, where)
      if text:
        raise ValueError(text)

  @property
  def is_text(self) -> bool:
    """Whether each value is one text or binary."""
    scalar = not self.spec.shape.rank
    return scalar and self.spec.dtype == tf.string and not self._is_file

  def texts(self, tables: Iterable[Any]) -> list[str]:
    """Lists the different values of a column of text.

    Args:
      tables: pyarrow.Table each.

    Returns:
      The values, sorted, without null.
    """
    found = set()
    for table in tables:
      found.update(self.values(table).unique().to_pylist())
    return sorted(x for x in found if x is not None)

  def largest(self, tables: Iterable[Any]) -> int | None:
    """Finds the largest value of a column of integers.

    Args:
      tables: pyarrow.Table each.

    Returns:
      int; None if the column is not one of scalar integers, or empty.
    """
    import pyarrow.compute as pc

    if self.spec.shape.rank or not self.spec.dtype.is_integer:
      return None
    found = [pc.max(self.values(table)).as_py() for table in tables]
    return max((x for x in found if x is not None), default=None)

  def bad_labels(self, table: Any) -> list[tuple[int, int]]:
    """Finds labels out of range, all at once.

    Args:
      table: pyarrow.Table.

    Returns:
      List of (row, label), of columns of integers with a number of classes.
    """
    import pyarrow.compute as pc

    is_int = self.spec.dtype.is_integer and not self.spec.shape.rank
    if self.num_classes is None or not is_int:
      return []
    values = self.values(table)
    bad = pc.or_(pc.less(values, 0), pc.greater_equal(values, self.num_classes))
    rows = pc.indices_nonzero(pc.fill_null(bad, False)).to_pylist()
    return [(row, values[row].as_py()) for row in rows]

  def values(self, table: Any) -> Any:
    """Returns the column of a table.

    Args:
      table: pyarrow.Table.

    Returns:
      pyarrow.ChunkedArray.
    """
    import pyarrow.compute as pc

    column = table.column(self._path[0])
    for key in self._path[1:]:
      column = pc.struct_field(column, key)
    return column


class TextLabel(Column):
  """Reads a column of class names as labels.

  Args:
    column: of text.
    classes: names; the label is the position in them.
  """

  def __init__(self, column: Column, classes: Sequence[str]):
    super().__init__(
      column._path, tf.int64, num_classes=len(classes), names=tuple(classes)
    )
    self._column = column
    self._numbers = {name: i for i, name in enumerate(classes)}

  def read(self, table: Any, row: int, where: str) -> tuple[Any, str | None]:
    """See the base class."""
    value, _ = self._column.read(table, row, where)
    if self.number(value.decode()) < 0:
      raise ValueError(
        f"{self.name!r} of {where} is {value.decode()!r}, which is none of the "
        f"{self.num_classes} classes."
      )
    return np.int64(self.number(value.decode())), None

  def number(self, name: str | None) -> int:
    """Returns the label of a class, -1 of what is none."""
    return -1 if name is None else self._numbers.get(name, -1)

  def bad_labels(self, table: Any) -> list[tuple[int, int]]:
    """See the base class: texts that are not classes fail when they are read."""
    del table
    return []


def _content(value, name, where):
  """(bytes of a file, its name or None)."""
  path = value.get("path")
  base = os.path.basename(path) if path else None
  if value.get("bytes") is not None:
    return value["bytes"], base
  if not path:
    raise ValueError(f"{name!r} of {where} has neither bytes nor a path.")
  try:
    with open(path, "rb") as f:
      return f.read(), base
  except OSError as e:
    raise OSError(f"{name!r} of {where}: {e}") from e


def columns(schema: Any) -> dict[str, Column | None]:
  """Finds out what can be read of a table.

  Args:
    schema: pyarrow.Schema, with the features of `datasets` in its metadata if
      that library has written it.

  Returns:
    dict of name -> `Column`, or None if its type cannot be a tensor.
  """
  from datasets import Features

  out = {}
  for name, feature in Features.from_arrow_schema(schema).items():
    _add(out, (name,), feature)
  return out


def _add(out, path, feature):
  """Adds the columns of a feature, those of structs one by one."""
  if isinstance(feature, dict) and set(feature) != {"bytes", "path"}:
    for key, inner in feature.items():
      _add(out, (*path, key), inner)
  else:
    out["/".join(path)] = _column(path, feature)


def _column(path, feature):
  """Makes a `Column`; None if its type cannot be a tensor."""
  kind = type(feature).__name__
  if kind == "Image" or isinstance(feature, dict):
    return Column(path, tf.string, is_file=True)
  shape = []
  while kind in ("List", "LargeList", "Sequence"):
    length = getattr(feature, "length", -1)
    shape.append(None if length in (-1, None) else length)
    feature = feature.feature
    kind = type(feature).__name__
  if kind.startswith("Array") and not shape:
    shape, dtype = list(feature.shape), feature.dtype
  elif kind == "ClassLabel":
    n, names = feature.num_classes, feature.names
    return Column(path, tf.int64, shape, num_classes=n, names=names)
  elif kind == "Value":
    dtype = feature.dtype
  else:
    return None
  if dtype in _STRINGS:
    return Column(path, tf.string, shape)
  return Column(path, tf.as_dtype(dtype), shape) if dtype in _NUMBERS else None
