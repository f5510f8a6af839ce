"""One pass over batches: order, padding, sums, what waits for what."""

import types

import jax
import numpy as np
import pytest

from big_vision.evaluators import iteration


def test_host_order():
  """Two hosts, each with a contiguous half of six rows in three batches."""
  devices = [types.SimpleNamespace(process_index=i) for i in (0, 0, 1, 1)]
  host0 = np.array([0, 1, 2, 3, -1, -1]).reshape(3, 2)
  host1 = np.array([4, 5, 6, -1, -1, -1]).reshape(3, 2)
  rows = np.concatenate([host0, host1], axis=1).reshape(-1)
  order = iteration.host_order(devices, 4, 3)
  rows = rows[order]
  np.testing.assert_array_equal(rows[rows >= 0], np.arange(7))
  # Devices in any order; one process leaves everything as it is.
  order = iteration.host_order(devices[::-1], 4, 1)
  np.testing.assert_array_equal(order, [2, 3, 0, 1])
  order = iteration.host_order(devices[:2], 4, 3)
  np.testing.assert_array_equal(order, np.arange(12))


def test_fetch():
  dispatched, fetched = [], []

  def results():
    for i in range(5):
      dispatched.append(i)
      yield {"x": jax.device_put(np.full(2, i))}

  for result in iteration.fetch(results()):
    fetched.append(result["x"][0])
    assert len(dispatched) <= len(fetched) + 2
  assert fetched == [0, 1, 2, 3, 4]


def test_what_follows_starts_after_the_first_batch():
  events = []

  def results():
    source = ({"x": i} for i in range(4))
    for batch in iteration.followed_by(source, lambda: events.append("start")):
      events.append(batch["x"])
      yield jax.device_put(np.float32(batch["x"]))

  assert iteration.totals(results(), lag=1) == 6
  assert events == [0, "start", 1, 2, 3]
  assert [*iteration.followed_by([{"x": 1}], None)] == [{"x": 1}]


def test_a_started_pass_is_the_next_one():
  started = []

  class Reader:
    def __init__(self):
      self._it = iter([{"x": i} for i in range(3)])

    def __next__(self):
      return next(self._it)

    def __iter__(self):
      return self

    def start(self):
      started.append(self)

  batches = iteration.Batches(Reader, 3, 8, jax.devices())
  for _ in range(2):  # It is started once.
    batches.start()
  assert len(started) == 1
  for _ in range(2):  # And read once.
    assert [b["x"] for b in batches] == [0, 1, 2]
  assert next(started[0], None) is None
  # Iterators that cannot be started are read all the same.
  plain = iteration.Batches(lambda: iter([{"x": 5}]), 1, 8, jax.devices())
  plain.start()
  assert [b["x"] for b in plain] == [5]


def test_process_sum():
  tree = {"a": 1, "b": np.arange(3)}
  assert iteration.process_sum(tree) is tree


def test_every_pass_has_the_same_batches_to_take_apart():
  source = [{"x": i, "_mask": i} for i in range(3)] * 2
  endless = iter(source)
  batches = iteration.Batches(lambda: endless, 3, 8, jax.devices())
  for _ in range(2):
    taken = []
    for batch in batches:
      taken.append(iteration.take(batch, "x"))
      assert list(batch) == ["_mask"]
    assert taken == [0, 1, 2]
  assert all(set(batch) == {"x", "_mask"} for batch in source)


def test_take_names_the_argument():
  with pytest.raises(ValueError, match="mask_key='a' .* has b: does pp_fn"):
    iteration.take({"b": 1}, "a", "mask_key")


def test_totals():
  """In float64, where float32 would lose the small numbers."""
  results = [{"a": np.float32(x), "b": np.full(2, x)} for x in (2**24, 1, 1)]
  got = iteration.totals(iter(results))
  assert got["a"] == 2**24 + 2 and got["a"].dtype == np.float64
  np.testing.assert_array_equal(got["b"], [2**24 + 2] * 2)
  with pytest.raises(ValueError, match="no examples"):
    iteration.totals([])


def test_rows():
  """Seven rows of two processes come back in order, without padding."""
  devices = [types.SimpleNamespace(process_index=i) for i in (0, 1)]
  batches = iteration.Batches(None, 2, 4, devices)
  x = np.array([[0, 1, 4, 5], [2, 3, 6, -1]])
  results = [({"x": r, "y": [r[:, None] * 2.0]}, r >= 0) for r in x]
  got = iteration.rows(iter(results), batches)
  np.testing.assert_array_equal(got["x"], np.arange(7))
  np.testing.assert_array_equal(got["y"][0], 2.0 * np.arange(7)[:, None])
  with pytest.raises(ValueError, match=r"'z' has shape \(3,\) .* batch of 4"):
    iteration.rows([({"z": np.zeros(3)}, x[0] >= 0)], batches)
  with pytest.raises(ValueError, match="no examples"):
    iteration.rows([], batches)
