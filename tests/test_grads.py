"""Accumulated gradients against those of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision import grads


def _problem(n=16, shape=(3, 4, 2)):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((n, *shape)), jnp.float32)
  y = jnp.asarray(rng.standard_normal((n, 5)), jnp.float32)
  d = int(np.prod(shape))
  w = jnp.asarray(rng.standard_normal((d, 5)), jnp.float32)
  return {"w": w, "b": jnp.zeros((1, 5))}, x, y


def _loss(params, x, y):
  z = jnp.tanh(x.reshape(len(x), -1) @ params["w"] + params["b"])
  return jnp.mean(jnp.square(z - y))


def _close(got, want, rtol=1e-5):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6),
    got,
    want,
  )


@pytest.mark.parametrize("steps", [None, 0, 1, 2, 4, 16])
@pytest.mark.parametrize("shape", [(3, 4, 2), (6,), (2, 3, 2, 2)])
def test_same_as_the_whole_batch(steps, shape):
  params, x, y = _problem(shape=shape)
  fn = jax.value_and_grad(_loss)
  _close(grads.accumulate_gradient(fn, params, x, y, steps), fn(params, x, y))


def test_under_jit_with_a_sharded_batch():
  params, x, y = _problem()
  fn = jax.value_and_grad(_loss)
  want = fn(params, x, y)
  mesh = Mesh(np.array(jax.devices()), ("data",))
  split = NamedSharding(mesh, P("data"))
  x, y = jax.device_put((x, y), split)
  params = jax.device_put(params, NamedSharding(mesh, P()))
  run = jax.jit(
    lambda p, x, y: grads.accumulate_gradient(fn, p, x, y, accum_steps=4)
  )
  _close(run(params, x, y), want)
  run = jax.jit(
    lambda p, x, y: grads.accumulate(lambda b, _: fn(p, *b), (x, y), 2)
  )
  _close(run(params, x, y), want)


def test_pytrees_and_missing_labels():
  params, x, y = _problem()
  batch = {"image": x, "nested": [y]}
  fn = jax.value_and_grad(lambda p, b, _: _loss(p, b["image"], b["nested"][0]))
  _close(
    grads.accumulate_gradient(fn, params, batch, None, 4),
    jax.value_and_grad(_loss)(params, x, y),
  )


def test_aux_outputs_are_averaged():
  params, x, y = _problem()
  loss = lambda p, x, y: (_loss(p, x, y), {"mean": jnp.mean(x), "n": len(x)})
  fn = jax.value_and_grad(loss, has_aux=True)
  (_, aux), _ = grads.accumulate_gradient(fn, params, x, y, 4)
  np.testing.assert_allclose(aux["mean"], jnp.mean(x), rtol=1e-5)
  assert aux["n"] == 4


def test_micro_batches_are_consecutive():
  x = jnp.arange(8.0).reshape(8, 1)
  spread = lambda _, x, y: jnp.max(x) - jnp.min(x)
  assert grads.accumulate_gradient(spread, {}, x, x, 4) == 1


def test_dtypes_stay_and_sums_are_precise():
  # 256 + 1 is 256 in bfloat16, so summing there would lose all but the first.
  values = jnp.array([256.0] + [1.0] * 255)
  fn = lambda p, x, y: {"g": jnp.sum(x).astype(jnp.bfloat16)}
  out = grads.accumulate_gradient(fn, {}, values, values, 256)
  assert out["g"].dtype == jnp.bfloat16
  np.testing.assert_allclose(out["g"].astype(np.float32), 511 / 256, rtol=4e-3)


def test_batch_must_be_divisible():
  params, x, y = _problem(12)
  fn = jax.value_and_grad(_loss)
  with pytest.raises(AssertionError, match=r"12.*not divisible.*5"):
    grads.accumulate_gradient(fn, params, x, y, 5)
  with pytest.raises(AssertionError, match="not divisible"):
    grads.accumulate(lambda b, i: b.sum(), x, 5)
  with pytest.raises(AssertionError, match="not divisible"):
    grads.accumulate(lambda b, i: b[0].sum(), (x, jnp.float32(1)), 2)


def test_accumulate():
  x = jnp.arange(6, dtype=jnp.bfloat16)
  out = grads.accumulate(lambda b, i: {"b": b["x"], "i": i}, {"x": x}, 3)
  # Micro-batches [0, 3], [1, 4], [2, 5].
  np.testing.assert_array_equal(out["b"], [1.0, 4.0])
  assert out["i"] == 1  # The mean of 0, 1, 2.
  assert out["b"].dtype == out["i"].dtype == jnp.float32


@pytest.mark.parametrize("steps", [None, 0, 1])
def test_accumulate_in_one_go(steps):
  x = jnp.arange(6, dtype=jnp.bfloat16)
  out = grads.accumulate(lambda b, i: (b, i), x, steps)
  np.testing.assert_array_equal(out[0], np.arange(6.0))
  assert out[1] == 0
  assert out[0].dtype == out[1].dtype == jnp.float32


def test_accumulate_traces_few_times():
  calls = []
  grads.accumulate(lambda b, i: calls.append(0) or b.sum(), jnp.ones(64), 64)
  assert len(calls) <= 2


def test_through_embeddings_is_the_gradient_of_the_whole_batch():
  """A loss of all pairs, whose micro-batches alone would give another."""
  r = np.random.default_rng(0)
  params = {"w": r.normal(size=(5, 3)).astype(np.float32), "t": np.float32(2)}
  x = r.normal(size=(12, 5)).astype(np.float32)

  def embed(params, x, i):
    del i
    return jnp.tanh(x @ params["w"]), params["t"]

  def loss(z, t):
    pairs = jnp.exp(t * jnp.tanh(z @ z.T))
    return pairs.mean(), {"largest": pairs.max()}

  whole = lambda p: loss(*embed(p, x, 0))
  want, want_grads = jax.value_and_grad(whole, has_aux=True)(params)
  for steps in (2, 3, 12):
    got, got_grads = jax.jit(
      lambda p, n=steps: grads.through_embeddings(embed, loss, p, x, n)
    )(params)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      (got, got_grads),
      (want, want_grads),
    )


def test_embedding_loss():
  """In parts it is what it is at once: gradients pass through all pairs."""
  x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
  params = {
    "w": jnp.ones((3, 2)) * jnp.arange(1.0, 3.0)[None],
    "t": jnp.float32(0.3),
  }
  state = {"scale": 2.0}

  def embed(params, batch, rng, state, power):
    z = (batch["x"] @ params["w"]) ** power
    return {"z": z}, {"t": params["t"]}, {"ignored": z}

  def compare(z, shared, state):
    pairs = state["scale"] * shared["t"] * z["z"] @ z["z"].T
    loss = jax.nn.logsumexp(pairs)
    return loss, {"loss": loss}

  loss = grads.EmbeddingLoss(embed, compare)
  args = params, {"x": x}, jax.random.key(0), state, 2
  want = jax.value_and_grad(loss, has_aux=True)(*args)
  got = loss.accumulate(*args, steps=4, constrain=lambda g: g)
  _close(got, want)
