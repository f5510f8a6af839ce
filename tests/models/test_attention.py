"""Attention against flax's own, in values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.models import attention

T, S, H, K = 5, 70, 3, 4


def arrays(dtype="float32"):
  """Queries, keys and values, some of large logits."""
  rng = np.random.default_rng(0)
  make = lambda n: jnp.asarray(3 * rng.normal(size=(2, n, H, K)), dtype)
  return make(T), make(S), make(S)


def mask_of(kind):
  rng = np.random.default_rng(1)
  if kind == "keys":
    return jnp.asarray(rng.random((2, 1, 1, S)) < 0.5)
  if kind == "empty":  # The first query attends to nothing.
    return jnp.asarray(rng.random((1, 1, T, S)) < 0.5).at[:, :, 0].set(False)
  return None


@pytest.mark.parametrize("kind", [None, "keys", "empty"])
def test_values_and_gradients_are_those_of_flax(kind):
  q, k, v = arrays()
  mask, weights = mask_of(kind), jnp.cos(jnp.arange(2 * T * H * K))

  def both(fn):
    def total(q, k, v):
      out = fn(q, k, v, mask=mask)
      return jnp.sum(out.reshape(-1) * weights), out

    return jax.value_and_grad(total, (0, 1, 2), has_aux=True)(q, k, v)

  got = both(attention.dot_product_attention)
  expected = both(nn.dot_product_attention)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
    got,
    expected,
  )


def test_a_query_without_keys_gets_the_mean_of_values():
  q, k, v = arrays()
  mask = mask_of("empty")
  out = attention.dot_product_attention(q, k, v, mask)
  np.testing.assert_allclose(out[:, 0], v.mean(axis=1), rtol=1e-5, atol=1e-5)


def test_large_logits_do_not_overflow():
  q, k, v = arrays()
  out = attention.dot_product_attention(1e4 * q, k, v)
  best = jnp.einsum("bthk,bshk->bths", q, k).argmax(-1)
  np.testing.assert_allclose(
    out,
    jnp.take_along_axis(v, best.reshape(2, -1, H, 1)[:, :T], axis=1),
    rtol=1e-5,
  )


def test_dropout_leaves_out_the_same_weights_as_flax():
  q, k, v = arrays()
  key = jax.random.key(7)
  got = attention.dot_product_attention(
    q, k, v, dropout_rng=key, dropout_rate=0.4
  )
  expected = nn.dot_product_attention(
    q, k, v, dropout_rng=key, dropout_rate=0.4, broadcast_dropout=False
  )
  np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
  assert np.abs(got - attention.dot_product_attention(q, k, v)).max() > 0.1


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_bfloat16_is_that_of_flax(rate):
  kw = dict(dropout_rng=jax.random.key(7), dropout_rate=rate, dtype="bfloat16")
  got = attention.dot_product_attention(*arrays(), **kw)
  assert got.dtype == jnp.bfloat16
  expected = nn.dot_product_attention(*arrays(), **kw, broadcast_dropout=False)
  np.testing.assert_allclose(
    got.astype("float32"), expected.astype("float32"), rtol=2**-7, atol=2**-7
  )


def test_short_sequences_are_those_of_flax():
  q, k, v = arrays()
  args = q, k[:, :63], v[:, :63]
  np.testing.assert_array_equal(
    attention.dot_product_attention(*args), nn.dot_product_attention(*args)
  )


def test_products_come_with_heads_before_tokens():
  jaxpr = jax.make_jaxpr(attention.dot_product_attention)(*arrays()).jaxpr
  products = [
    e.params["dimension_numbers"][1]
    for e in jaxpr.eqns
    if e.primitive.name == "dot_general"
  ]
  assert products == [((0, 1), (0, 1))] * 2  # Batch and heads come first.
