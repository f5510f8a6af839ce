"""The order of training examples, a pure function of the config.

A stream is an endless tf.data.Dataset of `(position, (epoch, (index, example)))`
with int64 scalars: position in the stream of all hosts; index of the example in
its split. It nests like this because pairs need no Python function per example.
Neither threads nor restarts change it, every host sees the same.
P is the number of hosts (processes), B the global batch size.
"""

import functools
import hashlib

import numpy as np

from big_vision.tf import tf

_BLOCK = 1 << 14  # Positions whose components are drawn together.
_FOREVER = tf.int64.max


def hash_seed(*parts):
  """int in [1, 2**31) for any printable values, the same on every machine."""
  digest = hashlib.sha256(repr(parts).encode()).digest()
  return int.from_bytes(digest[:8], "little") % (2**31 - 1) + 1


def epochs(open_epoch, *, seed, shuffle_buffer_size, size, start):
  """All epochs, one after the other, each shuffled differently.

  Args:
    open_epoch: `epoch -> finite dataset of (index, example)`, epoch is an int64
      scalar tensor.
    seed: int.
    shuffle_buffer_size: number of examples, or None to keep the order.
    size: int, examples per epoch; may be None if `start` is 0.
    start: int, position to start from.

  Returns:
    The stream, from `start` on. Examples before it are read (those of the same
    epoch only), but never more than that.
  """
  first_epoch, skip = divmod(start, size) if start else (0, 0)

  def one_epoch(epoch):
    # The seed of this function's graph. Otherwise that of the process would
    # take part in the order.
    tf.random.set_seed(seed)
    ds = open_epoch(epoch)
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

  ds = tf.data.Dataset.range(first_epoch, _FOREVER).flat_map(one_epoch)
  return ds.enumerate(start)


def positions(start):
  """A stream that knows no more than where it is: (position, position)."""
  ds = tf.data.Dataset.range(start, _FOREVER)
  return tf.data.Dataset.zip(ds, ds)


def locate(stream, size, *, seed, shuffle):
  """From positions to examples of a source with random access.

  Args:
    stream: elements (position, anything).
    size: int, number of examples per epoch.
    seed: int, of the shuffling.
    shuffle: bool, whether each epoch is a permutation of all examples, another
      one each time; computed for every position on its own, so that nothing is
      held in memory and any position can be the first.

  Returns:
    The stream, with the index in place of the example.
  """

  def one(position, _):
    epoch, index = position // size, position % size
    if shuffle:
      index = permuted(index, size, seed, epoch)
    return position, (epoch, (index, index))

  return stream.map(one)


def permuted(index, size, seed, epoch):
  """Where `index` goes in the permutation of range(size) of an epoch (int64)."""
  seed = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
  last = tf.constant(size - 1, tf.int64)
  return tf.random.experimental.index_shuffle(index, seed, last)


def rows_of_host(stream, batch_size, host, num_hosts):
  """What host number `host` needs: its rows of each global batch.

  Args:
    stream: stream whose position n is row n % B of batch n // B.
    batch_size: B.
    host: int in [0, P).
    num_hosts: P, divides B.

  Returns:
    The stream of rows [host * B / P, (host + 1) * B / P) of each batch.
  """
  if num_hosts == 1:
    return stream
  return stream.filter(
    lambda position, _: _is_mine(position, batch_size, host, num_hosts)
  )


def _is_mine(position, batch_size, host, num_hosts):
  return position // (batch_size // num_hosts) % num_hosts == host


class Mixture:
  """Which component each position of a mixture is drawn from.

  Independent draws with the given probabilities, computed in blocks from
  (seed, number of the block), so any position can be asked for directly.

  Args:
    weights: [K] positive floats, not necessarily normalised.
    seed: int.
    batch_size: B; may be None with one host.
    host: int in [0, P).
    num_hosts: P.
  """

  def __init__(self, weights, seed, batch_size=None, host=0, num_hosts=1):
    bounds = np.cumsum(weights, dtype=np.float64)
    self._bounds = (bounds / bounds[-1])[:-1]
    self._num = len(weights)
    self._seed = hash_seed(seed, "mixture")
    self._mine = functools.partial(
      _is_mine, batch_size=batch_size, host=host, num_hosts=num_hosts
    )
    self._one_host = num_hosts == 1

  def _block(self, number):
    """Positions and components (both [_BLOCK] int64) of a block."""
    u = tf.random.stateless_uniform(
      [_BLOCK], [self._seed, number], dtype=tf.float64, alg="philox"
    )
    component = tf.searchsorted(self._bounds, u, side="right")
    first = tf.cast(number, tf.int64) * _BLOCK
    positions = first + tf.range(_BLOCK, dtype=tf.int64)
    return positions, tf.cast(component, tf.int64)

  def _is_my_position(self, positions):
    if self._one_host:
      return tf.ones_like(positions, tf.bool)
    return self._mine(positions)

  def counts(self, stop):
    """Number of draws from each component before position `stop`.

    Args:
      stop: int.

    Returns:
      (all hosts, this host): two [K] int64 arrays.
    """

    def count(number):
      positions, component = self._block(number)
      before = positions < stop
      per_host = []
      for kept in (before, before & self._is_my_position(positions)):
        drawn = tf.cast(tf.boolean_mask(component, kept), tf.int32)
        n = tf.math.bincount(drawn, minlength=self._num, dtype=tf.int64)
        per_host.append(n)
      return tf.stack(per_host)

    blocks = tf.data.Dataset.range(-(-stop // _BLOCK))
    total = blocks.map(count, num_parallel_calls=tf.data.AUTOTUNE).reduce(
      tf.zeros([2, self._num], tf.int64), lambda a, b: a + b
    )
    return tuple(total.numpy())

  def choices(self, start):
    """Component of each of this host's positions from `start` on (dataset)."""

    def block(number):
      positions, component = self._block(number)
      kept = (positions >= start) & self._is_my_position(positions)
      return tf.data.Dataset.from_tensor_slices(component[kept])

    return tf.data.Dataset.range(start // _BLOCK, _FOREVER).flat_map(block)

  def draws_of_host(self, stream, k, start):
    """What this host needs of a component.

    Args:
      stream: the component's stream, beginning at its draw number
        `counts(start)[0][k]`.
      k: int, number of the component.
      start: int, position of the mixture.

    Returns:
      The elements of `stream` that `choices(start)` of this host draws.
    """
    if self._one_host:
      return stream

    def block(number):
      positions, component = self._block(number)
      drawn = (positions >= start) & (component == k)
      mine = self._is_my_position(positions[drawn])
      return tf.data.Dataset.from_tensor_slices(mine)

    first = start // _BLOCK
    mine = tf.data.Dataset.range(first, _FOREVER).flat_map(block)
    drawn = tf.data.Dataset.zip(mine, stream)
    return drawn.filter(lambda m, _: m).map(lambda _, x: x)
