"""Attention of decoders: with a cache, or with keys and values made before.

Parameters, random keys and the cache are those of
`nn.MultiHeadDotProductAttention(decode=True)`. In addition the cache takes
several tokens per call, and cross-attention takes keys and values that are
computed once for all tokens of a text.

Shapes: `B` batch, `T` new tokens, `S` tokens that are attended to, `L` length of
the cache, `D` width, `E` width of these tokens, `H` heads, `K` size of a head.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision.models import activations, attention, fields
from big_vision.types import Array, Params


class Memory(NamedTuple):
  """Holds what a layer of cross-attention attends to.

  Attributes:
    key: [B, S, H, K].
    value: [B, S, H, K].
  """

  key: Array
  value: Array


class CachedAttention(nn.Module):
  """Multi-head attention for autoregressive decoding.

  Attributes:
    num_heads: int, H.
    dropout_rate: float, of the attention weights, independent for all of them.
    use_bias: bool, whether the four dense layers have biases.
    kernel_init: initializer of the four kernels.
    dtype_mm: str, dtype of matrix products and of the cache; None is that of the
      inputs.
  """

  num_heads: int
  dropout_rate: float = 0.0
  use_bias: bool = False
  kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
  dtype_mm: str | None = None

  @nn.compact
  def __call__(
    self,
    queries: Array,
    source: Array | Memory,
    mask: Array | None = None,
    *,
    cache_length: int | None = None,
    deterministic: bool = True,
  ) -> Array:
    """Applies attention.

    Args:
      queries: [B, T, D].
      source: [B, S, E], what to attend to, or its `memory`.
      mask: bool, broadcast to [B, H, T, S]: which keys a query attends to;
        None means all.
      cache_length: L, of self-attention with a cache; None attends to `source`
        alone. The call that creates the collection `cache` leaves it empty, and
        its result has no meaning. Each later call appends `source`; then its
        query t attends to the tokens before the call and to the first t + 1 new
        ones. L is not looked at any more. Tokens beyond L overwrite the last
        ones.
      deterministic: bool, turns dropout off.

    Returns:
      [B, T, D].

    Raises:
      ConfigError: the heads do not divide D.
    """
    d = queries.shape[-1]
    fields.check_heads(self.num_heads, d, fields.key(self))
    dense = functools.partial(
      nn.DenseGeneral,
      use_bias=self.use_bias,
      kernel_init=self.kernel_init,
      dtype=self.dtype_mm,
    )
    heads = (self.num_heads, d // self.num_heads)
    query = dense(heads, name="query")(queries)
    if isinstance(source, Memory):
      key, value = source
    else:
      key = dense(heads, name="key")(source)
      value = dense(heads, name="value")(source)
    query = activations.heads(query)
    key, value = (activations.heads(x, "act_keys") for x in (key, value))
    if cache_length is not None:
      key, value, mask = self._append(key, value, mask, cache_length)
    drops = self.dropout_rate > 0 and not deterministic
    x = attention.dot_product_attention(
      query,
      key,
      value,
      mask,
      dropout_rng=self.make_rng("dropout") if drops else None,
      dropout_rate=self.dropout_rate,
    )
    return dense(d, axis=(-2, -1), name="out")(x)

  def _append(self, key, value, mask, length):
    """Appends to the cache; returns what it holds, and a mask of it."""
    started = self.has_variable("cache", "cached_key")
    shape = (key.shape[0], length, *key.shape[2:])
    keys = self.variable("cache", "cached_key", jnp.zeros, shape, key.dtype)
    values = self.variable(
      "cache", "cached_value", jnp.zeros, shape, value.dtype
    )
    index = self.variable(
      "cache", "cache_index", lambda: jnp.zeros((), jnp.int32)
    )
    if not started:
      return key, value, mask
    start, num = index.value, key.shape[1]
    update = functools.partial(
      jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=1
    )
    keys.value = update(keys.value, key)
    values.value = update(values.value, value)
    index.value = start + num
    stored = jnp.arange(keys.value.shape[1])[None, :]
    before = stored <= start + jnp.arange(num)[:, None]  # [T, L]
    return (
      keys.value,
      values.value,
      nn.combine_masks(mask, before[None, None], dtype=bool),
    )


def memory(params: Params, source: Array, dtype: Any = None) -> Memory:
  """Computes keys and values of a layer of cross-attention, for many calls.

  Args:
    params: parameters of the CachedAttention.
    source: [B, S, E], what to attend to.
    dtype: of the computation, that of the layer; None is that of parameters and
      source.

  Returns:
    The Memory that stands for `source`.
  """

  if dtype is not None:
    source, params = jax.tree.map(
      lambda x: jnp.asarray(x, dtype), (source, params)
    )

  def project(layer):
    x = jnp.einsum("bse,ehk->bshk", source, layer["kernel"])
    return x + layer["bias"][None, None] if "bias" in layer else x

  return Memory(project(params["key"]), project(params["value"]))
