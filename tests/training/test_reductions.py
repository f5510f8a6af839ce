"""`config.deterministic_reductions`: values, order of sums, what is refused."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import toy
from big_vision import lookup
from big_vision.training import loop, reductions
from big_vision.training import state as state_lib
from big_vision.training import step as step_lib

pytestmark = [
  pytest.mark.multidevice,
  pytest.mark.usefixtures("quick_compilation"),
]
KEY = reductions.KEY


def mesh(num):
  return Mesh(np.asarray(jax.devices()[:num]), ("data",))


def train(num=4, recipe=None, **kw):
  setup = toy.setup(toy.config(**kw), devices=jax.devices()[:num])
  state = loop.run(setup, recipe or toy.make())
  setup.writer.close()
  return jax.tree.map(np.asarray, state)


def bits(tree):
  return [x.tobytes() for x in jax.tree.leaves(tree)]


def close(a, b, tolerance=2e-4):
  check = functools.partial(
    np.testing.assert_allclose, rtol=tolerance, atol=tolerance
  )
  jax.tree.map(check, a, b)


@pytest.fixture(scope="module")
def plain():
  return train(1)


@pytest.fixture(scope="module")
def eight_groups():
  return train(4, **{KEY: 8})


def test_the_same_training(plain, eight_groups):
  """Of one device without groups, up to rounding."""
  close(eight_groups, plain)
  assert bits(eight_groups) != bits(plain)


def test_the_number_of_devices_does_not_matter(eight_groups):
  for num in (1, 8):
    assert bits(train(num, **{KEY: 8})) == bits(eight_groups)


def test_with_accumulation(plain):
  close(train(2, grad_accum_steps=2, **{KEY: 4}), plain)


def compiled(num, **kw):
  """The program of a step on several devices."""
  config = toy.config(**kw)
  setup = toy.setup(config, devices=jax.devices()[:num])
  recipe = reductions.adapt(toy.make(), config, setup.mesh)
  with setup.context():
    plan = state_lib.plan(recipe, setup)
    update = step_lib.make_update(
      recipe, plan.tx, config, plan.shardings, plan.replicated
    )
    state = state_lib.initialize(recipe, setup, plan)
    batch = next(setup.batches(0))
    rng = jax.device_put(jax.random.PRNGKey(0), plan.replicated)
    return update.lower(state, batch, {}, rng, ()).compile().as_text()


def test_no_library_adds():
  """Its collectives move numbers, which are added in the order of groups."""
  sums = re.compile(r" (all-reduce|reduce-scatter)(-start)?\(")
  assert sums.search(compiled(4))
  text = compiled(4, **{KEY: True})
  assert not sums.search(text)
  # Parts of large arrays, all of small ones.
  assert " all-to-all(" in text and " all-gather(" in text


@pytest.mark.parametrize("shape", [(), (3,), (4, 6)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sums_have_the_order_of_groups(shape, dtype):
  groups = reductions.Groups(8, mesh(4))
  x = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
  x *= 10.0 ** np.arange(8).reshape(-1, *[1] * len(shape))
  x = np.asarray(jnp.asarray(x, dtype))
  at = NamedSharding(groups.mesh, PartitionSpec("data"))
  got = jax.jit(groups.sum)(jax.device_put(x, at))
  want = np.zeros(shape, np.float32)
  for row in x:
    want = want + np.float32(row)
  np.testing.assert_array_equal(got, want)
  assert got.dtype == np.float32 and got.sharding.is_fully_replicated


def test_each_group_has_its_examples_and_key():
  groups = reductions.Groups(4, mesh(2))
  batch = {"x": jnp.arange(8.0), "y": jnp.arange(16).reshape(8, 2)}
  draw = lambda p, b, key: (
    p * b["x"],
    b["y"].sum(),
    jax.random.bits(key),
  )
  key = jax.random.PRNGKey(3)
  fn = jax.jit(lambda: groups.map(draw, jnp.float32(2), batch, key))
  x, y, drawn = fn()
  np.testing.assert_array_equal(x, 2.0 * np.arange(8).reshape(4, 2))
  np.testing.assert_array_equal(y, [6, 22, 38, 54])
  for i in range(4):
    assert drawn[i] == jax.random.bits(jax.random.fold_in(key, i))


def test_without_the_key_nothing_changes():
  recipe = toy.make()
  assert reductions.adapt(recipe, toy.config(), mesh(2)) is recipe
  assert reductions.num_groups(toy.config(), mesh(2)) == 1
  assert reductions.num_groups(toy.config(**{KEY: True}), mesh(2)) == 2


@pytest.mark.parametrize(
  ("kw", "message"),
  [
    ({KEY: 3}, "=3 should be True, or a number of groups that the 2 devices"),
    ({KEY: "yes"}, "'yes' should be True"),
    ({KEY: 32}, "batch of 16 examples cannot be cut into 1 micro-batches"),
    ({KEY: 8, "grad_accum_steps": 4}, "into 4 micro-batches .* of 8 groups"),
    (
      {KEY: True, "sharding_strategy": [(".*", 'fsdp(axis="data")')]},
      "config.sharding_strategy has 'fsdp",
    ),
  ],
  ids=["not_divisible", "text", "batch", "accumulation", "fsdp"],
)
def test_what_does_not_fit(kw, message):
  with pytest.raises(lookup.ConfigError, match=message):
    reductions.adapt(toy.make(), toy.config(**kw), mesh(2))


def test_other_axes_of_the_mesh():
  devices = np.asarray(jax.devices()[:4]).reshape(2, 2)
  config = toy.config(**{KEY: True})
  with pytest.raises(lookup.ConfigError, match="axis 'model' of config.mesh"):
    reductions.adapt(toy.make(), config, Mesh(devices, ("data", "model")))


def test_a_loss_with_an_accumulation_of_its_own():
  recipe = toy.make(accumulate=lambda *a, **kw: None)
  with pytest.raises(lookup.ConfigError, match=KEY):
    reductions.adapt(recipe, toy.config(**{KEY: True}), mesh(2))
