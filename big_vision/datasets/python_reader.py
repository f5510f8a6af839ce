"""Reading examples with Python functions from within a graph."""

import numpy as np
import tensorflow as tf


def call(fn, index, specs):
  """Reads an example.

  Args:
    fn: `int -> list` of values that NumPy understands, one per spec. May raise
      ValueError, or OSError, whose text should name the file.
    index: int64 scalar tensor.
    specs: list of `tf.TensorSpec`.

  Returns:
    List of tensors.

  Raises:
    tf.errors.InvalidArgumentError: (when it is run; ValueError if that is not
      within a graph) what `fn` raised.
  """

  def read(index):
    try:
      values = fn(int(index))
    except OSError as e:  # TensorFlow knows ValueError as a bad argument.
      raise ValueError(str(e)) from e
    return [_array(v, s) for v, s in zip(values, specs, strict=True)]

  # Fewer outputs are faster: each costs a tenth of the call.
  types = [spec.dtype for spec in specs]
  values = tf.numpy_function(read, [index], types, stateful=False)
  for value, spec in zip(values, specs, strict=True):
    value.set_shape(spec.shape)
  return values


def _array(value, spec):
  """What `tf.numpy_function` takes: zeros at the end of bytes survive it."""
  if isinstance(value, bytes):
    return value
  dtype = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
  return np.asarray(value, dtype)
