"""Layers of `gemma`: attention with rotary positions, gated MLP, normalization.

Shapes: `B` batch, `T` queries, `S` keys, `N` heads, `K` heads of keys and values,
`H` size of a head, `D` width, `F` hidden width, `V` vocabulary. The names of the
modules are the names in checkpoints, and random keys derive from them.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import activations, attention, fields
from big_vision.types import Array

_CACHE = ("idx", "k_cache", "v_cache")
_QUERY_NORMS = ("rsqrt_head_dim", "rsqrt_emb_per_head")


def trunc_norm_init(
  in_axis: int | Sequence[int],
  out_axis: int | Sequence[int],
  batch_axis: int | Sequence[int] = (),
) -> Any:
  """Makes the initializer of matrices: a variance of 1 / fan-in.

  Args:
    in_axis: axes that are summed over.
    out_axis: axes of the result.
    batch_axis: axes of several such matrices.

  Returns:
    `(key, shape, dtype) -> array`.
  """
  return nn.initializers.variance_scaling(
    1.0,
    "fan_in",
    "truncated_normal",
    in_axis=in_axis,
    out_axis=out_axis,
    batch_axis=batch_axis,
  )


def softcap(x: Array, cap: float | None) -> Array:
  """Keeps values between `-cap` and `cap`, https://arxiv.org/abs/2408.00118.

  Args:
    x: array.
    cap: 0 and None change nothing.

  Returns:
    The array.
  """
  return cap * jnp.tanh(x / cap) if cap else x


def rotate(x: Array, positions: Array, max_wavelength: float = 10_000) -> Array:
  """Rotates queries or keys by their positions, https://arxiv.org/abs/2104.09864.

  Args:
    x: [B, T, N, H].
    positions: int [B, T] or [1, T].
    max_wavelength: of the slowest rotation, over 2 pi.

  Returns:
    [B, T, N, H] in the dtype of `x`.
  """
  half = x.shape[-1] // 2
  timescale = max_wavelength ** (jnp.arange(half) * 2 / x.shape[-1])
  angle = positions[..., None, None] / timescale[None, None, None]
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


class Einsum(nn.Module):
  """Multiplies by a matrix of any shape.

  Attributes:
    shape: of the parameter `w`.
    w_init: its initializer.
  """

  shape: tuple[int, ...]
  w_init: Any = nn.initializers.zeros

  @nn.compact
  def __call__(self, equation: str, x: Array) -> Array:
    """Computes `jnp.einsum(equation, x, w)` in the dtype of `x`."""
    w = self.param("w", self.w_init, self.shape)
    return jnp.einsum(equation, x, w.astype(x.dtype))


class RMSNorm(nn.Module):
  """Divides by the root mean square and multiplies by `1 + scale`.

  Attributes:
    eps: is added to the mean square.
  """

  eps: float = 1e-6

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalizes the last axis, in float32.

    Args:
      x: [..., D].

    Returns:
      [..., D] in the dtype of `x`.
    """
    scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],))
    dtype = x.dtype
    x = x.astype(jnp.float32)
    x *= jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + self.eps)
    scale = scale.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
    return (x * (1 + scale)).astype(dtype)


