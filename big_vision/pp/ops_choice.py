"""Preprocessing ops that choose items: `choice`, `choice_no_replacement`."""

from __future__ import annotations

import collections
import threading
from collections.abc import Sequence

import numpy as np

from big_vision import lookup
from big_vision.pp import rng, utils
from big_vision.pp.registry import Registry
from big_vision.pp.types import ExampleFn
from big_vision.tf import tf


def _key_pairs(op, key, inkey, outkey):
  """Lists the inputs, and the (input, output) pairs that `choice` defines."""
  inkeys = utils.maybe_repeat(inkey or key, 1)
  outkeys = utils.maybe_repeat(outkey or key, 1)
  if None in (*inkeys, *outkeys):
    raise AttributeError(f"{op}: set `key`, or both `inkey` and `outkey`.")
  pairs = zip(inkeys, outkeys, strict=False)
  return inkeys, [(i, o.format(key=i)) for i, o in pairs]


def _tensors_to_choose_from(op, data, inkeys, at_least):
  """Checks sizes, and returns (dict of tensors, number of items)."""
  xs = {k: _tensor(data[k]) for k in inkeys}
  first = xs[inkeys[0]]
  if first.shape.rank == 0:
    raise lookup.ConfigError(
      f"{op}: {inkeys[0]!r} is a scalar, there is nothing to choose from"
    )
  num = _num_rows(first)
  checks = [
    tf.debugging.assert_equal(
      _num_rows(x),
      num,
      message=f"{op}: {k!r} and {inkeys[0]!r} differ in their leading dimension",
    )
    for k, x in xs.items()
  ]
  if at_least is not None:
    message = f"{op}: too few items in {inkeys[0]!r}"
    checks.append(
      tf.debugging.assert_greater_equal(num, at_least, message=message)
    )
  # In eager mode they are None, since they have run already.
  with tf.control_dependencies([c for c in checks if c is not None]):
    return xs, tf.identity(num)


def _tensor(x):
  """Leaves ragged ones, such as lists of lists in TFDS, as they are."""
  return x if isinstance(x, tf.RaggedTensor) else tf.convert_to_tensor(x)


def _num_rows(x):
  if isinstance(x, tf.RaggedTensor):
    return x.nrows(tf.int32)
  return tf.shape(x)[0]


@Registry.register("preprocess_ops.choice")
def get_choice(
  n: int | Sequence[int] | str = "single",
  key: str | Sequence[str] | None = None,
  fewer_ok: bool = False,
  inkey: str | Sequence[str] | None = None,
  outkey: str | Sequence[str] | None = None,
) -> ExampleFn:
  """Chooses items at random, without replacement, along the leading axis.

  Args:
    n: how many. An int; or [min, max] for a random number, both included; or
      "single" for one item, whose leading axis is dropped.
    key: str or list of str, entries to choose from. The items at the same
      indices are taken from all of them, in their original order.
    fewer_ok: bool, whether there may be fewer items than `n` (or min) asks for:
      then all are taken. A "single" item of none is 0, or "" for strings.
    inkey: the same as `key`, if results have other names.
    outkey: str or list of str, names of the results; "{key}" in them stands for
      the name of the input.

  Returns:
    `dict -> dict`. Called with a scalar it raises ConfigError; too few items,
    or entries of different length are errors too.

  Raises:
    AttributeError: neither `key` nor both `inkey` and `outkey` are given.
    ValueError: `n` has another form.
  """
  inkeys, pairs = _key_pairs("choice", key, inkey, outkey)
  single = n == "single"
  low, high = (1, 1) if single else _count_range(n)

  def choice(data):
    at_least = None if fewer_ok else low
    xs, num_items = _tensors_to_choose_from("choice", data, inkeys, at_least)
    if single:
      # At least 1, also for empty inputs, where `_take_or_zero` ignores it.
      high_index = tf.maximum(num_items, 1)
      index = tf.random.stateless_uniform(
        [], rng.next_seed(), maxval=high_index, dtype=tf.int32
      )
      take = _take_or_zero if fewer_ok else tf.gather
      data.update({o: take(xs[i], index) for i, o in pairs})
      return data
    order = tf.random.experimental.stateless_shuffle(
      tf.range(num_items), rng.next_seed()
    )
    if low == high:
      count = low
    else:
      count = tf.random.stateless_uniform(
        [], rng.next_seed(), minval=low, maxval=high + 1, dtype=tf.int32
      )
    indices = tf.sort(order[:count])
    for i, o in pairs:
      data[o] = tf.gather(xs[i], indices)
      if not isinstance(data[o], tf.RaggedTensor):
        size = _static_count(low, high, xs[i].shape[0], fewer_ok)
        data[o] = tf.ensure_shape(data[o], [size, *xs[i].shape[1:]])
    return data

  return choice


