"""Makes meshes, and moves arrays between hosts and devices.

A "global array" spans the devices of all processes. `local` refers to
the devices and the data of this process.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import meshes, trees
from big_vision.types import Array, ConfigLike, Devices, PyTree


def mesh_of(config: ConfigLike) -> Mesh:
  """Makes the mesh that a config asks for, by default one axis `data`.

  Args:
    config: ConfigDict of a run: its keys `mesh*`, see `create_device_mesh`.

  Returns:
    jax.sharding.Mesh.

  Raises:
    ValueError: as `create_device_mesh`.
  """
  return create_device_mesh(
    config.get("mesh", [("data", jax.device_count())]),
    dcn=config.get("mesh_dcn"),
    allow_split_physical_axes=config.get(
      "mesh_allow_split_physical_axes", False
    ),
  )


def create_device_mesh(
  config_mesh: Sequence[tuple[str, int]],
  *,
  dcn: Sequence[tuple[str, int]] | None = None,
  allow_split_physical_axes: bool = False,
) -> Mesh:
  """Makes a mesh over all devices, laid out for their network.

  Args:
    config_mesh: sequence of (axis name, size), for example [("data", -1)]. One
      size may be -1, which is then all the remaining devices.
    dcn: sequence of (axis name, number), how many slices an axis spans, see
      `meshes.arrange`.
    allow_split_physical_axes: whether a physical axis of the network may
      be divided among several mesh axes.

  Returns:
    jax.sharding.Mesh.

  Raises:
    ValueError: the sizes do not fit the number of devices or of slices, or the
      axes are not pairs with distinct names.
  """
  devices = jax.devices()
  names, sizes = meshes.parse(config_mesh, len(devices))
  grid = meshes.arrange(devices, names, sizes, dcn, allow_split_physical_axes)
  return Mesh(grid, names)


def _no_mesh():
  """Leaves the mesh of `jax.set_mesh`, whose devices jit would insist on."""
  return jax.set_mesh(Mesh(np.empty((), dtype=object), ()))


def put_cpu(x: PyTree) -> PyTree:
  """Moves a tree of arrays to the first local CPU device.

  Args:
    x: pytree of arrays.

  Returns:
    The tree with arrays on the CPU.
  """
  return jax.device_put(x, jax.local_devices(backend="cpu")[0])


def jit_cpu(
  **jit_kwargs: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """Compiles a function with its result on the first local CPU device.

  The function runs outside of the mesh in scope, which does not have the CPU.

  Args:
    **jit_kwargs: for `jax.jit`.

  Returns:
    A decorator; devices are looked up when the function is called.
  """

  def decorate(fun):
    @functools.cache
    def compiled():
      cpu = jax.local_devices(backend="cpu")[0]
      where = jax.sharding.SingleDeviceSharding(cpu)
      return jax.jit(fun, out_shardings=where, **jit_kwargs)

    @functools.wraps(fun)
    def wrapped(*args, **kwargs):
      leaves = jax.tree.leaves((args, kwargs))
      if any(isinstance(x, jax.core.Tracer) for x in leaves):
        return compiled()(*args, **kwargs)  # The mesh is fixed by now.
      with _no_mesh():
        return compiled()(*args, **kwargs)

    return wrapped

  return decorate


def reshard(tree: PyTree, shardings: PyTree) -> PyTree:
  """Moves arrays to the given shardings, through the host if needed.

  Args:
    tree: pytree of NumPy or JAX arrays; values on the host must be the same in
      all processes.
    shardings: tree of shardings, or a prefix of it, for example one sharding.

  Returns:
    Tree of global arrays. Those that are where they should be are not copied.

  Raises:
    RuntimeError: an array with another sharding has parts on other hosts.
    TypeError: a leaf is not an array.
  """

  def move(x, sharding):
    if not (hasattr(x, "shape") and hasattr(x, "__array__")):
      raise TypeError(
        f"Expected an array to reshard, got {x!r} of type {type(x).__name__}."
      )
    if isinstance(x, jax.Array):
      if x.sharding.is_equivalent_to(sharding, x.ndim):
        return x
      if not x.is_fully_addressable:
        raise RuntimeError(
          f"Cannot reshard an array of shape {x.shape} from {x.sharding} to "
          f"{sharding}: parts of it are on other hosts."
        )
      if jnp.issubdtype(x.dtype, jax.dtypes.extended):  # Typed random keys.
        data = move(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    # 64-bit values become 32-bit ones here, as usual in JAX.
    host = np.asarray(jax.device_get(x))
    host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)
    return jax.make_array_from_callback(
      host.shape, sharding, lambda index: host[index]
    )

  # This is an explicit transfer, also where implicit ones are disallowed.
  with jax.transfer_guard("allow"):
    return jax.tree.map(move, tree, trees.tree_broadcast(shardings, tree))


def place_shapes(shapes: PyTree, shardings: PyTree) -> PyTree:
  """Does for shapes what `reshard` does for arrays.

  Args:
    shapes: tree of arrays or ShapeDtypeStruct.
    shardings: tree of shardings, same structure.

  Returns:
    Tree of ShapeDtypeStruct that have these shardings.
  """
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings,
  )


def batch_sharding(devices: Devices) -> NamedSharding:
  """Makes the sharding that splits the first axis over devices.

  Args:
    devices: devices in the order of the parts.

  Returns:
    NamedSharding over a mesh with the axis "devices".
  """
  mesh = Mesh(np.asarray(devices, dtype=object), ("devices",))
  return NamedSharding(mesh, PartitionSpec("devices"))


def make_fsarray_from_local_slice(
  local_slice: Any, global_devices: Devices
) -> Array:
  """Makes a global array, split along its first axis, from local parts.

  Args:
    local_slice: [local_B, ...], the part of this process: a NumPy array, a dense
      TensorFlow tensor, or anything else that NumPy can read.
    global_devices: sequence of all devices, in the order of the slices.

  Returns:
    [local_B * process_count, ...] array, sharded over the devices.

  Raises:
    ValueError: local_B is not a multiple of the number of local devices.
    TypeError: the values are not numbers, such as strings or ragged tensors.
  """
  sharding = batch_sharding(global_devices)
  devices = sharding.mesh.local_devices or []
  x = _as_numpy(local_slice)
  if x.ndim == 0 or x.shape[0] % len(devices):
    raise ValueError(
      f"An array of shape {x.shape} cannot be split along its first axis over "
      f"{len(devices)} local devices; the batch size must be a multiple of the "
      "number of devices."
    )
  parts = jax.device_put(np.split(x, len(devices)), list(devices))
  shape = (x.shape[0] * jax.process_count(), *x.shape[1:])
  return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _as_numpy(x):
  """Converts to a NumPy array that shares memory if possible."""
  array = np.asarray(x)
  if array.dtype.kind in "OSU":
    raise TypeError(
      f"Only numbers can go to devices, not {type(x).__name__} with "
      f"{array.dtype}: keep strings and ragged values on the host."
    )
  return array


def _span(index, shape):
  """Converts the slices of a shard to (start, stop) per dimension."""
  return tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))


def get_local_slice_from_fsarray(global_array: Array) -> np.ndarray:
  """Collects the part of a batch that is on local devices.

  Args:
    global_array: array that is split along its first axis, if at all.

  Returns:
    [local_B, ...] numpy array, in the order of the local devices of the mesh.

  Raises:
    AssertionError: the array is sharded along another axis.
  """
  shards = {s.device: s for s in global_array.addressable_shards}
  shape = global_array.shape
  mesh = getattr(global_array.sharding, "mesh", None)
  order = list(shards) if mesh is None else mesh.local_devices
  parts = {}  # By position: other axes of the mesh may hold copies.
  for device in order:
    span = _span(shards[device].index, shape)
    if any(s != (0, n) for s, n in zip(span[1:], shape[1:], strict=True)):
      raise AssertionError(
        f"The array is sharded along a non-first axis: {shards[device].index}"
      )
    parts.setdefault(span[:1], shards[device].data)
  parts = jax.device_get(list(parts.values()))
  return np.concatenate(parts) if shape else np.asarray(parts[0])


def assert_local_slices_same(*global_arrays: Array) -> None:
  """Asserts that each device has the same examples of all of these batches.

  Args:
    *global_arrays: arrays of at least one dimension. Dimensions that are not
      sharded may differ.

  Raises:
    AssertionError: the slices differ.
  """

  def slices(array):
    shape, found = array.shape, {}
    for shard in array.addressable_shards:
      span = _span(shard.index, shape)
      found[shard.device.id] = [span[0]] + [
        (i, s) for i, s in enumerate(span) if i and s != (0, shape[i])
      ]
    return found

  expected = [slices(x) for x in global_arrays]
  for array, found in zip(global_arrays, expected, strict=True):
    if found != expected[0]:
      raise AssertionError(
        "Local slices differ (by device):\n"
        f"{global_arrays[0].shape}: {expected[0]}\n{array.shape}: {found}"
      )


def sync() -> None:
  """Waits until all processes are here and all devices have finished."""
  devices = jax.devices()
  batch = batch_sharding(devices)
  replicated = NamedSharding(batch.mesh, PartitionSpec())
  # The mesh in scope may have the devices in another order.
  with _no_mesh(), jax.transfer_guard("allow"):
    ones = jax.make_array_from_callback(
      (len(devices),), batch, lambda i: np.ones(len(devices), np.float32)[i]
    )
    total = jax.jit(jnp.sum, out_shardings=replicated)(ones)
  jax.block_until_ready(total)


sync_all_hosts = sync


def pad_shard_unpad(
  wrapped: Callable[..., Any],
  static_argnums: Sequence[int] = (0,),
  static_argnames: Sequence[str] = (),
) -> Callable[..., Any]:
  """Lets a function of [devices, batch / devices, ...] take any batch size.

  Args:
    wrapped: function for arguments with two leading axes, as of `jax.pmap`.
    static_argnums: positions of arguments that are passed as they are.
    static_argnames: names of keyword arguments that are passed as they are.

  Returns:
    Function of pytrees with one leading axis b, all the same, which are padded
    with zeros. Its results are numpy arrays with the leading axis b. With the
    keyword `min_device_batch`, batches per device are at least that large, to
    compile less often. It raises AssertionError if leading axes differ.
  """

  @functools.wraps(wrapped)
  def padded(*args, min_device_batch=None, **kwargs):
    num_devices = jax.local_device_count()
    batch = [x for i, x in enumerate(args) if i not in static_argnums]
    batch += [x for k, x in kwargs.items() if k not in static_argnames]
    sizes = {np.shape(x)[0] for x in jax.tree.leaves(batch)}
    if len(sizes) != 1:
      raise AssertionError(f"Inconsistent batch-sizes: {sorted(sizes)}")
    (b,) = sizes
    per_device = max(-(-b // num_devices), min_device_batch or 0)

    def pad(x):
      x = np.asarray(x)
      rest = x.shape[1:]
      fill = np.zeros((num_devices * per_device - b, *rest), x.dtype)
      x = np.concatenate([x, fill])
      return x.reshape(num_devices, per_device, *rest)

    def unpad(x):
      x = np.asarray(jax.device_get(x))
      return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])[:b]

    args = [
      x if i in static_argnums else jax.tree.map(pad, x)
      for i, x in enumerate(args)
    ]
    kwargs = {
      k: x if k in static_argnames else jax.tree.map(pad, x)
      for k, x in kwargs.items()
    }
    return jax.tree.map(unpad, wrapped(*args, **kwargs))

  return padded


def prefetch_scalar(
  it: Iterable[Any],
  nprefetch: int = 1,
  devices: Devices | None = None,
) -> Iterator[Array]:
  """Puts one copy of each scalar on every local device, ahead of time.

  Args:
    it: iterable of scalars.
    nprefetch: how many are on their way while one is in use.
    devices: local devices, by default all.

  Yields:
    [num_devices] arrays, one element per device.
  """
  devices = jax.local_devices() if devices is None else devices
  sharding = batch_sharding(devices)
  ready = collections.deque()
  for scalar in it:
    ready.append(jax.device_put(np.full(len(devices), scalar), sharding))
    if len(ready) > nprefetch:
      yield ready.popleft()
  yield from ready


def check_batch_size(
  batch_size: Any, devices: Devices, source: str = "batch_size"
) -> None:
  """Checks that batches can be split evenly over the devices.

  Args:
    batch_size: global batch size.
    devices: the devices.
    source: what the error calls the batch size: where it was set.

  Raises:
    ValueError: the batch size does not fit.
  """
  n = len(devices)
  if not isinstance(batch_size, int | np.integer) or batch_size < 1:
    raise ValueError(f"{source}={batch_size!r} is not a positive integer.")
  if batch_size % n:
    below = batch_size // n * n
    near = f"{below} or {below + n}" if below else str(n)
    raise ValueError(
      f"{source}={batch_size} is not divisible by the number of devices, {n}. "
      f"Use for example {near}."
    )
