"""Passes over all pairs, in blocks, against the whole matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from big_vision import ring as ring_lib

B = 24

pytestmark = pytest.mark.multidevice


@pytest.mark.parametrize("num, chunk", [(1, 5), (1, 100), (4, 4), (8, 2)])
def test_blocks_cover_each_pair_once(num, chunk):
  mesh = Mesh(np.asarray(jax.devices()[:num]), ("data",))
  ring = ring_lib.Ring(mesh, ("data",), chunk)
  assert ring.size == num
  x, y = np.random.default_rng(0).normal(size=(2, B, 3)).astype(np.float32)

  def block(here, columns, x, is_pair, exists, is_own):
    values = jnp.where(exists[None], jnp.exp(x @ columns["y"].T), 0)
    here = {
      "rows": here["rows"] + values.sum(axis=1),
      "own": here["own"] + jnp.sum(values, axis=1, where=is_pair),
      "local": here["local"] + jnp.sum(exists) * is_own,
    }
    columns["columns"] += values.sum(axis=0)
    return here, columns

  def local(x, y):
    zeros = jnp.zeros(len(x))
    here = {"rows": zeros, "own": zeros, "local": jnp.int32(0)}
    here, moving = ring.blocks(block, here, {"y": y, "columns": zeros}, x)
    mean = ring.mean(jnp.mean(here["rows"]))
    return here | {"local": ring.sum(here["local"])}, moving, mean

  outputs = (
    {"rows": True, "own": True, "local": False},
    {"y": True, "columns": True},
    False,
  )
  run = jax.jit(lambda x, y: ring.run(local, (x, y), (), outputs))
  here, moving, mean = run(x, y)
  every = np.exp(x.astype(np.float64) @ y.T)
  np.testing.assert_allclose(here["rows"], every.sum(axis=1), rtol=1e-5)
  np.testing.assert_allclose(here["own"], np.diag(every), rtol=1e-5)
  np.testing.assert_allclose(moving["columns"], every.sum(axis=0), rtol=1e-5)
  np.testing.assert_array_equal(moving["y"], y)  # Back where it was.
  assert here["local"] == B  # Each device's own texts.
  np.testing.assert_allclose(mean, every.sum() / B, rtol=1e-5)
