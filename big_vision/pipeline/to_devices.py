"""From tensors of the host to arrays on devices.

B is the global batch size.
"""

import functools
import itertools
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging

from big_vision import devices as devices_lib
from big_vision import trees
from big_vision.pipeline import prefetch
from big_vision.tf import tf


def start_global(
  data, global_devices, n_prefetch=1, keep_on_cpu=frozenset(), warmup=False
):
  """Iterates over global batches.

  Args:
    data: tf.data.Dataset of this process' part of each batch.
    global_devices: [num_devices] array of devices, in the order in which they
      get the rows of a batch.
    n_prefetch: int, batches to transfer ahead; 0 for none.
    keep_on_cpu: names ('/'-joined paths) of features that stay on this host, as
      NumPy arrays; strings and ragged features have to.
    warmup: bool, start fetching now instead of when the first batch is wanted.

  Returns:
    An iterator of dicts of arrays [B, ...], split on axis 0 over the devices.

  Raises:
    TypeError: (by the iterator) a string or ragged feature is not kept on CPU.
    ValueError: (by the iterator) an example could not be preprocessed; or the
      batch does not divide evenly by the devices.
  """
  keep = frozenset(keep_on_cpu)

  def put(name, x):
    if name in keep:
      return tf_to_numpy(x)
    if isinstance(x, tf.RaggedTensor) or x.dtype == tf.string:
      kind = "ragged" if isinstance(x, tf.RaggedTensor) else "of strings"
      raise TypeError(
        f"The feature {name!r} is {kind} and can not be put on devices. Add "
        "it to keep_on_cpu, or remove it in the pp string (`drop`, `keep`)."
      )
    local = np.asarray(x)  # Shares memory.
    return devices_lib.make_fsarray_from_local_slice(local, global_devices)

  def batches():
    for batch in _iterate(data):
      yield trees.tree_map_with_names(put, batch)

  if n_prefetch:
    return prefetch.PrefetchIterator(batches(), n_prefetch, start=warmup)
  return prefetch.threadstart_iterator(batches()) if warmup else batches()


def _iterate(data):
  """Elements of a dataset; errors say which example is behind them."""
  it = iter(data)
  for num_batches in itertools.count():
    try:
      batch = next(it)
    except StopIteration:
      return
    except tf.errors.OpError as e:
      error = _explain(data, num_batches, e)
      raise error from (None if error is e else e)
    yield batch


def _explain(data, num_batches, e):
  """ValueError that names the example, or `e` if it can not be found."""
  if not hasattr(data, "explain_failure"):
    return e
  logging.error("An input pipeline failed, looking for the example: %s", e)
  failed = data.explain_failure(num_batches)
  if not failed:
    return e
  return ValueError(
    f"Preprocessing failed for the example with {failed}\n{e.message}"
  )


def tf_to_numpy(x):
  """Converts a tensor of the host.

  Args:
    x: dense or ragged tensor.

  Returns:
    np.ndarray. Strings become unicode (UTF-8). If the rows of a ragged tensor
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


def shapes(element_spec):
  """What devices see of a dataset's elements, for initialising models.

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


def shard_and_put(x, shard=True, put=True):
  """Splits a host's batch over its devices (for code written for pmap).

  Args:
    x: tensor or array [B, ...].
    shard: bool, whether to reshape to [D, B / D, ...], D local devices.
    put: bool, whether to put one slice on each device (if `shard`).

  Returns:
    np.ndarray, or jax.Array with one slice per device.
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


def start_input_pipeline(data, n_prefetch=1, shard=True):
  """Iterator over a dataset with `shard_and_put` applied to all features."""
  put = functools.partial(shard_and_put, shard=shard, put=bool(n_prefetch))
  it = (jax.tree.map(put, batch) for batch in _iterate(data))
  return prefetch.prefetch_iterator(it, n_prefetch)


def start_ragged_input_pipeline(data, n_prefetch=1, shard=True, ragged=None):
  """`start_input_pipeline` that passes the features named in `ragged` through."""
  ragged = frozenset(ragged or ())

  def put(name, x):
    return x if name in ragged else shard_and_put(x, shard, bool(n_prefetch))

  it = (trees.tree_map_with_names(put, batch) for batch in _iterate(data))
  return prefetch.prefetch_iterator(it, n_prefetch)
