"""The stream of training examples, as datasets of TensorFlow.

A stream is an endless tf.data.Dataset of `(position, (epoch, (index, example)))`
with int64 scalars: position in the stream of all hosts; index of the example in
its split. It nests like this because pairs need no Python function per example.
Neither threads nor restarts change it, every host has the same.

Permutations are computed by TensorFlow, within its threads: `order` could do so
only by another algorithm, which would change the order of every run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

from big_vision.datasets.source import Example
from big_vision.pipeline import order, skipping
from big_vision.tf import plain, tf

Stream: TypeAlias = "tf.data.Dataset"
# Picks what a host needs of a stream.
Select: TypeAlias = Callable[[Stream], Stream]
FOREVER = 2**63 - 1  # The largest int64.


def epochs(
  open_epoch: Callable[[tf.Tensor], tf.data.Dataset],
  *,
  seed: int,
  shuffle_buffer_size: int | None,
  size: int | None,
  start: int,
  may_be_empty: bool = False,
  errors: skipping.ReadErrors | None = None,
) -> Stream:
  """Joins all epochs, each shuffled differently.

  Args:
    open_epoch: epoch (int64 scalar) -> finite dataset of (index, example).
    seed: of the shuffling.
    shuffle_buffer_size: number of examples, or None to keep the order.
    size: examples per epoch; may be None if `start` is 0.
    start: position to start from.
    may_be_empty: whether only reading an epoch tells that it has examples; the
      stream then ends after one that has none, where it would wait for ever.
    errors: what leaves out examples that cannot be read, if anything does.

  Returns:
    The stream, from `start` on. Examples before it are read (those of the same
    epoch only), but never more than that.
  """
  first_epoch, skip = divmod(start, size) if start and size else (0, 0)
  with tf.device("CPU"):
    # The last epoch that had examples, in any iterator.
    last = tf.Variable(-1, dtype=tf.int64, trainable=False)

  def note(epoch, *element):
    last.assign(tf.maximum(last, epoch))
    return element

  def one_epoch(epoch):
    # The seed of this function's graph. Otherwise that of the process would
    # take part in the order.
    tf.random.set_seed(seed)
    ds = open_epoch(epoch)
    if may_be_empty:
      ds = ds.map(functools.partial(note, epoch))
    if shuffle_buffer_size:
      ds = ds.shuffle(
        shuffle_buffer_size, seed=epoch, reshuffle_each_iteration=False
      )
    if skip:
      zero = tf.zeros([], tf.int64)
      ds = ds.skip(
        tf.where(epoch == first_epoch, tf.cast(skip, tf.int64), zero)
      )
    return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(epoch).repeat(), ds)

  def goes_on(number):
    is_first = number == first_epoch
    if errors:
      errors.report(is_first)
    return is_first | (last >= number - 1)

  numbers = tf.data.Dataset.range(first_epoch, FOREVER)
  if may_be_empty:
    numbers = numbers.take_while(goes_on)
  return numbers.flat_map(one_epoch).enumerate(start)


def positions(start: int) -> Stream:
  """Makes a stream that knows no more than where it is: (position, position).

  Args:
    start: position to start from.

  Returns:
    The stream, for `locate`.
  """
  ds = tf.data.Dataset.range(start, FOREVER)
  return tf.data.Dataset.zip(ds, ds)


def locate(stream: Stream, size: int, *, seed: int, shuffle: bool) -> Stream:
  """Finds the examples at positions of a source with random access.

  Args:
    stream: elements (position, anything).
    size: number of examples per epoch.
    seed: of the shuffling.
    shuffle: whether each epoch is a permutation of all examples, another one
      each time; computed for every position on its own, so that nothing is held
      in memory and any position can be the first.

  Returns:
    The stream, with the index in place of the example.
  """

  @plain
  def one(position, _):
    epoch, index = position // size, position % size
    if shuffle:
      index = permuted(index, size, seed, epoch)
    return position, (epoch, (index, index))

  return stream.map(one)


@plain
def permuted(
  index: tf.Tensor,
  size: int | tf.Tensor,
  seed: int | tf.Tensor,
  epoch: tf.Tensor,
) -> tf.Tensor:
  """Permutes range(size), differently in each epoch.

  Args:
    index: int64, in the range.
    size: length of the range.
    seed: of the shuffling.
    epoch: integer scalar.

  Returns:
    int64, where `index` goes.
  """
  seed = tf.convert_to_tensor(seed, tf.int64)
  seeds = tf.stack([seed, tf.cast(epoch, tf.int64)])
  last = tf.convert_to_tensor(size - 1, tf.int64)
  return tf.random.experimental.index_shuffle(index, seeds, last)


def rows_of_host(stream: Stream, layout: order.Layout) -> Stream:
  """Selects the rows that a host delivers of each global batch.

  Args:
    stream: position n is row n % B of batch n // B.
    layout: B, and which host.

  Returns:
    The part of the stream.
  """
  if layout.num_hosts == 1:
    return stream
  return stream.filter(lambda position, _: layout.is_mine(position))


def filtered(
  examples: tf.data.Dataset,
  keep: Callable[[Example], tf.Tensor] | None,
  errors: skipping.ReadErrors | None,
) -> tf.data.Dataset:
  """Keeps the raw examples that a filter accepts.

  Args:
    examples: (index, example).
    keep: the filter, None for none.
    errors: what leaves out examples that cannot be read or judged.

  Returns:
    The dataset of the others.
  """
  if errors is None:
    return examples.filter(lambda _, x: keep(x)) if keep else examples
  if keep is None:
    return errors.drop(examples)
  judged = errors.drop(examples.map(lambda i, x: (keep(x), (i, x))))
  judged = judged.filter(lambda is_good, _: is_good)
  return judged.map(lambda _, element: element)


def has_unknown_size(epoch: tf.data.Dataset) -> bool:
  """Tells whether only reading an epoch says how many examples it has.

  Args:
    epoch: dataset of one epoch.

  Returns:
    bool.
  """
  return int(epoch.cardinality()) == tf.data.UNKNOWN_CARDINALITY


def check_not_empty(
  epoch: tf.data.Dataset,
  name: str,
  is_filtered: bool,
  first_error: Callable[[], str | None],
) -> None:
  """Checks that an epoch has examples: an endless stream of nothing would hang.

  Args:
    epoch: dataset of one epoch.
    name: what errors call it.
    is_filtered: whether there is a `pre_filter_fn`; only then it is read.
    first_error: finds out what is wrong with the data.

  Raises:
    ValueError: there are no examples.
  """
  some = epoch.cardinality() != 0
  if some and is_filtered:
    some = any(True for _ in epoch.take(1))
  if not some:
    raise ValueError(
      f"No examples in the dataset {name!r}"
      + (" after pre_filter_fn." if is_filtered else ".")
      + _reason(first_error())
    )


def _reason(error):
  return f" An error: {error}" if error else ""


def count(epoch: tf.data.Dataset) -> int:
  """Counts the examples of an epoch, by reading it.

  Args:
    epoch: finite dataset of (index, example).

  Returns:
    The number of examples.
  """
  return int(epoch.reduce(tf.zeros([], tf.int64), lambda n, _: n + 1))


def fits(
  num: int | None, bytes_per_example: float | None, memory_gb: float | None
) -> bool:
  """Tells whether raw examples fit into memory, as far as known.

  Args:
    num: number of examples.
    bytes_per_example: their mean size.
    memory_gb: 2**30 bytes.

  Returns:
    bool; True if anything of it is unknown.
  """
  if num is None or bytes_per_example is None or memory_gb is None:
    return True
  return num * bytes_per_example <= memory_gb * 2**30
