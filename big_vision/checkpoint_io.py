"""Arrays in a folder, read through the array handlers of orbax-checkpoint.

Every leaf is a zarr-v2 array in its own folder, called like the leaf with "~"
for "/". The handlers are used below orbax's checkpointers because those want
files of their own and one database for all leaves, while here a folder holds
leaves and nothing else: any of them can be read, copied or deleted alone.
Beside its chunks it has their checksums, see `checkpoint_checksums.py`;
`checkpoint_write.py` writes it.

Each process reads only what its devices need. NumPy leaves must be the same in
all processes.
"""

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import checkpoint_checksums, fs, lookup, remote_stores
from big_vision.checkpoint_checksums import Stored
from big_vision.types import AnyArray

# While loading, about this much is in flight between disk and devices. Bytes.
_BATCH_BYTES = 4 << 30

_BARRIER_TIMEOUT = 30 * 60  # Seconds; large checkpoints on slow disks.
_barrier_count = itertools.count()


class CheckpointManager:
  """Runs one save at a time in the background.

  Pass it to `save_checkpoint_ts`. An error of a save is raised by the next call
  of `check` or of `wait_until_finished`, which each save makes first.
  """

  def __init__(self) -> None:
    self._thread = None
    self._error = None

  def start(self, fn: Callable[[], Any]) -> None:
    """Runs `fn()` in a thread, after the previous one has finished.

    Args:
      fn: function without arguments.
    """
    self.wait_until_finished()

    def run():
      try:
        fn()
      except BaseException as e:  # Raised where somebody can handle it.
        self._error = e

    # Not a daemon: a program that ends by an error still completes its save.
    self._thread = threading.Thread(target=run, name="checkpoint")
    self._thread.start()

  def check(self) -> None:
    """Raises the error of a save that has ended with one; does not wait."""
    if self._thread is not None and not self._thread.is_alive():
      self.wait_until_finished()

  def wait_until_finished(self) -> None:
    """Blocks until the save is on disk; raises the error it had, if any."""
    if self._thread is not None:
      self._thread.join()
      self._thread = None
    if self._error is not None:
      error, self._error = self._error, None
      raise error

  def close(self) -> None:
    """Same as `wait_until_finished`; the manager may be used again."""
    self.wait_until_finished()


def barrier(name: str) -> None:
  """Waits until all processes have come here; callable from any thread.

  Uses the coordination service. A barrier on devices would get in the way of
  the training steps that the main thread dispatches meanwhile.

  Args:
    name: name of the barrier, for error messages.
  """
  if jax.process_count() > 1:
    import orbax.checkpoint as ocp

    wait = ocp.multihost.get_barrier_sync_fn()
    key = f"big_vision_{name}_{next(_barrier_count)}"
    wait(key=key, timeout_ms=1000 * _BARRIER_TIMEOUT)


def leaf_names(folder: str) -> list[str]:
  """Lists the names of the leaves in a checkpoint folder; ignores other files.

  Args:
    folder: folder of the checkpoint.

  Returns:
    Sorted list of names.

  Raises:
    FileNotFoundError: the folder does not exist.
    lookup.ConfigError: it is a file.
  """
  if not fs.isdir(folder):
    if fs.exists(folder):
      raise lookup.ConfigError(
        f"Checkpoint {folder!r} is a file. Runs write folders; parameters alone "
        "can also be in a NumPy file called .npz."
      )
    raise FileNotFoundError(f"Checkpoint folder {folder!r} does not exist.")
  found = fs.listdir(folder)
  is_leaf = lambda n: fs.exists(fs.join(folder, n, ".zarray"))
  with futures.ThreadPoolExecutor(32) as pool:  # Remote look-ups are slow.
    return sorted(
      n.replace("~", "/")
      for n, ok in zip(found, pool.map(is_leaf, found), strict=True)
      if ok
    )


def read(
  folder: str,
  names: Sequence[str],
  shardings: Sequence[Any],
  described: Sequence[Stored],
) -> list[AnyArray]:
  """Reads leaves, each directly into its sharding, and checks their checksums.

  Args:
    folder: folder of the checkpoint.
    names: names of the leaves.
    shardings: list of jax.sharding.Sharding or "host".
    described: result of `checkpoint_checksums.describe(folder, names)`.

  Returns:
    List of jax.Array. NumPy arrays where the sharding is "host", and for
    integers too large for the 32 bits of JAX.

  Raises:
    lookup.ConfigError: a file is damaged or missing; names it.
  """
  out, batch, size = [], [], 0
  for leaf in zip(names, shardings, described, strict=True):
    batch.append(leaf)
    size += np.prod(leaf[2].shape, dtype=int) * leaf[2].dtype.itemsize
    if size > _BATCH_BYTES:
      out += _read_batch(folder, batch)
      batch, size = [], 0
  return out + _read_batch(folder, batch)


