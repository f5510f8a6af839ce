"""Ops whose last step can be done for a whole batch at once, or on devices.

A call of Python from tf.data takes longer than to tokenize a text, so tokenizers
are called once per batch. Pixels of 8 bits are a quarter of the bytes of float32:
GPUs get those, and look up what `value_range` makes of each. That is a matter of
speed alone: the steps give the same values either way.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from big_vision.pp.types import Example, ExampleFn, TensorFn
from big_vision.tf import tf

_MOST_CHANNELS = 4  # Of a table of results.


@dataclasses.dataclass(frozen=True)
class TwoSteps:
  """A function of a value, in two steps.

  Attributes:
    first: what has to be done for each example, such as random choices.
    second: the rest. It has no state and draws no random numbers, and each
      scalar has its own result: for tensors of shape [B] it gives [B, ...].
  """

  first: TensorFn
  second: TensorFn

  def __call__(self, value: tf.Tensor) -> tf.Tensor:
    """Does both steps."""
    return self.second(self.first(value))


@dataclasses.dataclass(frozen=True)
class OfBytes:
  """A function of the values of an image, each on its own.

  Attributes:
    fn: without state or random numbers. It may treat the channels, the last
      axis, differently.
  """

  fn: TensorFn

  def __call__(self, value: tf.Tensor) -> tf.Tensor:
    """Calls the function."""
    return self.fn(value)

  def table(self, channels: int) -> np.ndarray:
    """Computes all results for uint8: [256, channels]."""
    with tf.init_scope():
      values = np.arange(256, dtype=np.uint8)[:, None]
      return self.fn(tf.constant(values.repeat(channels, 1))).numpy()


class Later(dict[str, TensorFn]):
  """Second steps that wait until examples are batched, by name of the entry.

  Attributes:
    of_bytes: functions that wait until batches are on devices, by name of the
      entry, whose dtype is uint8 until then.
  """

  def __init__(self, on_devices: bool = False) -> None:
    """Starts without steps.

    Args:
      on_devices: whether functions `OfBytes` wait, too.
    """
    super().__init__()
    self.on_devices = on_devices
    self.of_bytes: dict[str, OfBytes] = {}

  def put_bytes(self, key: str, value: tf.Tensor, fn: OfBytes) -> tf.Tensor:
    """Notes a function, or calls it now if its argument is not an image.

    Args:
      key: the entry.
      value: its argument.
      fn: the function.

    Returns:
      The entry for now.
    """
    self.of_bytes.pop(key, None)
    is_image = (
      isinstance(value, tf.Tensor)
      and value.dtype == tf.uint8
      and value.shape.is_fully_defined()
      and value.shape.rank >= 3
      and value.shape[-1] <= _MOST_CHANNELS
    )
    if not (self.on_devices and is_image):
      return fn(value)
    self.of_bytes[key] = fn
    return value

  def finish_bytes(
    self, batch: Example, is_real: tf.Tensor | None = None
  ) -> Example:
    """Does on the host what waits until batches are on devices.

    Args:
      batch: dict of tensors [B, ...].
      is_real: as for `finish`.

    Returns:
      The batch, its entries in the same order.
    """
    return _finish(batch, self.of_bytes, is_real)

  def put(self, key: str, value: tf.Tensor, step: TensorFn) -> tf.Tensor:
    """Notes a step, or does it now if the value is not a scalar.

    Args:
      key: the entry.
      value: what the first step gave.
      step: the second step.

    Returns:
      The entry for now.
    """
    if not isinstance(value, tf.Tensor) or value.shape.rank != 0:
      self.pop(key, None)
      return step(value)
    self[key] = step
    return value

  def finish(self, batch: Example, is_real: tf.Tensor | None = None) -> Example:
    """Does the steps for a batch.

    Args:
      batch: dict of tensors [B, ...].
      is_real: bool [B], False for padding, whose results should be zeros.

    Returns:
      The batch, its entries in the same order.
    """
    return _finish(batch, self, is_real)


def _finish(batch, steps, is_real):
  """Replaces entries by what their step gives; by zeros where they are not real."""
  out = dict(batch)
  for key, step in steps.items():
    if key in out:
      x = step(out[key])
      if is_real is not None:
        shape = [-1] + [1] * (x.shape.rank - 1)
        x = tf.where(tf.reshape(is_real, shape), x, tf.zeros_like(x))
      out[key] = x
  return out


def touches(op: ExampleFn, *keys: str) -> ExampleFn:
  """Tells the builder which entries an op reads or writes, in place.

  Args:
    op: `dict -> dict`. It may drop any entry.
    *keys: names of entries.

  Returns:
    The op.
  """
  op.entries = keys
  return op


def waiting(ops: list[ExampleFn]) -> list[Callable[..., Example] | None]:
  """Finds the second steps that may wait: nothing after them needs the result.

  Args:
    ops: in the order of the preprocessing string.

  Returns:
    For each op, `(example, Later) -> example` that does its first step, or None.
  """
  out, used, known = [], set(), True
  for op in reversed(ops):
    may_wait = known and used.isdisjoint(getattr(op, "keys", ()))
    out.append(getattr(op, "begin", None) if may_wait else None)
    known = known and hasattr(op, "entries")
    used.update(getattr(op, "entries", ()))
  return out[::-1]


def steps(preprocess: ExampleFn, on_devices: bool = False) -> tuple[str, ...]:
  """Lists the ops that may wait.

  Args:
    preprocess: of `builder.get_preprocess_fn`, or any other function.
    on_devices: whether also those `OfBytes`.

  Returns:
    Their sections of the preprocessing string.
  """
  waiting = getattr(preprocess, "waiting", ())
  return tuple(s for s, of_bytes in waiting if on_devices or not of_bytes)


def beginning(preprocess: ExampleFn, later: Later | None) -> ExampleFn:
  """Selects what of a preprocessing is done for each example.

  Args:
    preprocess: of `builder.get_preprocess_fn`, or any other function.
    later: takes the steps that wait; None if there is nothing to take them.

  Returns:
    `dict -> dict`.
  """
  if later is None or not steps(preprocess, later.on_devices):
    return preprocess
  return functools.partial(preprocess.begin, later=later)


def followed_by(preprocess: ExampleFn, select: ExampleFn) -> ExampleFn:
  """Adds a function that drops entries.

  Args:
    preprocess: of `builder.get_preprocess_fn`, or any other function.
    select: `dict -> dict`, which changes no entry.

  Returns:
    `dict -> dict`, also with the attributes of `preprocess`.
  """
  fn = lambda example: select(preprocess(example))
  if hasattr(preprocess, "waiting"):
    fn.waiting = preprocess.waiting
    fn.begin = lambda data, later: select(preprocess.begin(data, later))
  return fn
