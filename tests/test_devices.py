"""Tests for meshes and global arrays, on 8 devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices

P = PartitionSpec


@pytest.fixture
def mesh():
  return devices.create_device_mesh([("data", -1), ("model", 2)])


def test_create_device_mesh(mesh):
  assert dict(mesh.shape) == {"data": 4, "model": 2}
  assert set(mesh.devices.flat) == set(jax.devices())
  assert devices.create_device_mesh([("a", 8)]).axis_names == ("a",)
  assert devices.create_device_mesh([("a", 1), ("b", -1)]).shape["b"] == 8


@pytest.mark.parametrize(
  "bad",
  [
    [("data", 3)],
    [("data", 3), ("model", -1)],
    [("data", -1), ("model", -1)],
    [("data", 16), ("model", -1)],
    [("data", 0)],
    [("data", 4), ("data", 2)],
    [],
    ["data"],
    "data",
    8,
    [("data", "many")],
  ],
)
def test_create_device_mesh_errors(bad):
  with pytest.raises(ValueError, match=r"config\.mesh"):
    devices.create_device_mesh(bad)


def test_cpu_placement():
  cpu = jax.local_devices(backend="cpu")[0]
  x = devices.put_cpu({"a": np.arange(3)})
  assert x["a"].devices() == {cpu}
  calls = []

  @devices.jit_cpu(static_argnums=(1,))
  def scale(x, n):
    calls.append(n)  # Traced once per static value.
    return x * n

  for _ in range(2):
    y = scale(x["a"], 3)
  np.testing.assert_array_equal(y, [0, 3, 6])
  assert y.devices() == {cpu} and calls == [3]


def test_jit_cpu_inside_of_a_mesh_and_of_jit(mesh):
  double = devices.jit_cpu()(lambda x: 2 * x)
  with jax.set_mesh(mesh):
    assert float(double(devices.put_cpu(np.float32(4)))) == 8
    devices.sync()
  assert jax.jit(double)(4) == 8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool"])
def test_reshard(mesh, dtype):
  x = np.arange(32).reshape(8, 4).astype(jnp.dtype(dtype))
  split = NamedSharding(mesh, P("data", "model"))
  other = NamedSharding(mesh, P(None, ("model", "data")[:1]))
  tree = devices.reshard({"a": x, "b": [x[0], x[1]]}, {"a": split, "b": other}
                         | {"b": NamedSharding(mesh, P())})  # fmt: skip
  assert tree["a"].sharding == split
  assert tree["a"].addressable_shards[0].data.shape == (2, 2)
  again = devices.reshard(tree, {"a": other, "b": tree["b"][0].sharding})
  assert again["a"].sharding == other
  assert again["a"].dtype == jnp.dtype(dtype)
  np.testing.assert_array_equal(again["a"], x)
  assert again["b"][0] is tree["b"][0]  # It was there already.


def test_reshard_scalars_and_keys(mesh):
  everywhere = NamedSharding(mesh, P())
  tree = {"f": np.float64(0.5), "i": np.asarray(2**20, np.int64)}
  out = devices.reshard(tree, everywhere)
  assert out["f"].dtype == jnp.float32 and out["f"] == 0.5
  assert out["i"].dtype == jnp.int32 and out["i"] == 2**20
  key = devices.reshard(jax.random.key(3), everywhere)
  assert key.sharding == everywhere
  np.testing.assert_array_equal(
    jax.random.key_data(key), jax.random.key_data(jax.random.key(3))
  )
  for bad in (3, 2.5, "x", jax.ShapeDtypeStruct((2,), jnp.float32)):
    with pytest.raises(TypeError, match="Expected an array"):
      devices.reshard({"a": bad}, everywhere)


def test_local_slices_round_trip():
  order = jax.devices()[::-1]
  x = np.arange(48, dtype=np.float32).reshape(16, 3)
  y = devices.make_fsarray_from_local_slice(x, order)
  np.testing.assert_array_equal(y, x)
  np.testing.assert_array_equal(devices.get_local_slice_from_fsarray(y), x)
  first = {s.device: s.index[0] for s in y.addressable_shards}[order[0]]
  assert (first.start, first.stop) == (0, 2)


@pytest.mark.parametrize(
  "given, expected",
  [("int64", "int32"), ("float64", "float32"), ("uint8", "uint8"),
   ("bfloat16", "bfloat16"), ("bool", "bool")],
)  # fmt: skip
def test_make_fsarray_dtypes(given, expected):
  x = np.ones((8, 2)).astype(jnp.dtype(given))
  y = devices.make_fsarray_from_local_slice(x, jax.devices())
  assert y.dtype == jnp.dtype(expected)


def test_make_fsarray_errors():
  make = devices.make_fsarray_from_local_slice
  with pytest.raises(ValueError, match="multiple of the number of devices"):
    make(np.ones((12, 2)), jax.devices())
  with pytest.raises(ValueError, match="cannot be split"):
    make(np.float32(1), jax.devices())
  with pytest.raises(TypeError, match="strings"):
    make(np.array(["a"] * 8), jax.devices())


@pytest.mark.tf
def test_make_fsarray_from_tensorflow():
  pytest.importorskip("tensorflow_datasets")
  from big_vision.tf import tf

  x = tf.reshape(tf.range(16.0), (8, 2))
  for dtype in (tf.float32, tf.bfloat16, tf.int32):
    y = devices.make_fsarray_from_local_slice(tf.cast(x, dtype), jax.devices())
    assert y.dtype == jnp.dtype(dtype.name)
    np.testing.assert_array_equal(np.asarray(y, np.float32), x.numpy())
  for bad in (tf.constant(["a"] * 8), tf.ragged.constant([[1], [2, 3]] * 4)):
    with pytest.raises(TypeError, match="keep strings and ragged"):
      devices.make_fsarray_from_local_slice(bad, jax.devices())


def test_get_local_slice_of_other_shardings(mesh):
  x = np.arange(32.0).reshape(8, 4)
  get = devices.get_local_slice_from_fsarray
  put = lambda spec: jax.device_put(x, NamedSharding(mesh, spec))
  np.testing.assert_array_equal(get(put(P("data"))), x)  # Copies along model.
  np.testing.assert_array_equal(get(put(P())), x)
  np.testing.assert_array_equal(get(jnp.asarray(x)), x)
  assert get(jnp.asarray(3)) == 3
  with pytest.raises(AssertionError, match="non-first axis"):
    get(put(P(None, "model")))


def test_assert_local_slices_same(mesh):
  x = np.zeros((8, 4))
  order = jax.devices()
  a = devices.make_fsarray_from_local_slice(x, order)
  b = devices.make_fsarray_from_local_slice(x[:, 0], order)
  c = devices.make_fsarray_from_local_slice(x, order[::-1])
  d = jax.device_put(x, NamedSharding(mesh, P("data")))
  e = devices.make_fsarray_from_local_slice(np.zeros((16, 4)), order)
  devices.assert_local_slices_same()
  devices.assert_local_slices_same(a)
  devices.assert_local_slices_same(a, b, a)
  for other in (c, d, e):
    with pytest.raises(AssertionError, match="Local slices differ"):
      devices.assert_local_slices_same(a, other)


def test_sync():
  assert devices.sync() is None
  assert devices.sync_all_hosts is devices.sync


@pytest.mark.parametrize("n, least, size", [(5, None, 1), (16, None, 2),
                                            (17, None, 3), (3, 4, 4)])  # fmt: skip
def test_pad_shard_unpad(n, least, size):
  seen = []

  def fn(static, x, *, y, flag):
    seen.append((static, flag, x.shape, y["k"].shape, x.sum()))
    return {"s": x + 1, "t": y["k"].astype(jnp.bfloat16)}

  x = np.arange(2 * n, dtype=np.int16).reshape(n, 2)
  wrapped = devices.pad_shard_unpad(fn, static_argnames=("flag",))
  out = wrapped("static", x, y={"k": x[:, 0]}, flag=1, min_device_batch=least)
  # What is padded is zero.
  assert seen == [("static", 1, (8, size, 2), (8, size), x.sum())]
  np.testing.assert_array_equal(out["s"], x + 1)
  assert out["s"].dtype == np.int16 and out["t"].dtype == jnp.bfloat16
  assert out["t"].shape == (n,)


def test_pad_shard_unpad_errors():
  wrapped = devices.pad_shard_unpad(lambda p, *x: x)
  with pytest.raises(AssertionError, match="Inconsistent batch-sizes"):
    wrapped(0, np.ones(3), np.ones(4))
  with pytest.raises(AssertionError, match="Inconsistent batch-sizes"):
    wrapped(0)


@pytest.mark.parametrize("nprefetch", [0, 1, 5])
def test_prefetch_scalar(nprefetch):
  out = list(devices.prefetch_scalar(iter([3.0, 4.0]), nprefetch))
  np.testing.assert_array_equal(out, [[3.0] * 8, [4.0] * 8])
  (one,) = devices.prefetch_scalar([1.0], nprefetch, jax.devices()[:2])
  assert one.sharding.device_set == set(jax.devices()[:2])


def test_prefetch_scalar_runs_ahead():
  taken = []
  it = devices.prefetch_scalar((taken.append(i) or i for i in range(9)), 2)
  next(it)
  assert taken == [0, 1, 2]


def test_mesh_of_devices_in_order():
  # One axis keeps the order of `jax.devices`, which batches rely on.
  mesh = devices.create_device_mesh([("data", -1)])
  assert isinstance(mesh, Mesh)
  assert list(mesh.devices.flat) == jax.devices()
