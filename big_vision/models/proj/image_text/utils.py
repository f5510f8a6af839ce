"""Applies functions to batches without moving examples between devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P  # noqa: N817 (its usual name)

from big_vision import compat
from big_vision.types import PyTree


def batch_shmap(
  fn: Callable[..., PyTree], *args: PyTree, **kwargs: Any
) -> PyTree:
  """Applies `fn` to the examples of each device separately.

  Devices then do not communicate, even if the compiler cannot tell that
  examples are independent. The batch is split over all axes of the active mesh;
  without a mesh this is `fn(*args, **kwargs)`.

  Args:
    fn: function of batches, which returns batches.
    *args: pytrees of arrays [B, ...], B a multiple of the number of devices.
    **kwargs: for `fn`; each device gets all of them.

  Returns:
    The results of `fn`: a pytree of arrays, concatenated along their first
    axis.
  """
  fn = functools.partial(fn, **kwargs)
  mesh = compat.active_mesh()
  if mesh is None:
    return fn(*args)
  spec = P(tuple(mesh.axis_names))
  return jax.shard_map(
    fn, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=True
  )(*args)


def subsample_batch(x: PyTree, subsample: int) -> PyTree:
  """Keeps every `subsample`-th of the examples that a device has.

  Args:
    x: pytree of arrays [B, ...].
    subsample: int; up to 1 keeps all.

  Returns:
    Pytree of arrays, [B / subsample, ...] if that divides the examples per
    device.
  """
  if subsample <= 1:
    return x
  return batch_shmap(lambda t: jax.tree.map(lambda a: a[::subsample], t), x)
