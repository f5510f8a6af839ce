"""Reading examples with Python functions from within a graph.

Calls of Python are slow to get from the threads of tf.data, so several examples
are read in one; what fails is reported when the turn of that example comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from big_vision import fs, remote_stores
from big_vision.datasets.source import Example
from big_vision.tf import plain, tf

_BLOCK = 16  # Examples per call. More gain nothing, measured with JPEGs.


class Reader:
  """Adds to a data source `read(index)`, and the same for blocks of examples.

  Subclasses define `specs`, a list of `tf.TensorSpec`; `read_python(index)`, a
  list of values that NumPy understands, one per spec; and `complete`. What
  `read_python` raises should name the file.
  """

  specs: Sequence[tf.TensorSpec]

  @property
  def block_size(self) -> int:
    """How many examples `fetch` may read at a time: 1 if shapes differ."""
    fixed = all(s.shape.is_fully_defined() for s in self.specs)
    return _BLOCK if fixed else 1

  def read_python(self, index: int) -> Sequence[Any]:
    """Reads the values of one example, see the head of the class."""
    raise RuntimeError(f"{type(self).__name__} must override read_python")

  def fetch(self, indices: tf.Tensor) -> list[tf.Tensor]:
    """Reads examples ([N] int64, N <= `block_size`): tensors [N, ...]."""
    return fetch(self.read_python, indices, self.specs)

  def complete(self, index: tf.Tensor, fetched: Sequence[tf.Tensor]) -> Example:
    """Makes a raw example from its rows of what was fetched; see `unpack`."""
    raise RuntimeError(f"{type(self).__name__} must override complete")

  @plain
  def read(self, index: tf.Tensor) -> Example:
    """See `source.IndexedDataSource`."""
    fetched = self.fetch(tf.reshape(index, [1]))
    return self.complete(index, [x[0] for x in fetched])


@plain
def fetch(
  fn: Callable[[int], Sequence[Any]],
  indices: tf.Tensor,
  specs: Sequence[tf.TensorSpec],
) -> list[tf.Tensor]:
  """Reads examples.

  Args:
    fn: number of an example -> values that NumPy understands, one per spec. May
      raise; the text of the exception should name the file.
    indices: [N] int64; only one, if shapes differ.
    specs: those of one example.

  Returns:
    List of tensors [N, ...], for `unpack`.
  """
  specs = [*specs, tf.TensorSpec([], tf.string)]

  def read(indices):
    rows = [_row(fn, int(i), specs) for i in indices]
    return [np.stack(column) for column in zip(*rows, strict=True)]

  # Fewer outputs are faster: each costs a tenth of the call.
  types = [spec.dtype for spec in specs]
  values = tf.numpy_function(read, [indices], types, stateful=False)
  for value, spec in zip(values, specs, strict=True):
    value.set_shape([indices.shape[0], *spec.shape])
  return values


def unpack(fetched: Sequence[tf.Tensor]) -> list[tf.Tensor]:
  """Takes one example apart: row n of every tensor that `fetch` returned.

  Args:
    fetched: the values of the example, then the text of its error.

  Returns:
    The values.

  Raises:
    tf.errors.InvalidArgumentError: (when it is run; ValueError if that is not
      within a graph) what the function raised.
  """
  *values, error = fetched
  if tf.executing_eagerly():
    if message := error.numpy().decode("utf-8", "backslashreplace"):
      raise ValueError(message)
    return values
  good = tf.debugging.Assert(tf.equal(error, ""), [error])
  with tf.control_dependencies([good]):
    return [tf.identity(v) for v in values]


def _row(fn, index, specs):
  """[*values, error], arrays; the error is empty if there is none."""
  try:
    values, error = fn(index), b""
  except Exception as e:
    text = str(e)
    if not isinstance(e, (ValueError, OSError)):
      text = f"{type(e).__name__}: {text}"
    error = text.encode("utf-8", "backslashreplace") or b"failed"
    values = map(_nothing, specs[:-1])
  return [
    np.asarray(v, _dtype(spec))
    for v, spec in zip([*values, error], specs, strict=True)
  ]


def _nothing(spec):
  fill = b"" if spec.dtype == tf.string else 0
  return np.full([d or 0 for d in spec.shape], fill, _dtype(spec))


def _dtype(spec):
  """Zeros at the end of bytes only survive as objects."""
  return object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype


def read_file(path: tf.Tensor, folder: str) -> tf.Tensor:
  """Reads a file in a graph.

  Args:
    path: string scalar.
    folder: what the path begins with; from it is seen whether TensorFlow can
      read the file itself.

  Returns:
    String scalar.
  """
  scheme = remote_stores.scheme_of(folder)
  if not scheme or scheme in tf.io.gfile.get_registered_schemes():
    return tf.io.read_file(path)

  def read(path):
    with fs.open(path.decode(), "rb") as f:
      # A plain array of bytes would lose zeros at the end.
      return np.array(f.read(), object)

  content = tf.numpy_function(read, [path], tf.string, stateful=False)
  return tf.ensure_shape(content, [])
