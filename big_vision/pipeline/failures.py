"""Examples that fail to be preprocessed: find them, report them, skip them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from absl import logging

from big_vision.datasets.source import DataSource
from big_vision.tf import tf

_SEARCH_SECONDS = 60  # How long to look for the example behind an error.


class Record:
  """Remembers which example is being preprocessed.

  Attributes:
    current: its description, None between examples.
  """

  def __init__(self):
    self.current: str | None = None

  def begin(self, name: str, position: Any, x: Any) -> Any:
    """Notes the example of an element of a stream.

    Args:
      name: of the dataset.
      position: of the element.
      x: (epoch, (index, example)).

    Returns:
      (position, x).
    """
    epoch, (index, example) = x
    tfds_id = example.get("tfds_id", "") if isinstance(example, dict) else ""

    def note(index, epoch, tfds_id):
      tfds_id = tfds_id.numpy().decode()
      which = f"tfds_id={tfds_id!r}" if tfds_id else f"index {int(index)}"
      self.current = f"{which} of the dataset {name!r} in epoch {int(epoch)}"

    tf.py_function(note, [index, epoch, tfds_id], [])
    return position, x

  def end(self, *element: Any) -> Any:
    """Notes that an example is done.

    Args:
      *element: of a dataset.

    Returns:
      The element.
    """

    def forget():
      self.current = None

    tf.py_function(forget, [], [])
    return element


def find_failure(
  make_examples: Callable[[Record], tf.data.Dataset], num: int | None
) -> str | None:
  """Finds out which example fails to be preprocessed.

  Args:
    make_examples: makes the dataset to search, which fills in the record.
    num: how many results to look at; None: until the time is over.

  Returns:
    A description, or None if none fails (again) or it takes too long.
  """
  record = Record()
  ds = make_examples(record)
  options = tf.data.Options()
  # Fused functions would lose what comes first.
  options.experimental_optimization.apply_default_optimizations = False
  deadline = time.monotonic() + _SEARCH_SECONDS
  try:
    for i, _ in enumerate(ds.with_options(options)):
      if i + 1 == num or time.monotonic() > deadline:
        return None
  except tf.errors.OpError:
    return record.current
  return None


def explained_by(
  ds: tf.data.Dataset, explain: Callable[[int], str | None]
) -> tf.data.Dataset:
  """Attaches to a dataset how to find out what is behind an error.

  Errors of tf.data do not say which example failed, and to carry its name along
  would cost time for each: `explain` is called when one did.

  Args:
    ds: dataset of batches.
    explain: number of batches that came before the error -> what failed, None
      if that is not known.

  Returns:
    The dataset, for `iterate`.
  """
  ds.explain_failure = explain
  return ds


def iterate(ds: tf.data.Dataset) -> Any:
  """Iterates over a dataset; errors say which example is behind them.

  Args:
    ds: dataset of batches, see `explained_by`.

  Yields:
    Its elements.

  Raises:
    ValueError: an example could not be preprocessed; names it.
  """
  it = iter(ds)
  num_batches = 0
  while True:
    try:
      batch = next(it)
    except StopIteration:
      return
    except tf.errors.OpError as e:
      error = _explain(ds, num_batches, e)
      raise error from (None if error is e else e)
    yield batch
    num_batches += 1


def _explain(
  ds: tf.data.Dataset, num_batches: int, e: tf.errors.OpError
) -> Exception:
  """Makes an error that names the example; `e` if it cannot be found."""
  if not hasattr(ds, "explain_failure"):
    return e
  logging.error("An input pipeline failed, looking for the example: %s", e)
  failed = ds.explain_failure(num_batches)
  if not failed:
    return e
  return ValueError(
    f"Preprocessing failed for the example with {failed}\n{e.message}"
  )


def report_bad_examples(
  source: DataSource, name: str, skip_errors: bool
) -> None:
  """Refuses or counts examples that are known to be unusable, before reading.

  Args:
    source: where examples come from.
    name: of the dataset.
    skip_errors: whether such examples are left out.

  Raises:
    ValueError: there are some and they are not to be left out.
  """
  bad = source.bad_examples()
  if not bad:
    return
  if not skip_errors:
    raise ValueError(
      f"config.input.data: {len(bad)} examples of {name!r} cannot be used, "
      f"the first: {bad[0]} Set config.input.skip_errors=True to leave such "
      "examples out."
    )
  logging.warning(
    "input.skip_errors: %d examples of %s cannot be used: %s",
    len(bad),
    name,
    "; ".join(bad[:5]),
  )


def drop_errors(ds: tf.data.Dataset, name: str) -> tf.data.Dataset:
  """Drops elements that fail; warns and counts.

  Args:
    ds: dataset of (number, ...), numbered from 0.
    name: of the dataset.

  Returns:
    The elements that do not fail.
  """
  total = [0]

  def warn(num_lost):
    total[0] += int(num_lost)
    logging.warning(
      "input.skip_errors: dropped %d of the examples of %s, %d since the start.",
      num_lost,
      name,
      total[0],
    )

  def count(expected, element):
    lost = element[0] - expected
    if lost > 0:
      tf.py_function(warn, [lost], [])
    return element[0] + 1, element

  ds = ds.ignore_errors(log_warning=True)  # The log has the reasons.
  return ds.scan(tf.zeros([], tf.int64), count)
