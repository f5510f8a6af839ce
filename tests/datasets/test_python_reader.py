"""Examples that Python reads in blocks."""

import numpy as np
import pytest

from big_vision.datasets import python_reader
from big_vision.tf import tf

pytestmark = pytest.mark.tf


def make_specs():
  return [
    tf.TensorSpec([], tf.string),
    tf.TensorSpec([2], tf.float32),
    tf.TensorSpec([1], tf.string),
  ]


def value(i):
  return [b"%d\0\0" % i, [i, i / 2], [f"\N{SNOWMAN}{i}"]]


def read(fn, n, specs=None):
  """What comes of n examples, in blocks of 4: values, or the error."""
  specs = specs or make_specs()
  ds = tf.data.Dataset.range(n).batch(4)
  ds = ds.map(lambda i: tuple(python_reader.fetch(fn, i, specs))).unbatch()
  ds = ds.map(lambda *x: tuple(python_reader.unpack(x)))
  assert ds.element_spec == tuple(specs)
  out, it = [], iter(ds)
  for _ in range(n):
    try:
      out.append([x.numpy() for x in next(it)])
    except tf.errors.InvalidArgumentError as e:
      out.append(e.message)
  assert next(it, None) is None
  return out


def test_values():
  for i, (a, b, c) in enumerate(read(value, 10)):
    assert a == b"%d\0\0" % i
    np.testing.assert_array_equal(b, [i, i / 2])
    assert c == ["\N{SNOWMAN}%d".encode() % i]


def test_errors_come_in_their_turn():
  errors = {
    1: ValueError("bad 'x' in /a/b.tar"),
    6: KeyError("k"),
    7: OSError(2, "No such file", "c.jpg"),
    8: AttributeError(),
  }

  def fails(i):
    if i in errors:
      raise errors[i]
    return value(i)

  out = read(fails, 10)
  assert [i for i, x in enumerate(out) if isinstance(x, str)] == [1, 6, 7, 8]
  assert "bad 'x' in /a/b.tar" in out[1].replace("\\", "")
  assert "KeyError: " in out[6]
  assert "No such file" in out[7] and "c.jpg" in out[7]
  assert "AttributeError" in out[8]
  assert [x[0] for i, x in enumerate(out) if i not in errors] == [
    b"%d\0\0" % i for i in range(10) if i not in errors
  ]


def test_outside_of_graphs():
  def fails(i):
    raise ValueError("file.x")

  one = lambda fn: [
    x[0] for x in python_reader.fetch(fn, tf.constant([3]), make_specs())
  ]
  assert python_reader.unpack(one(value))[0] == b"3\0\0"
  with pytest.raises(ValueError, match="^file.x$"):
    python_reader.unpack(one(fails))


def test_reader():
  class Source(python_reader.Reader):
    specs = make_specs()

    def read_python(self, index):
      return value(index)

    def complete(self, index, fetched):
      return {"index": index, "text": python_reader.unpack(fetched)[0]}

  source = Source()
  ds = tf.data.Dataset.range(3).map(source.read)
  for i, x in enumerate(ds.as_numpy_iterator()):
    assert x == {"index": i, "text": b"%d\0\0" % i}
  assert source.block_size > 1
  source.specs = [*make_specs(), tf.TensorSpec([None], tf.int64)]
  assert source.block_size == 1
  # One at a time, anything goes.
  ds = tf.data.Dataset.range(3).map(
    lambda i: python_reader.fetch(
      lambda i: [range(i)], i[None], [tf.TensorSpec([None], tf.int64)]
    )[0][0]
  )
  assert [list(x) for x in ds.as_numpy_iterator()] == [[], [0], [0, 1]]
