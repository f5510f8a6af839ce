"""Writes the leaves of a checkpoint as arrays of zarr, through tensorstore.

Orbax has a writer, too. This one waits for every write, also after one has failed:
orbax leaves the others behind, which then complain about an event loop that is
closed, one by one. And it bounds the memory that writing takes: beside the copy
of the state in host memory at most half of that, or one shard if that is more.

Each process writes the shards it has (replica 0 of each).
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import checkpoint_checksums, disk_space, fs
from big_vision.checkpoint_checksums import Index

_COMPRESSOR = {"id": "zstd", "level": 1}
# Also where memory would allow more. Bytes.
_MAX_IN_FLIGHT = 4 << 30


@dataclasses.dataclass
class _Leaf:
  """An array whose parts of this process are in host memory.

  `parts` are removed as they are written, so that their memory is free.
  """

  name: str
  shape: tuple[int, ...]
  chunk: tuple[int, ...]
  dtype: np.dtype
  parts: list[tuple[Index, np.ndarray]]


def start(
  folder: str, named_leaves: Sequence[tuple[str, Any]]
) -> Callable[[], list[tuple[str, list[Index]]]]:
  """Copies leaves to host memory.

  Args:
    folder: existing folder, local or on gs://.
    named_leaves: list of (name, array): jax.Array, NumPy or Python number.

  Returns:
    A function that writes the leaves of this process, blocks until they are on
    disk, and returns what it has written, for `checkpoint_checksums.leave`. It is
    called once. The leaves may be deleted or donated meanwhile.

  Raises:
    ValueError: a leaf is not numeric.
  """
  with jax.transfer_guard_device_to_host("allow"):
    for _, x in named_leaves:
      if _is_global(x):
        for shard in x.addressable_shards:
          if shard.replica_id == 0:
            shard.data.copy_to_host_async()
    leaves = [_to_host(name, x) for name, x in named_leaves]
  return functools.partial(_write, folder, leaves)


def _is_global(x):
  """Tells of a jax.Array that each process writes its part of it."""
  if not isinstance(x, jax.Array):
    return False
  return jax.process_count() == 1 or not x.is_fully_addressable


def _to_host(name, x):
  if _is_global(x):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    chunk = x.sharding.shard_shape(x.shape)
    shards = [s for s in x.addressable_shards if s.replica_id == 0]
    parts = [(s.index, np.asarray(s.data)) for s in shards]
  else:  # An array of each process alone is treated as a host value.
    x = np.array(jax.device_get(x))
    chunk = x.shape
    if not (jnp.issubdtype(x.dtype, np.number) or x.dtype == bool):
      raise ValueError(
        f"Checkpoint leaf {name!r} has type {x.dtype}; only numbers can be "
        "saved."
      )
    every = (slice(None),) * x.ndim
    parts = [(every, x)] if jax.process_index() == 0 else []
  chunk = tuple(max(size, 1) for size in chunk)
  return _Leaf(name, x.shape, chunk, np.dtype(x.dtype), parts)


def _write(folder: str, leaves: list[_Leaf]) -> list[tuple[str, list[Index]]]:
  written = [(leaf.name, [i for i, _ in leaf.parts]) for leaf in leaves]
  total = sum(x.nbytes for leaf in leaves for _, x in leaf.parts)
  limit = min(total // 2, _MAX_IN_FLIGHT)
  in_flight: collections.deque[tuple[Any, int]] = collections.deque()
  size = 0
  with disk_space.explained(folder):
    try:
      for leaf, store in zip(leaves, _open(folder, leaves), strict=True):
        while leaf.parts:
          index, values = leaf.parts.pop()
          while in_flight and size + values.nbytes > limit:
            pending, nbytes = in_flight.popleft()
            pending.result()
            size -= nbytes
          # Written as it is: nobody changes the copy.
          pending = (store[index] if index else store).write(
            values, can_reference_source_data_indefinitely=True
          )
          in_flight.append((pending, values.nbytes))
          size += values.nbytes
          del values
    finally:  # Nothing may write on after an error.
      errors = [pending.exception() for pending, _ in in_flight]
    for e in filter(None, errors):
      raise e
  return written


def _open(folder, leaves):
  """Creates the arrays, in process 0; the others know what it will create."""
  import tensorstore as ts

  context = ts.Context({"file_io_concurrency": {"limit": 128}})
  first = jax.process_index() == 0
  opening = [
    ts.open(
      {
        "driver": "zarr",
        "kvstore": _store(folder, leaf.name),
        "metadata": {
          "shape": leaf.shape,
          "chunks": leaf.chunk,
          "compressor": _COMPRESSOR,
          "dimension_separator": ".",
        },
        "recheck_cached_data": False,
        "recheck_cached_metadata": False,
        "store_data_equal_to_fill_value": True,
      },
      dtype=leaf.dtype,
      context=context,
      open=True,
      create=first,
      assume_metadata=not first,
    )
    for leaf in leaves
  ]
  errors = [future.exception() for future in opening]  # Waits for all.
  for e in filter(None, errors):
    raise e
  return [future.result() for future in opening]


def _store(folder, name):
  path = fs.join(fs.absolute(folder), checkpoint_checksums.on_disk(name)) + "/"
  if not path.startswith("gs://"):
    return {"driver": "file", "path": path}
  bucket, _, path = path.removeprefix("gs://").partition("/")
  return {"driver": "gcs", "bucket": bucket, "path": path}
