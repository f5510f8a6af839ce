"""Caches: several samples per example, counters, what is left alone."""

import flax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.decoding import caches


@pytest.mark.parametrize("wrap", [dict, flax.core.freeze])
def test_cache_map(wrap):
  cache = wrap({"a": {"cached_key": np.ones(2), "cached_bias": np.ones(3)}})
  got = caches.cache_map(lambda x: x * 2, cache)
  assert type(got) is type(cache) and type(got["a"]) is type(cache["a"])
  np.testing.assert_array_equal(got["a"]["cached_key"], [2, 2])
  np.testing.assert_array_equal(got["a"]["cached_bias"], [1, 1, 1])


def test_samples_dim():
  x = jnp.asarray(np.arange(6).reshape(2, 3))
  expanded = caches.expand_samples_dim(x, 4)
  assert expanded.shape == (2, 4, 3)
  flat = caches.flatten_samples_dim(expanded)
  np.testing.assert_array_equal(flat, np.repeat(x, 4, axis=0))
  np.testing.assert_array_equal(
    flat, caches.expand_samples_dim_and_flatten(x, 4)
  )
  np.testing.assert_array_equal(
    caches.unflatten_samples_dim(flat, 2, 4), expanded
  )
  with pytest.raises(AssertionError, match="3 examples with 4 samples"):
    caches.unflatten_samples_dim(flat, 3, 4)


def test_scalars_stay():
  for fn in (
    lambda x: caches.expand_samples_dim(x, 3),
    caches.flatten_samples_dim,
    lambda x: caches.unflatten_samples_dim(x, 2, 3),
    lambda x: caches.expand_samples_dim_and_flatten(x, 3),
  ):
    assert fn(jnp.int32(7)) == 7


def test_repeat_cache_of_stacked_layers():
  """As many layers as examples: shapes alone do not tell which is which."""
  make = lambda b: {
    "keys": jnp.zeros([2, b, 3]),
    "one_layer": jnp.zeros([b, 3]),
    "cache_index": jnp.zeros([2], jnp.int32),
    "total": jnp.zeros([]),
  }
  cache = make(2)
  cache["keys"] += jnp.arange(12.0).reshape(2, 2, 3)
  got = caches.repeat_cache(make, cache, 5)
  np.testing.assert_array_equal(
    got["keys"], np.repeat(cache["keys"], 5, axis=1)
  )
  assert got["one_layer"].shape == (10, 3)
  assert got["cache_index"].shape == (2,) and got["total"].shape == ()
  assert caches.repeat_cache(make, cache, 1) is cache


def test_set_cache_index():
  cache = {
    "layer": {"cache_index": jnp.zeros([2], jnp.int32), "x": jnp.ones(2)},
    "cache_index": jnp.uint32(4),
  }
  got = caches.set_cache_index(cache, jnp.int32(3))
  np.testing.assert_array_equal(got["layer"]["cache_index"], [3, 3])
  assert got["cache_index"] == 3 and got["cache_index"].dtype == jnp.uint32
  assert got["layer"]["x"] is cache["layer"]["x"]
