"""Attention of heads: the numbers of `nn.dot_product_attention`, in less time.

XLA multiplies batches of matrices faster, on CPUs two to three times, if they
come one after the other: heads before tokens. And in float32 the weights are
divided by their sum after they have been multiplied with the values, which are
fewer numbers. With fewer bits they are divided before, and so rounded as by flax.
See docs/benchmarks.md.

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
  query, key, value = dtypes.promote_dtype(query, key, value, dtype=dtype)
  q, k, v = (jnp.swapaxes(x, -3, -2) for x in (query, key, value))
  q = q / jnp.sqrt(q.shape[-1]).astype(q.dtype)
  logits = jnp.einsum("...tk,...sk->...ts", q, k)
  if mask is not None:
    logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
  # It cancels out, also in the gradient.
  largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  weights = jnp.exp(logits - largest)
  sums = jnp.sum(weights, axis=-1, keepdims=True)
  divides_first = weights.dtype.itemsize < 4
  if divides_first:
    weights = weights / sums
  if dropout_rng is not None:
    keep = 1 - dropout_rate
    kept = jax.random.bernoulli(dropout_rng, keep, weights.shape)
    weights = jnp.where(kept, weights / jnp.asarray(keep, weights.dtype), 0)
  x = jnp.einsum("...ts,...sk->...tk", weights, v)
  x = x if divides_first else x / sums
  return jnp.swapaxes(x, -3, -2)
