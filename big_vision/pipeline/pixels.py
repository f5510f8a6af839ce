"""Pixels that are looked up on devices, which get them as bytes.

What `value_range` and its like make of an image is four times as many bytes, each
value one of 256. GPUs receive the image and a table; on a CPU that would only move
work, and TPUs look up slowly.

B is the batch size, of one device where that is said.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from big_vision.pp import batched
from big_vision.tf import plain, tf
from big_vision.types import Array

# Tells examples from padding, until batches are complete.
IS_REAL = "_is_real"


def wanted() -> bool:
  """Tells whether devices look up pixels."""
  return jax.default_backend() == "gpu"


def in_both_forms(
  ds: tf.data.Dataset,
  later: batched.Later | None,
  ready: Callable[[tf.data.Dataset], tf.data.Dataset],
) -> tf.data.Dataset:
  """Completes a dataset, and notes how to put it on devices instead.

  Args:
    ds: batches where the steps `later.of_bytes` are not done yet. They may have
      the entry `IS_REAL`, bool [B], False for padding, whose pixels become zeros.
    later: None for no such steps.
    ready: what else is to be done with either form.

  Returns:
    Complete batches. `of` finds the other form; what is derived from the dataset
    has only this one.
  """
  if later is None or not later.of_bytes:
    return ready(ds)

  @plain
  def finish(batch):
    is_real = batch.pop(IS_REAL, None)
    return later.finish_bytes(batch, is_real)

  complete = ready(ds.map(finish, 1, deterministic=True))
  complete.as_bytes = ready(ds), dict(later.of_bytes)
  return complete


def of(
  ds: tf.data.Dataset,
) -> tuple[tf.data.Dataset, Mapping[str, batched.OfBytes]]:
  """Selects the form of a dataset to iterate over.

  Args:
    ds: of `in_both_forms`, or any other.

  Returns:
    (dataset, name of an entry -> what devices have to look up).
  """
  return getattr(ds, "as_bytes", (ds, {}))


def look_up(x: Array, fn: batched.OfBytes, is_real: Array | None) -> Array:
  """Computes `fn(x)` on devices; each does its part, without the others.

  Args:
    x: uint8 [B, ..., C].
    fn: what the host would compute.
    is_real: bool [B], split as `x`; rows where it is False become zeros.

  Returns:
    Array of the shape and sharding of `x`.
  """
  compiled, shards = _looking_up(fn, x.shape[-1]), x.addressable_shards
  real = [None] * len(shards)
  if is_real is not None:
    real = [shard.data for shard in is_real.addressable_shards]
  parts = [compiled(s.data, r) for s, r in zip(shards, real, strict=True)]
  return jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)


@functools.lru_cache(32)
def _looking_up(fn, channels):
  """Makes `_compiled` of a function, whose table is computed once."""
  table = fn.table(channels)
  return _compiled(table.tobytes(), table.dtype.str, channels)


@functools.lru_cache(32)  # One compilation for all runs of all evaluators.
def _compiled(data, dtype, channels):
  """Compiles `(x, is_real) -> table[x]` for a table [256, C]."""
  table = np.frombuffer(data, dtype).reshape(256, channels)

  @jax.jit
  def look_up(x, is_real):
    index = x.astype(jnp.int32)
    entries = jnp.asarray(table[:, 0])
    if (table != table[:, :1]).any():  # The channels differ.
      index = index * table.shape[1] + jnp.arange(table.shape[1]).reshape(
        (1,) * (x.ndim - 1) + (-1,)
      )
      entries = jnp.asarray(table.ravel())
    y = entries.at[index].get(mode="promise_in_bounds")
    if is_real is None:
      return y
    is_real = is_real.reshape(is_real.shape + (1,) * (x.ndim - 1))
    return jnp.where(is_real, y, jnp.zeros_like(y))

  return look_up
