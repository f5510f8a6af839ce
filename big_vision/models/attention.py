"""Attention of heads: the numbers of `nn.dot_product_attention`, in less time.

XLA multiplies batches of matrices faster, on CPUs two to three times, if they
come one after the other: heads before tokens. See docs/benchmarks.md. It does not
pay for short sequences, which get exactly the numbers of flax.

Shapes: `T` queries, `S` keys and values, `H` heads, `K` size of a head.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes

from big_vision.types import Array

_SHORT = 64  # Keys.


def dot_product_attention(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None = None,
  *,
  dtype: str | None = None,
  dropout_rng: Array | None = None,
  dropout_rate: float = 0.0,
) -> Array:
  """Computes softmax(q k^T / sqrt(K)) v for each head.

  Args:
    query: [..., T, H, K].
    key: [..., S, H, K].
    value: [..., S, H, K].
    mask: bool, broadcast to [..., H, T, S]: which keys a query attends to; None
      means all. A query that attends to none gets the mean of all values.
    dtype: of the computation; None is that of the arguments together.
    dropout_rng: key for dropout of the weights, independent for all of them; None
      leaves dropout out.
    dropout_rate: probability to leave a weight out.

  Returns:
    [..., T, H, K].
  """
  if key.shape[-3] < _SHORT:
    return nn.dot_product_attention(
      query,
      key,
      value,
      mask=mask,
      dtype=dtype,
      dropout_rng=dropout_rng,
      dropout_rate=dropout_rate,
      broadcast_dropout=False,
      deterministic=dropout_rng is None,
    )
  query, key, value = dtypes.promote_dtype(query, key, value, dtype=dtype)
  q, k, v = (jnp.swapaxes(x, -3, -2) for x in (query, key, value))
  q = q / jnp.sqrt(q.shape[-1]).astype(q.dtype)
  logits = jnp.einsum("...tk,...sk->...ts", q, k)
  if mask is not None:
    logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
  weights = jax.nn.softmax(logits)
  if dropout_rng is not None:
    keep = 1 - dropout_rate
    kept = jax.random.bernoulli(dropout_rng, keep, weights.shape)
    weights *= kept / jnp.asarray(keep, weights.dtype)
  x = jnp.einsum("...ts,...sk->...tk", weights, v)
  return jnp.swapaxes(x, -3, -2)