class Embedder(nn.Module):
  """One table for tokens that come in and for those that are predicted.

  Attributes:
    vocab_size: int, V.
    embed_dim: int, D.
  """

  vocab_size: int
  embed_dim: int

  def setup(self):
    self.input_embedding = self.param(
      "input_embedding",
      nn.initializers.variance_scaling(
        1.0, "fan_in", "normal", in_axis=1, out_axis=0
      ),
      (self.vocab_size, self.embed_dim),
    )

  def encode(self, ids: Array) -> Array:
    """Embeds tokens.

    Args:
      ids: int [B, T].

    Returns:
      [B, T, D], rows of the table times sqrt(D).
    """
    x = jnp.take(self.input_embedding, ids, axis=0)
    return x * jnp.sqrt(self.embed_dim).astype(x.dtype)

  def decode(self, x: Array) -> Array:
    """Computes logits.

    Args:
      x: [B, T, D].

    Returns:
      [B, T, V] float32, or that of `x` if it is finer.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    table = self.input_embedding.astype(x.dtype)
    return jnp.einsum("btd,vd->btv", x, table, preferred_element_type=dtype)


class Attention(nn.Module):
  """Attention with rotary positions, of which several heads share keys.

  Attributes:
    num_heads: int, N.
    num_kv_heads: int, K, a divisor of N.
    features: int, D.
    head_dim: int, H.
    query_pre_attn_norm: str, what queries are multiplied by: "rsqrt_head_dim",
      H^-1/2; or "rsqrt_emb_per_head", (D / N)^-1/2.
    attn_logits_softcap: float, see `softcap`.
    cache_dtype: str, of the cache; None is that of the keys.
    window: int, how many tokens local layers look back; 0 is all of them.
  """

  num_heads: int
  num_kv_heads: int
  features: int
  head_dim: int
  query_pre_attn_norm: str
  attn_logits_softcap: float | None
  cache_dtype: str | None = None
  window: int = 0

  def setup(self):
    n, k, d, h = (
      self.num_heads,
      self.num_kv_heads,
      self.features,
      self.head_dim,
    )
    if n == k:
      init = trunc_norm_init(2, (1, 3), 0)
      self.qkv_einsum = Einsum((3, n, d, h), init)
    else:
      self.q_einsum = Einsum((n, d, h), trunc_norm_init(1, (0, 2)))
      self.kv_einsum = Einsum((2, k, d, h), trunc_norm_init(2, (1, 3), 0))
    self.attn_vec_einsum = Einsum((n, h, d), trunc_norm_init((0, 1), 2))

  def __call__(
    self,
    x: Array,
    positions: Array,
    attn_mask: Array,
    decode: bool,
    deterministic: bool = True,
    is_local: Array | None = None,
  ) -> Array:
    """Applies the layer.

    Args:
      x: [B, T, D].
      positions: int [B, T] or [1, T].
      attn_mask: [B, 1, T, S], which keys a query attends to; with `decode`, S is
        the size of the cache.
      decode: bool, whether there is a cache. The call that creates it reads any
        number of tokens, each later one a single token.
      deterministic: not used.
      is_local: bool scalar, whether only `window` tokens are looked back; None
        is False.

    Returns:
      [B, T, D].

    Raises:
      ValueError: the mask has another shape, or unknown `query_pre_attn_norm`.
    """
    del deterministic
    if self.num_heads == self.num_kv_heads:
      q, k, v = self.qkv_einsum("btd,sndh->sbtnh", x)
    else:
      q = self.q_einsum("btd,ndh->btnh", x)
      k, v = self.kv_einsum("bsd,ckdh->cbskh", x)
    q = rotate(q, positions) * self._query_factor()
    k = rotate(k, positions)
    first = 0
    if decode:
      first, k, v = self._cached(k, v, attn_mask.shape[-1])
    if attn_mask.shape != (x.shape[0], 1, x.shape[1], k.shape[1]):
      raise ValueError(
        f"The attention mask has the shape {attn_mask.shape}, not [batch, 1, "
        f"queries, keys] = {(x.shape[0], 1, x.shape[1], k.shape[1])}."
      )
    mask = attn_mask.astype(bool)
    if is_local is not None:
      at, of_keys = positions, positions  # Examples may share a sequence.
      if decode:
        at = first + jnp.arange(x.shape[1])[None]
        of_keys = jnp.arange(k.shape[1])[None]
      back = at[:, :, None] - of_keys[:, None, :]
      mask &= ((back < self.window) | ~is_local)[:, None]
    x = attention.grouped_attention(
      activations.heads(q),
      activations.heads(k, "act_keys"),
      activations.heads(v, "act_keys"),
      mask,
      self.attn_logits_softcap,
    )
    return self.attn_vec_einsum("btnh,nhd->btd", activations.heads(x))

  def _query_factor(self):
    """Computes what queries are multiplied by."""
    name = self.query_pre_attn_norm
    if name not in _QUERY_NORMS:
      raise lookup.unknown(
        "query_pre_attn_norm",
        name,
        _QUERY_NORMS,
        f"{fields.key(self)}.query_pre_attn_norm",
      )
    if name == "rsqrt_head_dim":
      return self.head_dim**-0.5
    return (self.features // self.num_heads) ** -0.5

  def _cached(self, k, v, size):
    """Adds keys and values to the cache.

    Args:
      k, v: [B, T, K, H].
      size: of the cache.

    Returns:
      (how many there were before, all keys and values [B, size, K, H]).
    """
    batch, num = k.shape[:2]
    is_new = not self.has_variable("cache", "idx")
    if not is_new and num != 1:
      raise ValueError(f"{num} tokens for a cache, which takes one by one.")
    dtype = self.cache_dtype or k.dtype
    if is_new:
      first, idx = 0, jnp.zeros((batch,), jnp.int32)
      both = [jnp.zeros((batch, size, *k.shape[2:]), dtype)] * 2
    else:
      idx, *both = (self.get_variable("cache", name) for name in _CACHE)
      first = idx[0]
    both = [
      jax.lax.dynamic_update_slice_in_dim(old, new.astype(dtype), first, axis=1)
      for old, new in zip(both, (k, v), strict=True)
    ]
    for name, value in zip(_CACHE, (idx + num, *both), strict=True):
      self.put_variable("cache", name, value)
    return first, *(x.astype(k.dtype) for x in both)


class FeedForward(nn.Module):
  """A gated MLP, https://arxiv.org/abs/2002.05202.

  Attributes:
    features: int, D.
    hidden_dim: int, F.
  """

  features: int
  hidden_dim: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Applies the layer.

    Args:
      x: [B, T, D].

    Returns:
      [B, T, D].
    """
    shape = (2, self.features, self.hidden_dim)
    gating = self.param("gating_einsum", trunc_norm_init(1, 2, 0), shape)
    linear = self.param("linear", trunc_norm_init(0, 1), shape[:0:-1])
    gate, value = (x @ w for w in gating.astype(x.dtype))
    gate, value = activations.hidden(gate), activations.hidden(value)
    return nn.gelu(gate) * value @ linear.astype(x.dtype)


