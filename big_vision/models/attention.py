"""Attention of heads: the numbers of `nn.dot_product_attention`, in less time.

XLA multiplies batches of matrices faster, on CPUs two to three times, if they
come one after the other: heads before tokens. See docs/benchmarks.md. It does not
pay for short sequences, which get exactly the numbers of flax.

`config.attention = "cudnn"` makes runs use NVIDIA's fused kernel, which never writes the
weights to memory, wherever it can: in 16 bits, without dropout, heads of up to 128.

Shapes: `T` queries, `S` keys and values, `H` heads, `K` size of a head.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from flax.linen import dtypes

from big_vision import lookup
from big_vision.types import Array, ConfigLike, DType

KEY = "attention"
NAMES = ("xla", "cudnn")
_CUDNN = "cudnn"  # As `jax.nn.dot_product_attention` calls it.
_LARGEST_HEAD = 128  # Of cuDNN on GPUs before Hopper.
_SHORT = 64  # Keys.
_kernel: contextvars.ContextVar[str] = contextvars.ContextVar(
  "big_vision_attention", default="xla"
)


def of(config: ConfigLike) -> str:
  """Reads `config.attention`.

  Args:
    config: mapping.

  Returns:
    One of `NAMES`; "xla" if the config does not say it.

  Raises:
    ConfigError: it is none of them.
  """
  return lookup.choice(config, KEY, NAMES, "kernel")


@contextlib.contextmanager
def context(config: ConfigLike) -> Iterator[None]:
  """Selects the kernel, where programs are traced.

  Args:
    config: mapping.

  Yields:
    Nothing.
  """
  token = _kernel.set(of(config))
  try:
    yield
  finally:
    _kernel.reset(token)


def why_not_cudnn(
  query: Array, key: Array, mask: Array | None, dtype: DType, dropout: bool
) -> str | None:
  """Says why cuDNN cannot compute an attention; None if it can.

  Args:
    query: [..., T, H, K].
    key: [..., S, H, K].
    mask: as for `dot_product_attention`.
    dtype: of the computation.
    dropout: whether weights are dropped.

  Returns:
    The reason.
  """
  size = query.shape[-1]
  if jax.default_backend() != "gpu":
    return f"this is a {jax.default_backend()}"
  if dtype not in (jnp.bfloat16, jnp.float16):
    return f"{jnp.dtype(dtype).name} is not of 16 bits"
  if dropout:
    return "dropout of weights"
  if size % 8 or size > _LARGEST_HEAD:
    return f"heads of {size}, not a multiple of 8 up to {_LARGEST_HEAD}"
  # A mask becomes a bias, whose gradient wants even lengths.
  if mask is not None and (query.shape[-3] % 2 or key.shape[-3] % 2):
    return f"a mask with {query.shape[-3]} queries and {key.shape[-3]} keys"
  return None


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
  if _kernel.get() == "cudnn":
    reason = why_not_cudnn(
      query, key, mask, query.dtype, dropout_rng is not None
    )
    if reason is None:
      return _cudnn(query, key, value, mask)
    logging.log_first_n(
      logging.INFO, "Attention by XLA, not cuDNN: %s.", 3, reason
    )
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


def _cudnn(query, key, value, mask):
  """Computes attention by the fused kernel, which takes one batch axis."""
  batch = jnp.broadcast_shapes(*(x.shape[:-3] for x in (query, key, value)))
  flat = lambda x, lead: jnp.broadcast_to(x, batch + lead).reshape((-1, *lead))
  q, k, v = (flat(x, x.shape[-3:]) for x in (query, key, value))
  if mask is not None:
    shape = (query.shape[-2], query.shape[-3], key.shape[-3])  # [H, T, S].
    missing = len(batch) + 3 - mask.ndim
    mask = flat(mask.reshape((1,) * missing + mask.shape), shape)
  x = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=_CUDNN)
  return x.reshape(batch + x.shape[1:])


# What Gemma's released code gives to keys that are not attended to.
_MASKED = -2.3819763e38


def grouped_attention(
  query: Array,
  key: Array,
  value: Array,
  mask: Array,
  logits_softcap: float | None = None,
) -> Array:
  """Computes softmax(q k^T) v for heads of queries that share keys and values.

  Head n of the queries uses head n // G of the G = N / H others.

  Args:
    query: [B, T, N, K], scaled already.
    key: [B, S, H, K].
    value: [B, S, H, K].
    mask: bool [B, 1, T, S], which keys a query attends to.
    logits_softcap: c for c * tanh(logits / c); 0 and None leave it out.

  Returns:
    [B, T, N, K] in the dtype of the keys. Softmax is in float32.
  """
  batch, length, num, size = query.shape
  heads = key.shape[2]
  if _kernel.get() == "cudnn":
    reason = why_not_cudnn(query, key, mask, query.dtype, False)
    reason = "logits are capped" if logits_softcap else reason
    if reason is None:
      return jax.nn.dot_product_attention(
        query, key, value, mask=mask, scale=1.0, implementation=_CUDNN
      )
    logging.log_first_n(
      logging.INFO, "Attention by XLA, not cuDNN: %s.", 3, reason
    )
  # All queries of the same keys are rows of one matrix.
  q = query.reshape(batch, length, heads, num // heads, size)
  q = q.transpose(0, 2, 3, 1, 4).reshape(batch, heads, -1, size)
  k, v = (jnp.swapaxes(x, 1, 2) for x in (key, value))
  logits = jnp.einsum("bhqk,bhsk->bhqs", q, k).astype(jnp.float32)
  if logits_softcap:
    logits = logits_softcap * jnp.tanh(logits / logits_softcap)
  shape = (batch, heads, num // heads, length, key.shape[1])
  logits = jnp.where(mask[:, :, None], logits.reshape(shape), _MASKED)
  weights = jax.nn.softmax(logits).astype(key.dtype)
  x = jnp.einsum("bhqs,bhsk->bhqk", weights.reshape(*q.shape[:3], -1), v)
  x = x.reshape(*shape[:4], size).transpose(0, 3, 1, 2, 4)
  return x.reshape(query.shape)
