"""Attention of heads: the numbers of `nn.dot_product_attention`, in less time.

XLA multiplies batches of matrices faster, on CPUs two to three times, if they
come one after the other: heads before tokens. And the weights are divided by
their sum after they have been multiplied with the values, which are fewer
numbers. See docs/benchmarks.md.

Shapes: `T` queries, `S` keys and values, `H` heads, `K` size of a head.
"""

import jax
import jax.numpy as jnp
from flax.linen import dtypes

from big_vision.types import Array


def dot_product_attention(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None = None,
  *,
  dtype: str | None = None,
) -> Array:
  """Computes softmax(q k^T / sqrt(K)) v for each head.

  Args:
    query: [..., T, H, K].
    key: [..., S, H, K].
    value: [..., S, H, K].
    mask: bool, broadcast to [..., H, T, S]: which keys a query attends to; None
      means all. A query that attends to none gets the mean of all values.
    dtype: of the computation; None is that of the arguments together.

  Returns:
    [..., T, H, K].
  """
  query, key, value = dtypes.promote_dtype(query, key, value, dtype=dtype)
  q, k, v = (jnp.swapaxes(x, -3, -2) for x in (query, key, value))
  q = q / jnp.sqrt(q.shape[-1]).astype(q.dtype)
  logits = jnp.einsum("...tk,...sk->...ts", q, k)
  if mask is not None:
    logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
  # It cancels out, also in the gradient.
  largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  weights = jnp.exp(logits - largest)
  x = jnp.einsum("...ts,...sk->...tk", weights, v)
  x = x / jnp.sum(weights, axis=-1, keepdims=True)
  return jnp.swapaxes(x, -3, -2)