class Block(nn.Module):
  """Attention and MLP.

  Attributes:
    num_heads, num_kv_heads, embed_dim, head_dim, hidden_dim: N, K, D, H, F.
    query_pre_attn_norm, attn_logits_softcap, cache_dtype, window: see
      `Attention`.
    post_norms: bool, normalizes what is added, too.
    dropout: float, rate.
    dropout_bdims: axes along which dropout is the same.
    norm_eps: float, see `RMSNorm`.
  """

  num_heads: int
  num_kv_heads: int
  embed_dim: int
  head_dim: int
  hidden_dim: int
  query_pre_attn_norm: str
  attn_logits_softcap: float | None
  post_norms: bool
  dropout: float = 0.0
  dropout_bdims: tuple[int, ...] = ()
  cache_dtype: str | None = None
  window: int = 0
  norm_eps: float = 1e-6

  def setup(self):
    norm = lambda: RMSNorm(self.norm_eps)
    self.pre_attention_norm = norm()
    self.attn = Attention(
      num_heads=self.num_heads,
      num_kv_heads=self.num_kv_heads,
      features=self.embed_dim,
      head_dim=self.head_dim,
      query_pre_attn_norm=self.query_pre_attn_norm,
      attn_logits_softcap=self.attn_logits_softcap,
      cache_dtype=self.cache_dtype,
      window=self.window,
    )
    self.pre_ffw_norm = norm()
    self.mlp = FeedForward(self.embed_dim, self.hidden_dim)
    if self.post_norms:
      self.post_attention_norm = norm()
      self.post_ffw_norm = norm()
    if self.dropout:
      self.drop = nn.Dropout(self.dropout, tuple(self.dropout_bdims))

  def __call__(
    self,
    x: Array,
    scan_arg: Any,
    positions: Array,
    attn_mask: Array,
    decode: bool,
    deterministic: bool = True,
  ) -> tuple[Array, Any]:
    """Applies the block.

    Args:
      x: [B, T, D].
      scan_arg: of this layer: bool scalar, see `Attention.is_local`, or None.
      positions: see `Attention`.
      attn_mask: see there.
      decode: see there.
      deterministic: bool, turns dropout off.

    Returns:
      ([B, T, D], `scan_arg`).
    """
    drop = lambda y: self.drop(y, deterministic) if self.dropout else y
    x = activations.tokens(x)
    y = self.attn(
      self.pre_attention_norm(x),
      positions,
      attn_mask,
      decode,
      deterministic,
      scan_arg,
    )
    if self.post_norms:
      y = self.post_attention_norm(y)
    x = x + drop(y)
    # As specified: before the normalization here, after it above.
    y = drop(self.mlp(self.pre_ffw_norm(x)))
    if self.post_norms:
      y = self.post_ffw_norm(y)
    return activations.tokens(x + y), scan_arg
