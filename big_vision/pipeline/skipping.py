"""Leaving out examples: those that fail, those that a filter drops.

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
_NUM_TRIED = 5  # How many examples to look at for a reason.

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
  ):
    self.message: str | None = None
    self._name = name
    self._num_passes = num_passes
    self._ahead = ahead
    self._skips_errors = skips_errors
    self._filters = filters
    self._explain = explain
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
      # The number and the epoch of the last example that gave a result.
      last = tf.Variable([-1, -1], dtype=tf.int64, trainable=False)
      num_tried = tf.Variable(0, dtype=tf.int64, trainable=False)

    def place_of(number, element):
      return tf.stack([number, element[1][0]]), element

    def is_useful(place, _):
      number, epoch = place[0], place[1]
      begin = tf.constant([-1, -1], tf.int64)
      # Another iterator begins anew.
      tf.cond(number == 0, lambda: last.assign(begin), last.read_value)
      num_tried.assign(number + 1)
      in_work = number - last[0] <= self._ahead
      return in_work | (epoch - last[1] <= self._num_passes)

    def note(place, _, out):
      last.assign(place)
      return out

    ds = elements.enumerate().map(place_of).take_while(is_useful)
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
    reason = None
    for number in reversed(range(max(last + 1, num - _NUM_TRIED), num)):
      reason = reason or self._explain(number)
    if num == 0:
      reason = self._explain(None)
    again = f"The last {num - 1 - last}" if last >= 0 else f"All {num}"
    left_out = "fail or are dropped by config.input.post_filter_fn"
    if reason is None and self._filters:
      left_out = "are dropped by config.input.post_filter_fn"
    elif not self._filters:
      left_out = "fail (config.input.skip_errors=True leaves them out)"
    self.message = (
      f"config.input: no example of the dataset {self._name!r} is left. {again} "
      f"examples {left_out}."
    )
    if num == 0:
      self.message = (
        f"config.input: no example of the dataset {self._name!r} can be read."
      )
    if reason:
      self.message += f" The last: {reason}"
    return self.message
