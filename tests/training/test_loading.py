"""Checkpoints of recipes that hold more than one model."""

import types

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pytest

from big_vision.training import loading


def test_without():
  load = lambda params: {k: v + 1 for k, v in params.items()}
  params = {"model": 1, "own": 5}
  assert loading.without(load, ["own"])(params) == {"model": 2, "own": 5}
  assert loading.without(None, ["own"]) is None
  assert loading.without(load, []) is load


def frozen(load, **kw):
  setup = types.SimpleNamespace(config=mlc.ConfigDict(kw))
  return loading.frozen(setup, "t", load, lambda: {"w": jnp.ones(2)})


def test_frozen():
  load = lambda params: jax.tree.map(lambda x: np.full(x.shape, 3.0), params)
  np.testing.assert_array_equal(frozen(load, t_init="x")["w"], [3, 3])
  got = frozen(None, t_init="", t_dtype="bfloat16")["w"]
  assert got.dtype == jnp.bfloat16 and (got == 1).all()
  with pytest.raises(ValueError, match="config.t_init is required"):
    frozen(None)
  with pytest.raises(ValueError, match="config.t_load.*as a whole"):
    frozen(lambda params: params, t_init="x")
