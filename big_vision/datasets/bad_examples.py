"""Examples that can not be used: errors in graphs that name a file."""

import numpy as np

from big_vision.tf import tf


class BadExamples:
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