def _read_batch(folder, batch):
  """Reads some leaves, given as (name, sharding, description), all at once."""
  on_host = [i for i, (_, s, d) in enumerate(batch) if is_for_host(s, d.dtype)]
  direct = sorted(set(range(len(batch))) - set(on_host))

  wanted = []
  for i, (name, sharding, d) in enumerate(batch):
    if i in on_host:
      wanted.append((name, d, d.all_files()))
    else:
      indices = sharding.addressable_devices_indices_map(d.shape)
      wanted.append((name, d, d.files_of(indices.values())))
  # Before the arrays: what reads them reports damage at length, if at all.
  checkpoint_checksums.verify(folder, wanted)

  async def deserialize():
    import orbax.checkpoint as ocp

    # Of several errors the first is raised, the others would be printed.
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)

    async def nothing():
      return []

    infos = lambda ids: _infos(folder, [batch[i][0] for i in ids])
    args = [ocp.ArrayRestoreArgs(sharding=batch[i][1]) for i in direct]
    handler = ocp.type_handlers.NumpyHandler()
    return await asyncio.gather(
      _array_handler().deserialize(infos(direct), args)
      if direct
      else nothing(),
      handler.deserialize(infos(on_host)) if on_host else nothing(),
    )

  out: list[Any] = [None] * len(batch)
  try:
    arrays, values = _run(deserialize)
  except Exception as e:
    raise readable_error(e, folder) from e
  for i, x in zip(direct, arrays, strict=True):
    out[i] = x
  for i, x in zip(on_host, values, strict=True):
    sharding = batch[i][1]
    out[i] = x if isinstance(sharding, str) else put(x, sharding)
  return out


def readable_error(error: Exception, folder: str) -> Exception:
  """Makes one line of an error of orbax, which says the reason in its cause.

  Args:
    error: what orbax raised while it read arrays.
    folder: folder of the checkpoint.

  Returns:
    The exception, to be raised by the caller.
  """
  cause: BaseException = error
  while cause.__cause__ is not None:
    cause = cause.__cause__
  # What follows are all settings with which the file was opened.
  reason = " ".join(str(cause).split()).partition(" [tensorstore_spec=")[0]
  if not isinstance(cause, ValueError):  # For example memory or rights.
    return RuntimeError(f"Checkpoint {folder!r} cannot be read: {reason}")
  return checkpoint_checksums.Damaged(
    f"Checkpoint {folder!r} is damaged: {reason}."
  )


def is_for_host(sharding: Any, dtype: Any) -> bool:
  """Tells whether an array is read into host memory first.

  Args:
    sharding: jax.sharding.Sharding or "host".
    dtype: type of the stored values.

  Returns:
    Whether it is wanted there, or JAX would cut 64 bits to 32 unchecked.
  """
  canonical = jax.dtypes.canonicalize_dtype
  return isinstance(sharding, str) or canonical(dtype) != dtype


def put(x: np.ndarray, sharding: jax.sharding.Sharding) -> AnyArray:
  """Moves a NumPy array into a jax.Array, of 32 bits if it has 64.

  Args:
    x: the array; it is the same in all processes.
    sharding: where to.

  Returns:
    jax.Array; `x` if its values do not fit into 32 bits.
  """
  dtype = jax.dtypes.canonicalize_dtype(x.dtype)
  if jnp.issubdtype(dtype, np.integer) and x.size:
    limits = np.iinfo(dtype)
    if x.min() < limits.min or x.max() > limits.max:
      return x
  x = x.astype(dtype)
  if sharding.is_fully_addressable:
    return jax.device_put(x, sharding)
  with jax.transfer_guard("allow"):  # It is meant to be one.
    return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])


def _array_handler():
  import orbax.checkpoint as ocp

  return ocp.type_handlers.ArrayHandler(
    enable_write_sharding_file=False,  # Would be a file among the leaves.
    use_replica_parallel=False,  # One chunk per shard, whoever holds it.
  )


def check_place(folder: str) -> None:
  """Refuses a folder where checkpoints cannot be, before it is written to.

  Args:
    folder: any path.

  Raises:
    lookup.ConfigError: orbax would take it for a local folder called "s3:".
  """
  if remote_stores.scheme_of(folder) not in ("", "gs"):
    raise lookup.ConfigError(
      f"{folder}: checkpoints can be in local folders and on gs://, not there. "
      "Write to one of these, and copy the folder."
    )


def _infos(folder, names):
  import orbax.checkpoint as ocp
  import tensorstore as ts
  from etils import epath

  check_place(folder)
  # One context for all leaves; a new one each time, so that nothing is cached
  # from a folder that was replaced since.
  context = ts.Context({"file_io_concurrency": {"limit": 128}})
  parent = epath.Path(fs.absolute(folder))
  return [
    ocp.type_handlers.ParamInfo(
      name=name.replace("/", "~"),
      parent_dir=parent,
      is_ocdbt_checkpoint=False,
      use_zarr3=False,
      ts_context=context,
    )
    for name in names
  ]


def _run(coroutine_fn):
  """Runs a coroutine, also where an event loop runs already (a notebook)."""
  try:
    asyncio.get_running_loop()
  except RuntimeError:
    return asyncio.run(coroutine_fn())
  with futures.ThreadPoolExecutor(1) as pool:
    return pool.submit(lambda: asyncio.run(coroutine_fn())).result()
