"""Examples that can not be used: errors in graphs that name a file."""

import numpy as np
import tensorflow as tf


class Problems:
  """What is wrong with some examples of a source, known before reading them.

  The source can be opened all the same, so that `skip_errors` can drop them.

  Args:
    messages: dict of example number -> str, naming the file and the problem.
  """

  def __init__(self, messages):
    self._numbers = np.array(sorted(messages), np.int64)
    self.messages = [messages[i] for i in self._numbers]

  def check(self, index, example):
    """Fails for the examples with a problem.

    Args:
      index: int64 scalar tensor, number of the example.
      example: dict of tensors.

    Returns:
      `example`.

    Raises:
      tf.errors.InvalidArgumentError: (when it is run) with the message.
    """
    if not self.messages:
      return example
    place = tf.searchsorted(self._numbers, index[None])[0]
    place = tf.minimum(place, len(self._numbers) - 1)
    fails = tf.equal(tf.gather(self._numbers, place), index)
    message = tf.where(fails, tf.gather(self.messages, place), "")
    return fail_with(message, example)


def fail_with(message, example):
  """Raises an error with a message that is a tensor.

  Args:
    message: string scalar tensor; empty for no error.
    example: dict of tensors.

  Returns:
    `example`, which can not be computed if there is a message.

  Raises:
    tf.errors.InvalidArgumentError: (when it is run) there is a message.
  """
  check = tf.debugging.Assert(tf.equal(message, ""), [message])
  with tf.control_dependencies([check]):
    return tf.nest.map_structure(tf.identity, example)


def label_message(label, num_classes, where):
  """What to say of a label.

  Args:
    label: int.
    num_classes: int or None if unknown.
    where: str, the file that has the label.

  Returns:
    str; None if the label is in [0, num_classes).
  """
  if label >= 0 and (num_classes is None or label < num_classes):
    return None
  known = "must not be negative" if num_classes is None else "is outside of "
  if num_classes is not None:
    known += f"[0, {num_classes})"
  return f"The label {label} of {where} {known}."


def call_python(fn, index, specs):
  """Reads an example with a Python function, within a graph.

  Args:
    fn: `int -> list` of values that NumPy understands, one per spec. May raise
      ValueError or OSError, whose text should name the file.
    index: int64 scalar tensor.
    specs: list of `tf.TensorSpec`.

  Returns:
    List of tensors.

  Raises:
    tf.errors.InvalidArgumentError: (when it is run) what `fn` raised.
  """
  empty = [_empty(spec) for spec in specs]

  # Errors travel as values: TensorFlow would add a Python traceback to them.
  def read(i):
    try:
      values = fn(int(i))
    except (OSError, ValueError) as e:
      return [str(e).encode(), *empty]
    return [b"", *(_array(v, s) for v, s in zip(values, specs, strict=True))]

  types = [tf.string, *(spec.dtype for spec in specs)]
  message, *values = tf.numpy_function(read, [index], types, stateful=False)
  message.set_shape([])
  for value, spec in zip(values, specs, strict=True):
    value.set_shape(spec.shape)
  return fail_with(message, values)


def _empty(spec):
  if spec.dtype == tf.string and not spec.shape.rank:
    return b""
  dtype = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
  return np.zeros([d or 0 for d in spec.shape], dtype)


def _array(value, spec):
  """What `tf.numpy_function` takes: zeros at the end of bytes survive it."""
  if isinstance(value, bytes):
    return value
  dtype = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
  return np.asarray(value, dtype)
