"""Examples that cannot be used: errors in graphs that name a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision.datasets.source import Example
from big_vision.tf import tf


class BadExamples:
  """Holds what is known to be wrong with examples before they are read.

  The source can be opened all the same, so that `skip_errors` can drop them.

  Args:
    messages: example number -> message that names the file and the problem.
  """

  def __init__(self, messages: Mapping[int, str]):
    self._numbers = np.array(sorted(messages), np.int64)
    self.messages = [messages[int(i)] for i in self._numbers]

  def check(self, index: tf.Tensor, example: Example) -> Example:
    """Fails for the examples that something is wrong with.

    Args:
      index: int64 scalar, number of the example.
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
    texts = [m.encode("utf-8", "backslashreplace") for m in self.messages]
    message = tf.where(fails, tf.gather(texts, place), "")
    return fail_with(message, example)


def fail_with(message: tf.Tensor, example: Example) -> Example:
  """Raises an error whose message is a tensor.

  Args:
    message: string scalar; empty for no error.
    example: dict of tensors.

  Returns:
    `example`, which cannot be computed if there is a message.

  Raises:
    tf.errors.InvalidArgumentError: (when it is run) there is a message.
  """
  check = tf.debugging.Assert(tf.equal(message, ""), [message])
  with tf.control_dependencies([check]):
    return tf.nest.map_structure(tf.identity, example)


def check_label(
  example: Example, name: str, num: int, where: Any, low: int = 0
) -> Example:
  """Fails for a label that is out of range.

  Args:
    example: dict of tensors.
    name: the entry with the label; other types than integers are not checked.
    num: number of classes.
    where: string scalar, names the example.
    low: the smallest label.

  Returns:
    `example`.

  Raises:
    tf.errors.InvalidArgumentError: (when it is run) the label is outside of
      [low, num).
  """
  label = tf.convert_to_tensor(example[name])
  if not label.dtype.is_integer or label.shape.rank != 0:
    return example
  label = tf.cast(label, tf.int64)
  parts = ["The label ", tf.strings.as_string(label), " (", name, ") of "]
  parts += [where, f" is outside of [0, {num})."]
  good = (label >= low) & (label < num)
  return fail_with(tf.where(good, "", tf.strings.join(parts)), example)


def label_message(
  label: Any, num_classes: int | None, where: str
) -> str | None:
  """Says what is wrong with a label.

  Args:
    label: the label.
    num_classes: None if unknown.
    where: the file that has the label.

  Returns:
    A message; None if the label is an integer in [0, num_classes).
  """
  if isinstance(label, str | bytes):
    return f"The label {label!r:.100} of {where} is text, not an integer."
  if isinstance(label, float) and not label.is_integer():
    return f"The label {label} of {where} is not an integer."
  if abs(label) >= 2**63:
    return f"The label {label} of {where} does not fit into int64."
  if label >= 0 and (num_classes is None or label < num_classes):
    return None
  known = "must not be negative" if num_classes is None else "is outside of "
  if num_classes is not None:
    known += f"[0, {num_classes})"
  return f"The label {label} of {where} {known}."
