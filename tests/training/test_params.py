"""Parameters at the start of a run come from a checkpoint or from the seed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from big_vision.training import params as params_lib

SHAPES = {
  "a": jax.ShapeDtypeStruct((8,), jnp.float32),
  "b": {"c": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)},
}


def complete(loaded):
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("data",))
  where = {
    "a": NamedSharding(mesh, PartitionSpec("data")),
    "b": {"c": NamedSharding(mesh, PartitionSpec())},
  }
  init = lambda rng: {
    "a": jnp.full(8, 7.0),
    "b": {"c": jax.random.normal(rng, (2, 3), jnp.bfloat16)},
  }
  rng = jax.device_put(jax.random.key(3), where["b"]["c"])
  return params_lib.complete(loaded, init, rng, SHAPES, where), where


@pytest.mark.multidevice
@pytest.mark.parametrize("missing", [{}, {"a": SHAPES["a"]}])
def test_loads_what_there_is_and_initializes_the_rest(missing, caplog):
  ones = np.ones([2, 3], np.float64)
  with caplog.at_level("INFO", logger="absl"):
    got, where = complete({"b": {"c": ones}, **missing})
  assert "Loaded 1 of 2 parameter arrays; initializing: a" in caplog.text
  np.testing.assert_array_equal(got["a"], np.full(8, 7.0))
  np.testing.assert_array_equal(np.float32(got["b"]["c"]), ones)
  assert got["b"]["c"].dtype == jnp.bfloat16  # Of the model.
  assert jax.tree.map(lambda x: x.sharding, got) == where
  assert got["a"].addressable_shards[0].data.shape == (1,)


@pytest.mark.multidevice
def test_everything_is_initialized_without_a_checkpoint():
  got, _ = complete({})
  want = jax.random.normal(jax.random.key(3), (2, 3), jnp.bfloat16)
  np.testing.assert_array_equal(got["b"]["c"], want)


@pytest.mark.multidevice
def test_misfit_names_parameter_and_remedy():
  with pytest.raises(ValueError) as e:
    complete({"a": np.zeros(9), "b": {"c": np.zeros([2, 3])}})
  text = str(e.value)
  assert "a: (9,) in the checkpoint, (8,) in the model" in text
  assert "b/c" not in text and "config.model_load.dont_load" in text


def test_count():
  assert params_lib.count(SHAPES) == 8 + 6