def _count_range(n):
  """Returns (min, max) of the argument `n` of `choice`."""
  low, high = n if isinstance(n, (list, tuple)) and len(n) == 2 else (n, n)
  if not (isinstance(low, int) and isinstance(high, int) and 0 <= low <= high):
    raise ValueError(
      f"choice: n must be an integer, a pair [min, max] or 'single', got {n!r}"
    )
  return low, high


def _static_count(low, high, num_items, fewer_ok):
  """Returns how many items `choice` gives, None if that depends on the data."""
  if low != high:
    return None
  if not fewer_ok:
    return low
  return None if num_items is None else min(low, num_items)


def _take_or_zero(x, index):
  """Takes `x[index]`, or zero (an empty string) if there are no items."""
  zero = tf.zeros(tf.concat([[1], tf.shape(x)[1:]], 0), x.dtype)
  return tf.ensure_shape(tf.concat([x, zero], 0)[index], x.shape[1:])


@Registry.register("preprocess_ops.choice_no_replacement")
def get_choice_no_replacement(
  key: str | Sequence[str] | None = None,
  inkey: str | Sequence[str] | None = None,
  outkey: str | Sequence[str] | None = None,
) -> ExampleFn:
  """Chooses one item each time; all items of an example in turn.

  An example with N items gives each of them once, in a random order, before any
  comes again, in another order. In the input pipeline the epoch tells which
  item is next. Elsewhere the op counts its calls for each `_id`.

  Args:
    key: str or list of str, entries to choose from along the leading axis,
      which is dropped; the same index for all.
    inkey: the same as `key`, if results have other names.
    outkey: str or list of str, names of the results; "{key}" in them stands for
      the name of the input.

  Returns:
    `dict -> dict`. The example needs an integer `_id`, else KeyError.

  Raises:
    AttributeError: neither `key` nor both `inkey` and `outkey` are given.
  """
  op = "choice_no_replacement"
  inkeys, pairs = _key_pairs(op, key, inkey, outkey)
  with tf.init_scope():
    limits = tf.int32.min, tf.int32.max
    own_seed = tf.random.uniform([2], *limits, dtype=tf.int32)
  counts = collections.Counter()
  lock = threading.Lock()

  def count_up(id_):
    with lock:
      counts[id_.item()] += 1
      return np.int64(counts[id_.item()] - 1)

  def choice_no_replacement(data):
    id_ = tf.cast(data["_id"], tf.int64)
    xs, num_items = _tensors_to_choose_from(op, data, inkeys, 1)
    count, seed = rng.epoch(), rng.op_seed()
    if count is None:
      seed = own_seed
      count = tf.numpy_function(count_up, [data["_id"]], tf.int64)
      count = tf.ensure_shape(count, [])
    num = tf.cast(num_items, tf.int64)
    seed = rng.fold_in(rng.fold_in(seed, id_), count // num)
    order = tf.random.experimental.stateless_shuffle(tf.range(num), seed)
    index = order[count % num]
    data.update({o: tf.gather(xs[i], index) for i, o in pairs})
    return data

  return choice_no_replacement
