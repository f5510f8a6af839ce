"""Integer labels in preprocessing: who reads them, and are they in range?

Called on its own, `onehot` gives all `off` for a label outside of its range.
Within an input pipeline, where each example has its seed, such a label is an
error of its example: it would leave loss and accuracy without a word. -1 stays
the label of examples that have none.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

from big_vision.lookup import ConfigError
from big_vision.pp import rng
from big_vision.tf import tf


@dataclasses.dataclass(frozen=True)
class Use:
  """Notes that an op has read labels.

  Attributes:
    key: the entry that was read.
    key_result: the entry that was written.
    depth: labels have to be smaller.
    labels: the tensor, as it was in the entry.
    rank: number of its dimensions: 0 for one label per example.
  """

  key: str
  key_result: str
  depth: int
  labels: Any
  rank: int | None


_uses: contextvars.ContextVar[list[Use] | None] = contextvars.ContextVar(
  "big_vision_pp_labels", default=None
)


@dataclasses.dataclass
class PutOff:
  """Checks of labels that wait for what a filter says.

  Attributes:
    graph: that of the preprocessing; what is within loops is not checked.
    checks: (is the label good, text of the error) of each `read`.
  """

  graph: Any
  checks: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)

  def run(self, keep: Any, example: Any) -> Any:
    """Fails for an example that is kept although its label is out of range.

    Args:
      keep: bool, whether the filter keeps it.
      example: tree of tensors.

    Returns:
      `example`.

    Raises:
      tf.errors.InvalidArgumentError: (when it is run) see `read`.
    """
    dropped = tf.logical_not(tf.cast(keep, tf.bool))
    fails = [tf.debugging.Assert(ok | dropped, [t]) for ok, t in self.checks]
    with tf.control_dependencies(fails):
      return tf.nest.map_structure(tf.identity, example) if fails else example


_put_off: contextvars.ContextVar[PutOff | None] = contextvars.ContextVar(
  "big_vision_pp_labels_put_off", default=None
)


@contextlib.contextmanager
def put_off() -> Iterator[PutOff]:
  """Lets labels be out of range inside: a filter may drop such examples.

  Yields:
    The checks, for when the filter has decided.
  """
  waiting = PutOff(tf.compat.v1.get_default_graph())
  token = _put_off.set(waiting)
  try:
    yield waiting
  finally:
    _put_off.reset(token)


@contextlib.contextmanager
def record() -> Iterator[list[Use]]:
  """Collects what ops inside the `with` block note, when they are traced.

  Yields:
    The list of notes, which grows.
  """
  uses: list[Use] = []
  token = _uses.set(uses)
  try:
    yield uses
  finally:
    _uses.reset(token)


def read(
  value: Any, key: str, key_result: str, depth: int, op: str = "onehot"
) -> tf.Tensor:
  """Reads labels for an op that knows labels in [0, depth).

  Args:
    value: tensor of numbers.
    key: the entry that it is from.
    key_result: the entry that the op writes.
    depth: number of classes.
    op: name of the op, for errors.

  Returns:
    int64 tensor of the same shape.

  Raises:
    ConfigError: the entry holds text.
    tf.errors.InvalidArgumentError: (when it is run) within an input pipeline, a
      scalar is neither an integer in [0, depth) nor -1.
  """
  ragged = isinstance(value, tf.RaggedTensor)
  labels = value if ragged else tf.convert_to_tensor(value)
  if (uses := _uses.get()) is not None:
    uses.append(Use(key, key_result, depth, value, labels.shape.rank))
  if labels.dtype == tf.string:
    raise ConfigError(
      f"{op}({depth}, key={key!r}): {key!r} holds text, but labels are integers. "
      f"Number the classes with lookup('FILE', key={key!r}) before it, or name "
      "the feature that has the numbers."
    )
  ints = tf.cast(labels, tf.int64)
  if rng.epoch() is None or labels.shape.rank != 0:
    return ints
  good = (ints >= -1) & (ints < depth)
  if labels.dtype.is_floating:
    good &= tf.equal(tf.cast(ints, labels.dtype), labels)
  # Without quotes, which TensorFlow would escape.
  message = f" ({key}) is not an integer in [0, {depth}), the labels of "
  message += f"{op}({depth}), nor -1, which means that there is none."
  text = tf.strings.join(["The label ", tf.strings.as_string(labels), message])
  if (waiting := _put_off.get()) is not None:
    if waiting.graph is tf.compat.v1.get_default_graph():
      waiting.checks.append((good, text))
    return ints
  with tf.control_dependencies([tf.debugging.Assert(good, [text])]):
    return tf.identity(ints)
