"""Leaving out examples: those that fail, are filtered out, or are empty.

A stream is endless, so one whose examples are all left out would run for ever
without a result. Such a stream ends with an error instead: see `Skipping`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absl import logging

from big_vision.tf import tf

# So many losses are explained in the log one by one; later ones each time that
# their number has doubled.
_NUM_EXPLAINED = 10
_NUM_TRIED = 3  # How many examples to look at for a reason.

# Raw elements of a stream -> (place, is it kept, result), see `Skipping.run`.
Process = Callable[["tf.data.Dataset"], "tf.data.Dataset"]


class Skipping:
  """Leaves out examples of a stream, and ends it when nothing is left.

  Attributes:
    message: why the stream ended; None as long as it did not.

  Args:
    name: of the dataset.
    num_passes: after so many passes of this host without a result the stream
      ends. (With several hosts each sees a part only.)
    ahead: how many examples are at most in work at the same time.
    skips_errors, filters: what examples are left out for.
    explain: number of an example in the stream -> why it fails, with its name;
      None if it does not or nobody knows. The first argument may be None: what
      is wrong with the data if no example could be read at all.
    is_empty: result -> whether nothing of it gets into a batch, bool scalar.
  """

  def __init__(
    self,
    name: str,
    *,
    num_passes: int,
    ahead: int,
    skips_errors: bool,
    filters: bool,
    explain: Callable[[int | None], str | None],
    is_empty: Callable[[Any], tf.Tensor] | None = None,
  ):
    self.message: str | None = None
    self._name = name
    self._num_passes = num_passes
    self._ahead = ahead
    self._skips_errors = skips_errors
    self._filters = filters
    self._explain = explain
    self._is_empty = is_empty
    self._num_lost = 0
    self._next_log = 0

  def run(self, elements: tf.data.Dataset, process: Process) -> tf.data.Dataset:
    """Processes a stream.

    Args:
      elements: (position, (epoch, anything)).
      process: maps (place, element) to (place, is it kept, result), the place
        being the number of the element and its epoch, [2] int64.

    Returns:
      The results that are kept.
    """
    with tf.device("CPU"):
      # The number and the epoch of the last example that gave a result, in any
      # iterator: where there are several, none must end because of another.
      last = tf.Variable([-1, -1], dtype=tf.int64, trainable=False)
      num_tried = tf.Variable(0, dtype=tf.int64, trainable=False)

    def judge(overdue_since, numbered):
      number, element = numbered
      _, (epoch, _) = element
      num_tried.assign(number + 1)
      is_overdue = epoch - last[1] > self._num_passes
      since = tf.where(overdue_since >= 0, overdue_since, number)
      # What is in work may still give a result.
      goes_on = ~is_overdue | (number - since < self._ahead)
      place = tf.stack([number, epoch])
      return tf.where(is_overdue, since, -1), (goes_on, (place, element))

    def note(place, _, out):
      empty = self._is_empty(out) if self._is_empty else False
      last.assign(tf.where(empty, last, tf.maximum(last, place)))
      return out

    ds = elements.enumerate().scan(tf.constant(-1, tf.int64), judge)
    ds = ds.take_while(lambda goes_on, _: goes_on).map(lambda _, x: x)
    ds = process(ds)
    if self._skips_errors:
      ds = ds.ignore_errors(log_warning=False)
      ds = ds.scan(tf.zeros([], tf.int64), self._count)
    if self._filters:
      ds = ds.filter(lambda place, keep, out: keep)
    results = ds.map(note)

    def fail(_):
      why = tf.py_function(self._end, [last[0], num_tried], tf.string)
      with tf.control_dependencies([tf.debugging.Assert(False, [why])]):
        return results.take(0)

    return results.concatenate(tf.data.Dataset.range(1).flat_map(fail))

  def _count(self, expected, element):
    """Notices a gap in the numbers of elements."""
    number = element[0][0]
    lost = number - expected

    def warn():
      tf.py_function(self._warn, [expected, lost], [])
      return number + 1

    return tf.cond(lost > 0, warn, lambda: number + 1), element

  def _warn(self, first, num_lost):
    self._num_lost += int(num_lost)
    if self._num_lost < self._next_log:
      return
    if self._num_lost >= _NUM_EXPLAINED:
      self._next_log = 2 * self._num_lost
    reason = self._explain(int(first))
    logging.warning(
      "input.skip_errors: dropped %d of the examples of %s, %d since the "
      "start.%s",
      num_lost,
      self._name,
      self._num_lost,
      f" The first: {reason}" if reason else "",
    )

  def _end(self, last, num):
    """Says why the stream ends; returns it."""
    last, num = int(last), int(num)
    reason = self._explain(None) if num == 0 else None
    for number in reversed(range(max(last + 1, num - _NUM_TRIED), num)):
      reason = reason or self._explain(number)
    what = [f"none of the last {num - 1 - last} can be used"]
    if num == last + 1:
      what = [f"no{' more' if num else 'ne'} can be read"]
    if self._filters and reason:
      what.append("some fail, config.input.post_filter_fn drops the others")
    elif self._filters:
      what.append("config.input.post_filter_fn drops them all")
    elif self._is_empty and not reason:
      what.append("config.input.pack gets nothing but empty sequences")
    if reason:
      what.append(f"the last error: {reason.rstrip('.')}")
    name = self._name
    self.message = f"config.input: no example of {name!r} is left: "
    self.message += "; ".join(what) + ". Check config.input.data and its pp."
    return self.message


class ReadErrors:
  """Leaves out what cannot be read in the epochs of a source, and warns of it.

  Args:
    name: of the dataset.
    size: number of examples per epoch, None if unknown.
    first_error: finds out what is wrong with the data.
  """

  def __init__(
    self,
    name: str,
    size: int | None,
    first_error: Callable[[], str | None],
  ):
    self._name = name
    self._size = size
    self._first_error = first_error
    self._num_epochs = 0
    with tf.device("CPU"):
      self._num_read = tf.Variable(0, dtype=tf.int64, trainable=False)

  def drop(self, examples: tf.data.Dataset) -> tf.data.Dataset:
    """Drops the examples of an epoch that fail.

    Args:
      examples: of the whole epoch.

    Returns:
      The others.
    """
    return _counted(examples.ignore_errors(log_warning=False), self._num_read)

  def report(self, is_first: tf.Tensor) -> None:
    """Warns, at the begin of an epoch, of what was lost in the one before.

    Args:
      is_first: bool scalar, whether there was none before.
    """
    # What is cached is read once.
    if self._size is not None and self._size < tf.int64.max:
      lost = tf.where(self._num_read > 0, self._size - self._num_read, 0)
      lost = tf.where(is_first, tf.zeros_like(lost), lost)
      warn = lambda: tf.py_function(self._warn, [lost], tf.bool)
      tf.cond(lost > 0, warn, lambda: False)
    self._num_read.assign(0)

  def _warn(self, num_lost):
    self._num_epochs += 1
    if self._num_epochs & (self._num_epochs - 1) == 0:  # A power of two.
      logging.warning(
        "input.skip_errors: %d of %d examples of %s could not be read. The "
        "first: %s",
        num_lost,
        self._size,
        self._name,
        self._first_error() or "unknown",
      )
    return True


def _counted(ds, variable):
  def count(*element):
    variable.assign_add(1)
    return element

  return ds.map(count)
