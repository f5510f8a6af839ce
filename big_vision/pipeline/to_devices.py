"""From tensors of the host to arrays on devices.

B is the global batch size.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from big_vision import devices as devices_lib
from big_vision import trees
from big_vision.lookup import ConfigError
from big_vision.pipeline import failures, pixels, prefetch
from big_vision.tf import tf
from big_vision.types import Batch, Devices


def start_global(
  data: tf.data.Dataset,
  global_devices: Devices,
  n_prefetch: int | None = 1,
  keep_on_cpu: Collection[str] = frozenset(),
  warmup: bool = False,
) -> Iterator[Batch]:
  """Iterates over global batches.

  Args:
    data: dataset of this process' part of each batch.
    global_devices: [num_devices], in the order in which they get the rows of a
      batch.
    n_prefetch: batches to transfer ahead; 0 and None for none.
    keep_on_cpu: names ('/'-joined paths) of features that stay on this host, as
      NumPy arrays; strings and ragged features have to.
    warmup: start fetching now instead of when the first batch is wanted.

  Returns:
    An iterator of dicts of arrays [B, ...], split on axis 0 over the devices.

  Raises:
    TypeError: (by the iterator) a string or ragged feature is not kept on CPU.
    ValueError: (by the iterator) an example could not be preprocessed; or the
      batch does not divide evenly by the devices.
  """
  keep = frozenset(keep_on_cpu)
  as_bytes, of_bytes = pixels.of(data)
  if keep.isdisjoint(of_bytes):
    data = as_bytes
  else:
    of_bytes = {}

  def put(name, x):
    if name in keep:
      return tf_to_numpy(x)
    if isinstance(x, tf.RaggedTensor) or x.dtype == tf.string:
      kind = "ragged" if isinstance(x, tf.RaggedTensor) else "of strings"
      raise TypeError(
        f"The feature {name!r} is {kind} and cannot be put on devices. Add "
        "it to keep_on_cpu, or remove it in the pp string (`drop`, `keep`)."
      )
    local = np.asarray(x)  # Shares memory.
    return devices_lib.make_fsarray_from_local_slice(local, global_devices)

  def batches():
    for batch in failures.iterate(data):
      batch = trees.tree_map_with_names(put, batch)
      is_real = batch.pop(pixels.IS_REAL, None)
      for key in of_bytes.keys() & batch.keys():
        batch[key] = pixels.look_up(batch[key], of_bytes[key], is_real)
      yield batch

  return prefetch.PrefetchIterator(batches(), n_prefetch or 0, start=warmup)


def tf_to_numpy(x: Any) -> np.ndarray:
  """Converts a tensor of the host.

  Args:
    x: dense or ragged tensor.

  Returns:
    An array. Strings become unicode (UTF-8). If the rows of a ragged tensor
    have one shape, the result is dense, otherwise a 1-D object array of arrays.
  """
  if isinstance(x, tf.RaggedTensor):
    return _ragged_to_numpy(x)
  a = np.asarray(x)
  if x.dtype != tf.string:
    return a
  return np.array([s.decode() for s in a.flat], str).reshape(a.shape)


def _ragged_to_numpy(x):
  if x.ragged_rank > 1:
    rows = [tf_to_numpy(row) for row in x]
  else:
    values, ends = tf_to_numpy(x.values), np.asarray(x.row_splits)
    rows = [values[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
  if not rows:
    return tf_to_numpy(x.to_tensor())
  if len({r.shape for r in rows}) == 1 and rows[0].dtype != object:
    return np.stack(rows)
  out = np.empty(len(rows), object)
  out[:] = rows
  return out


def shapes(element_spec: Any) -> dict[Any, Any]:
  """Tells what devices see of a dataset's elements, to initialize models.

  Args:
    element_spec: (nested) dict of TensorFlow specs, or of tuples of them.

  Returns:
    The dict with `jax.ShapeDtypeStruct`, without strings, ragged features and
    features whose shape is not fixed. Tuples of which any is left out are too:
    their elements would have other places.
  """
  out = {}
  for k, spec in element_spec.items():
    if isinstance(spec, Mapping):
      out[k] = shapes(spec)
    elif isinstance(spec, tuple):
      items = shapes(dict(enumerate(spec)))
      if len(items) == len(spec):
        out[k] = tuple(items.values())
    elif (
      isinstance(spec, tf.TensorSpec)
      and spec.dtype != tf.string
      and spec.shape.is_fully_defined()
    ):
      dtype = jax.dtypes.canonicalize_dtype(spec.dtype.as_numpy_dtype)
      out[k] = jax.ShapeDtypeStruct(tuple(spec.shape), dtype)
  return out


def check(element_spec: Any, key: str) -> None:
  """Refuses features that cannot be put on devices.

  Args:
    element_spec: of a dataset of batches.
    key: the config key of the preprocessing, for errors.

  Raises:
    ConfigError: features of strings, or ragged ones.
  """
  for name, spec in trees.tree_flatten_with_names(element_spec)[0]:
    if isinstance(spec, tf.RaggedTensorSpec):
      raise refused(f"config.{key}", name, "is ragged")
    if getattr(spec, "dtype", None) == tf.string:
      raise refused(f"config.{key}", name, "is text")


def refused(key: str, feature: str, why: str) -> ConfigError:
  """Makes the error for a feature that cannot be put on devices.

  Args:
    key: full config key of the preprocessing that leaves it.
    feature: its name, of a part of it with slashes.
    why: what it is, "is text".

  Returns:
    The exception, to be raised by the caller.
  """
  return ConfigError(
    f"{key}: the feature {feature!r} that it leaves {why}, and cannot be put on "
    'devices. End it in |keep("image", "labels"), or in '
    f"|drop({feature.partition('/')[0]!r})."
  )


def shard_and_put(
  x: Any, shard: bool = True, put: bool = True
) -> np.ndarray | jax.Array:
  """Splits a host's batch over its devices (for code written for pmap).

  Args:
    x: tensor or array [B, ...].
    shard: whether to reshape to [D, B / D, ...], D local devices.
    put: whether to put one slice on each device (if `shard`).

  Returns:
    An array, on the host or with one slice per device.

  Raises:
    ValueError: B does not divide by the number of devices.
  """
  x = np.asarray(x)
  if not shard:
    return x
  local = jax.local_devices()
  if len(x) % len(local):
    raise ValueError(
      f"A batch of {len(x)} examples does not divide by {len(local)} devices."
    )
  x = x.reshape(len(local), -1, *x.shape[1:])
  if not put:
    return x
  mesh = jax.sharding.Mesh(np.array(local), ("devices",))
  spec = jax.sharding.PartitionSpec("devices")
  return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))


def start_input_pipeline(
  data: tf.data.Dataset, n_prefetch: int = 1, shard: bool = True
) -> Iterator[Any]:
  """Iterates over a dataset with `shard_and_put` applied to all features.

  Args:
    data: dataset of this process' part of each batch.
    n_prefetch: batches to transfer ahead; 0 leaves them on the host.
    shard: see `shard_and_put`.

  Returns:
    An iterator of trees of arrays.
  """
  put = functools.partial(shard_and_put, shard=shard, put=bool(n_prefetch))
  it = (jax.tree.map(put, batch) for batch in failures.iterate(data))
  return prefetch.prefetch_iterator(it, n_prefetch)


def start_ragged_input_pipeline(
  data: tf.data.Dataset,
  n_prefetch: int = 1,
  shard: bool = True,
  ragged: Collection[str] | None = None,
) -> Iterator[Any]:
  """Does the same as `start_input_pipeline` for all but some features.

  Args:
    data: dataset of this process' part of each batch.
    n_prefetch: batches to transfer ahead; 0 leaves them on the host.
    shard: see `shard_and_put`.
    ragged: names of the features that stay tensors.

  Returns:
    An iterator of trees of arrays and tensors.
  """
  ragged = frozenset(ragged or ())

  def put(name, x):
    return x if name in ragged else shard_and_put(x, shard, bool(n_prefetch))

  it = (
    trees.tree_map_with_names(put, batch) for batch in failures.iterate(data)
  )
  return prefetch.prefetch_iterator(it, n_prefetch)
