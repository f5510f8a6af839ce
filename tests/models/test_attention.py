"""Attention against flax's own, in values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision.models import attention, vit

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


@pytest.fixture
def fused(monkeypatch):
  """XLA in place of cuDNN, as on a GPU; the calls are collected."""
  calls, real = [], jax.nn.dot_product_attention

  def kernel(q, k, v, mask=None, scale=None, implementation=None):
    assert implementation == "cudnn" and q.ndim == k.ndim == v.ndim == 4
    calls.append((q.shape, k.shape, None if mask is None else mask.shape))
    return real(q, k, v, mask=mask, scale=scale, implementation="xla")

  monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  return calls


def half(*lead, t=70, s=70, k=16):
  rng = np.random.default_rng(0)
  make = lambda n: jnp.asarray(rng.normal(size=(*lead, n, H, k)), "bfloat16")
  return make(t), make(s), make(s)


CUDNN = {"attention": "cudnn"}


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_cudnn_gets_one_batch_axis(fused, lead, masked):
  q, k, v = half(*lead)
  keys = np.random.default_rng(1).random((*lead, 1, 1, 70)) < 0.5
  mask = jnp.asarray(keys) if masked else None
  expected = attention.dot_product_attention(q, k, v, mask)
  assert not fused
  with attention.context(CUDNN):
    got = attention.dot_product_attention(q, k, v, mask)
  num = int(np.prod(lead))
  shape = (num, H, 70, 70) if masked else None
  assert fused == [((num, 70, H, 16), (num, 70, H, 16), shape)]
  assert got.shape == expected.shape and got.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    got.astype("float32"), expected.astype("float32"), atol=0.03
  )


def test_cudnn_takes_part_in_gradients_of_a_model(fused):
  model = vit.Model(
    num_classes=3, width=16, depth=2, mlp_dim=16, num_heads=2, patch_size=(2, 2),
    dtype_mm="bfloat16",
  )  # fmt: skip
  image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)))
  params = model.init(jax.random.key(0), image)["params"]

  def grads(config):
    with attention.context(config):
      loss = lambda p: model.apply({"params": p}, image)[0].sum()
      return jax.grad(loss)(params)

  expected = grads({})
  assert not fused
  got = grads(CUDNN)
  assert fused == 2 * [((2, 64, 2, 8), (2, 64, 2, 8), None)]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, atol=0.02 * float(jnp.abs(b).max()) + 1e-6
    ),
    got,
    expected,
  )


@pytest.mark.parametrize(
  "change, reason",
  [
    (dict(dtype="float32"), "float32"),
    (dict(k=12), "heads of 12"),
    (dict(k=136), "heads of 136"),
    (dict(mask=True, s=71), "70 queries and 71 keys"),
    (dict(dropout=True), "dropout"),
    (dict(backend="cpu"), "cpu"),
  ],
)
def test_xla_computes_what_cudnn_cannot(fused, monkeypatch, change, reason):
  change = dict(change)
  dtype, masked = change.pop("dtype", None), change.pop("mask", False)
  rng = jax.random.key(0) if change.pop("dropout", False) else None
  if backend := change.pop("backend", None):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
  q, k, v = half(2, **change)
  mask = jnp.ones((1, 1, 1, k.shape[1]), bool) if masked else None
  run = lambda: attention.dot_product_attention(
    q, k, v, mask, dtype=dtype, dropout_rng=rng, dropout_rate=0.5
  )
  expected = run()
  with attention.context(CUDNN):
    got = run()
  assert not fused
  np.testing.assert_array_equal(got, expected)
  why = attention.why_not_cudnn(
    q, k, mask, jnp.dtype(dtype or q.dtype), rng is not None
  )
  assert why is not None and reason in why


def test_unknown_kernel():
  with pytest.raises(ValueError, match=r"config\.attention.*'cudn'.*'cudnn'"):
    attention.of({"attention": "cudn"})


def grouped(heads=2, dtype="float32", t=T, s=S, k=K):
  """Four heads of queries, fewer keys and values, and a mask."""
  rng = np.random.default_rng(0)
  make = lambda *shape: jnp.asarray(rng.normal(size=(2, *shape, k)), dtype)
  mask = jnp.asarray(rng.random((2, 1, t, s)) < 0.5).at[..., 3].set(True)
  return make(t, 4), make(s, heads), make(s, heads), mask


def plain_grouped(q, k, v, mask, cap=None):
  """One head and one query after the other, in float64."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  out = np.zeros(q.shape)
  for b, t, n in np.ndindex(q.shape[:3]):
    shared = n // (q.shape[2] // k.shape[2])
    seen = np.asarray(mask[b, 0, t])
    logits = k[b, seen, shared] @ q[b, t, n]
    if cap:
      logits = cap * np.tanh(logits / cap)
    weights = np.exp(logits - logits.max())
    out[b, t, n] = weights @ v[b, seen, shared] / weights.sum()
  return out


def run_grouped(*args, cap=None):
  # Traced each time: the kernel is chosen there.
  return jax.jit(lambda *x: attention.grouped_attention(*x, cap))(*args)


@pytest.mark.parametrize(
  "heads, cap, t",
  [(1, None, T), (2, 0.0, T), (2, 0.7, T), (4, 0.7, T), (2, None, 1)],
)
def test_grouped_attention(heads, cap, t):
  args = grouped(heads, t=t)
  got = run_grouped(*args, cap=cap)
  want = plain_grouped(*args, cap)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_grouped_attention_in_bfloat16():
  args = grouped(dtype="bfloat16")
  got = run_grouped(*args)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    got.astype("float32"), plain_grouped(*args), atol=0.03
  )


def test_grouped_attention_to_nothing_is_finite():
  q, k, v, mask = grouped()
  loss = lambda q: attention.grouped_attention(
    q, k, v, jnp.zeros_like(mask), 5.0
  ).sum()
  value, gradient = jax.jit(jax.value_and_grad(loss))(q)
  np.testing.assert_allclose(value, 4 / 2 * T * v.mean(1).sum(), rtol=1e-5)
  np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_grouped_attention_by_cudnn(fused):
  args = grouped(dtype="bfloat16", t=6, k=16)
  expected = run_grouped(*args)
  with attention.context(CUDNN):
    got = run_grouped(*args)
    assert fused == [((2, 6, 4, 16), (2, S, 2, 16), (2, 1, 6, S))]
    run_grouped(*args, cap=50.0)
    run_grouped(*(x.astype("float32") for x in args[:3]), args[3])
  assert len(fused) == 1  # Neither capped logits nor 32 bits.
  np.testing.assert_allclose(
    got.astype("float32"), expected.astype("float32"), atol=0.06
  )
