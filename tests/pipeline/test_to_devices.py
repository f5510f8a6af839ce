"""Iterators that work ahead, batches on devices, tensors as NumPy arrays."""

import threading
import time

import jax
import numpy as np
import pytest

from big_vision import input_pipeline as ip
from big_vision.pipeline import prefetch
from big_vision.tf import tf

pytestmark = pytest.mark.tf


@pytest.mark.multidevice
def test_start_global_splits_over_devices():
  devices = np.array(jax.devices()[:8])
  ds = tf.data.Dataset.range(32).batch(16)
  ds = ds.map(lambda x: {"a": {"x": x}, "s": tf.strings.as_string(x)})
  for ahead in (0, None, 2):
    for warmup in (False, True):
      it = ip.start_global(ds, devices, ahead, {"s"}, warmup)
      batches = list(it)
      assert len(batches) == 2
      x = batches[1]["a"]["x"]
      np.testing.assert_array_equal(x, np.arange(16, 32))
      assert x.sharding.num_devices == 8
      assert x.addressable_shards[3].device == devices[3]
      np.testing.assert_array_equal(x.addressable_shards[3].data, [22, 23])
      assert batches[0]["s"].tolist() == [str(i) for i in range(16)]


def test_start_global_rejects_strings():
  ds = tf.data.Dataset.from_tensors({"s": ["a", "b"]})
  it = ip.start_global(ds, np.array(jax.devices()[:1]))
  with pytest.raises(TypeError, match="'s'.*keep_on_cpu"):
    next(it)
  with pytest.raises(StopIteration):
    next(it)


def test_start_global_under_transfer_guard():
  ds = tf.data.Dataset.from_tensors({"x": [1.0, 2.0]})
  with jax.transfer_guard("disallow"):
    (batch,) = ip.start_global(ds, np.array(jax.devices()[:1]), 0)
  np.testing.assert_array_equal(batch["x"], [1, 2])


def wait_until(condition):
  deadline = time.monotonic() + 10
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.01)
  assert condition()


def test_warmup_fetches_before_next():
  for warmup in (False, True):
    seen = []
    it = prefetch.PrefetchIterator(map(seen.append, range(5)), 2, warmup)
    if warmup:
      wait_until(lambda: len(seen) == 2)  # noqa: B023 - called at once
    else:
      assert not seen
    assert len(list(it)) == 5 and len(seen) == 5


def test_nothing_ahead_is_fetched_by_the_thread_when_it_is_wanted():
  for warmup in (False, True):
    seen = []

    def element(i, seen=seen):
      seen.append(threading.current_thread())
      return i

    it = prefetch.PrefetchIterator(map(element, range(4)), 0, warmup)
    for i in range(3):
      assert next(it) == i
      time.sleep(0.05)  # It would take the next one.
      assert len(seen) == i + 1
    assert list(it) == [3]
    assert threading.current_thread() not in seen


def test_prefetch_thread_ends_with_its_iterator():
  def alive():
    return sum(t.name == "prefetch" for t in threading.enumerate())

  wait_until(lambda: alive() == 0)
  it = prefetch.PrefetchIterator(iter(int, 1), 2, start=True)
  assert next(it) == 0 and alive() == 1
  del it
  wait_until(lambda: alive() == 0)
  it = prefetch.PrefetchIterator(iter(int, 1), 2, start=True)
  it.close()
  assert list(it) == []
  wait_until(lambda: alive() == 0)


def test_iterators_keep_order_and_errors():
  def broken():
    yield 1
    raise OSError("gone")

  assert list(ip.prefetch_iterator(range(5), 2)) == list(range(5))
  assert list(ip.prefetch_iterator(range(5), 0)) == list(range(5))
  with pytest.raises(ValueError, match="-1 elements ahead"):
    ip.prefetch_iterator(range(5), -1)  # It would wait for ever.
  assert list(ip.threadstart_iterator(range(5))) == list(range(5))
  assert list(ip.threadstart_iterator([])) == []
  for it in (
    ip.prefetch_iterator(broken(), 3),
    ip.threadstart_iterator(broken()),
  ):
    assert next(it) == 1
    with pytest.raises(OSError, match="gone"):
      next(it)


def test_tf_to_numpy():
  assert ip.tf_to_numpy(tf.constant(["é", ""])).tolist() == ["é", ""]
  with pytest.raises(UnicodeDecodeError):
    ip.tf_to_numpy(tf.constant([b"\xff"]))
  r = ip.tf_to_numpy(tf.ragged.constant([[1, 2], [3]]))
  assert r.dtype == object and r[0].tolist() == [1, 2] and r.shape == (2,)
  nested = tf.ragged.constant([[[1], [2]], [[3], [4]]])
  np.testing.assert_array_equal(
    ip.tf_to_numpy(nested), [[[1], [2]], [[3], [4]]]
  )
  mixed = ip.tf_to_numpy(tf.ragged.constant([[["a"], ["b", "c"]], [["d"]]]))
  assert mixed.dtype == object and mixed[0].dtype == object
  assert mixed[1].tolist() == [["d"]] and mixed[0][1].tolist() == ["b", "c"]
  empty = tf.ragged.constant([], ragged_rank=1, dtype=tf.int32)
  assert ip.tf_to_numpy(empty).shape == (0, 0)


def test_shapes_are_those_that_devices_see():
  spec = {
    "x": tf.TensorSpec([4, 3], tf.int64),
    "n": {"y": tf.TensorSpec([4], tf.bfloat16)},
    "s": tf.TensorSpec([4], tf.string),
    "v": tf.TensorSpec([4, None], tf.int32),
    "r": tf.RaggedTensorSpec([4, None], tf.int32),
    "t": (tf.TensorSpec([4, 2], tf.float32), tf.TensorSpec([4], tf.int64)),
    "part": (tf.TensorSpec([4], tf.int32), tf.TensorSpec([4], tf.string)),
  }
  got = ip.shapes(spec)
  assert got == {
    "x": jax.ShapeDtypeStruct((4, 3), np.int32),
    "n": {"y": jax.ShapeDtypeStruct((4,), jax.numpy.bfloat16)},
    "t": (
      jax.ShapeDtypeStruct((4, 2), np.float32),
      jax.ShapeDtypeStruct((4,), np.int32),
    ),
  }


@pytest.mark.multidevice
def test_pmap_helpers():
  num = jax.local_device_count()
  x = np.arange(2 * num)
  put = ip.shard_and_put(x)
  assert put.shape == (num, 2) and put.sharding.num_devices == num
  np.testing.assert_array_equal(put, x.reshape(num, 2))
  assert isinstance(ip.shard_and_put(x, put=False), np.ndarray)
  assert ip.shard_and_put(x, shard=False).shape == (2 * num,)
  with pytest.raises(ValueError, match="does not divide"):
    ip.shard_and_put(x[1:])
  ds = tf.data.Dataset.from_tensors(
    {"x": x, "r": tf.ragged.constant([[1], []])}
  )
  (b,) = ip.start_ragged_input_pipeline(ds, ragged={"r"})
  assert b["x"].shape == (num, 2) and isinstance(b["r"], tf.RaggedTensor)
  (b,) = ip.start_input_pipeline(ds.map(lambda d: {"x": d["x"]}), 0)
  assert isinstance(b["x"], np.ndarray) and b["x"].shape == (num, 2)
