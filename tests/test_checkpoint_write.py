"""Arrays as orbax writes them, within a bound of memory."""

import asyncio
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision import checkpoint_write, checkpoints


def write(folder, tree):
  os.makedirs(folder, exist_ok=True)
  return checkpoint_write.start(str(folder), list(tree.items()))()


def write_by_orbax(folder, arrays):
  """Through the handlers that earlier versions of this package used."""
  handler = ocp.type_handlers.ArrayHandler(
    enable_write_sharding_file=False, use_replica_parallel=False
  )
  infos = [
    ocp.type_handlers.ParamInfo(
      name=name,
      parent_dir=epath.Path(folder),
      is_ocdbt_checkpoint=False,
      use_zarr3=False,
    )
    for name in arrays
  ]

  async def serialize():
    return await handler.serialize(list(arrays.values()), infos)

  for future in asyncio.run(serialize()):
    future.result()


def files(folder):
  return {
    str(p.relative_to(folder)): json.loads(p.read_text())
    if p.name == ".zarray"
    else p.read_bytes()
    for p in pathlib.Path(folder).rglob("*")
    if p.is_file()
  }


@pytest.mark.multidevice
def test_files_are_those_of_orbax(tmp_path):
  mesh = jax.make_mesh((4, 2), ("a", "b"))
  x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
  put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
  arrays = {
    "both": put(x, "a", "b"),
    "one": put(x, None, "b"),
    "replicated": put(x),
    "bfloat16": put(x.astype(jnp.bfloat16), "a"),
    "bool": put(x > 0),
    "int8": put((x * 9).astype(np.int8)),
    "scalar": put(np.int32(7)),
    "zeros": put(np.zeros((4, 2), np.float32), "a"),
  }
  written = dict(write(tmp_path / "own", arrays))
  write_by_orbax(tmp_path / "orbax", arrays)
  assert files(tmp_path / "own") == files(tmp_path / "orbax")
  assert len(written["both"]) == 8 and len(written["one"]) == 2
  assert written["scalar"] == [()]


def test_values_of_the_host(tmp_path):
  x = np.arange(6.0).reshape(2, 3)
  finish = checkpoint_write.start(
    str(tmp_path), [("x", x), ("n", 3), ("empty", jnp.zeros((0, 2)))]
  )
  x[:] = -1  # It has been copied.
  finish()
  got = checkpoints.tsload(str(tmp_path), shardings="host")
  np.testing.assert_array_equal(got["x"], np.arange(6.0).reshape(2, 3))
  assert got["n"] == 3 and got["empty"].shape == (0, 2)
  with pytest.raises(ValueError, match="'a'.*only numbers"):
    checkpoint_write.start(str(tmp_path), [("a", "text")])


def test_where_arrays_are():
  """As orbax, which reads them, says it; with a slash at the end."""
  from orbax.checkpoint._src.serialization import tensorstore_utils

  for folder in ("gs://bucket/run/checkpoint.bv-000000001", "/tmp/run"):
    own = checkpoint_write._store(folder, "params/a")
    orbax = tensorstore_utils.build_kvstore_tspec(
      folder, "params~a", use_ocdbt=False
    )
    assert own.pop("path") == orbax.pop("path") + "/"
    assert own.items() <= orbax.items()


def _peak():
  """Largest size of this process since `_forget_peak`, in bytes."""
  status = pathlib.Path("/proc/self/status").read_text()
  (line,) = [x for x in status.splitlines() if x.startswith("VmHWM")]
  return int(line.split()[1]) * 1024


def _forget_peak():
  pathlib.Path("/proc/self/clear_refs").write_text("5")


def test_memory_is_at_most_one_and_a_half_times_the_state(tmp_path):
  """Noise, which does not get smaller by compression."""
  rng = np.random.default_rng(0)
  tree = {f"l{i}": rng.integers(0, 2**62, 1 << 20) for i in range(24)}
  write(tmp_path / "first", {"x": tree["l0"]})  # What is loaded once.
  size = sum(x.nbytes for x in tree.values())
  before = None
  _forget_peak()
  before = _peak()
  write(tmp_path / "second", tree)
  used = _peak() - before
  # The copy, which an accelerator needs, too, and what is being written.
  assert size * 0.9 < used < size * 1.5 + (8 << 20)
