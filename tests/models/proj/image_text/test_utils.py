"""Tests for functions of the examples that each device has."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.models.proj.image_text import utils


@contextlib.contextmanager
def legacy(mesh):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    mesh.__enter__()
  try:
    yield
  finally:
    mesh.__exit__(None, None, None)


CONTEXTS = pytest.mark.parametrize("context", [jax.set_mesh, legacy])


def make_mesh(**axes):
  num = int(np.prod(list(axes.values())))
  devices = np.array(jax.devices()[:num]).reshape(list(axes.values()))
  return jax.sharding.Mesh(devices, tuple(axes))


@CONTEXTS
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("axes", [dict(data=4), dict(x=2, y=2)])
def test_examples_of_each_device(context, jit, axes):
  """`fn` sees a quarter of the batch."""

  def fn(x, tree, *, scale):
    assert x.shape == (2, 3) and tree["a"].shape == (2,)
    return scale * x - x.mean(0, keepdims=True), {"b": tree["a"][:1]}

  x = np.arange(24, dtype=np.float32).reshape(8, 3) ** 2
  a = np.arange(8, dtype=np.int32)
  run = lambda x, a: utils.batch_shmap(fn, x, {"a": a}, scale=2.0)
  with context(make_mesh(**axes)):
    y, tree = (jax.jit(run) if jit else run)(x, a)
  parts = x.reshape(4, 2, 3)
  expected = 2 * parts - parts.mean(1, keepdims=True)
  np.testing.assert_allclose(y, expected.reshape(8, 3), rtol=1e-6)
  np.testing.assert_array_equal(tree["b"], [0, 2, 4, 6])


def test_no_mesh():
  seen = []
  fn = lambda *args, **kw: seen.append((args, kw)) or 5
  assert utils.batch_shmap(fn, 1, 2, a=3) == 5
  assert seen == [((1, 2), {"a": 3})]


def test_no_communication():
  mesh = make_mesh(data=8)
  x = jax.device_put(
    np.ones((16, 4), np.float32),
    jax.sharding.NamedSharding(mesh, utils.P("data")),
  )

  def communicates(fn):
    text = jax.jit(fn).lower(x).compile().as_text()
    ops = ("all-gather", "all-to-all", "collective-permute", "all-reduce")
    return any(op in text for op in ops)

  flip = lambda x: x[::-1] + 1
  with jax.set_mesh(mesh):
    assert communicates(flip)
    assert not communicates(lambda x: utils.batch_shmap(flip, x))


def test_within_shard_map():
  """There, arrays are those of one device already."""
  mesh = make_mesh(data=4)
  with jax.set_mesh(mesh):
    run = jax.shard_map(
      lambda x: utils.subsample_batch(x, 2),
      in_specs=utils.P("data"),
      out_specs=utils.P("data"),
    )
    y = jax.jit(run)(jnp.arange(16))
  np.testing.assert_array_equal(y, np.arange(16)[::2])


@CONTEXTS
def test_subsample_batch(context):
  x = {"a": np.arange(12), "b": np.arange(24).reshape(12, 2)}
  run = lambda x: utils.subsample_batch(x, 3)
  y = run(x)
  np.testing.assert_array_equal(y["a"], [0, 3, 6, 9])
  with context(make_mesh(data=2)):
    y = jax.jit(run)(x)
  np.testing.assert_array_equal(y["a"], [0, 3, 6, 9])
  np.testing.assert_array_equal(y["b"], x["b"][::3])
  # Four examples per device: each keeps its first and last.
  with context(make_mesh(data=3)):
    y = jax.jit(run)(x)
  np.testing.assert_array_equal(y["a"], [0, 3, 4, 7, 8, 11])
  assert utils.subsample_batch(x, 1) is x
  assert utils.subsample_batch(x, 0) is x
