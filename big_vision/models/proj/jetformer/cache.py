"""Reads sequences into a cache, of which all examples end at the same place.

Shapes: `B` batch, `N` tokens, `D` width, `C` size of the cache.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision.types import Array

# Per example: tokens so far; where they begin in the cache, and where they end.
_NAMES = ("seq_len", "cache_begin", "cache_end")


def right_align(
  x: Array, attn_mask: Array, input_mask: Array
) -> tuple[Array, Array, Array]:
  """Moves tokens to the end of the sequence, in order.

  Args:
    x: [B, N, D].
    attn_mask: bool [B, N, N], which tokens one attends to.
    input_mask: bool [B, N], which tokens are not padding, wherever that is.

  Returns:
    The three of them; what is not a token is 0 and False.
  """
  if not x.shape[1]:
    return x, attn_mask, input_mask
  return jax.vmap(_right_align)(x, attn_mask, input_mask)


def _right_align(x, attn_mask, input_mask):
  """Aligns one example."""
  order = jnp.argsort(input_mask, stable=True)
  real = input_mask.astype(bool)[order]
  x = jnp.where(real[:, None], x[order], 0)
  attn_mask = attn_mask.astype(bool)[order][:, order]
  return x, attn_mask & real[:, None] & real[None, :], real


class Cached(nn.Module):
  """Base of models that read embedded tokens one after the other.

  Subclasses have the attribute `decoder`, a `GemmaBackbone`, and `pre_logits`.
  """

  def prefill_cache(
    self, x: Array, attn_mask: Array, input_mask: Array, *, cache_size: int
  ) -> Array:
    """Reads the beginning of sequences into a new cache.

    Args:
      x: [B, N, D], embedded tokens.
      attn_mask: bool [B, N, N], which tokens one attends to; none is padding.
      input_mask: bool [B, N], which tokens are not padding, wherever that is.
      cache_size: C, at least N and as many tokens as will follow.

    Returns:
      [B, N, D] of the sequences aligned to the right: the last one is about
      what follows.

    Raises:
      ValueError: the cache is too small.
    """
    num = x.shape[1]
    if cache_size < num:
      raise ValueError(
        f"A cache of {cache_size} tokens is too small for {num}."
      )
    # To the end, so that what follows is at the same place in all examples.
    x, attn_mask, input_mask = right_align(x, attn_mask, input_mask)
    lengths = jnp.sum(input_mask, axis=1, dtype=jnp.int32)
    self._put(lengths, num - lengths, jnp.full_like(lengths, num))
    return self.pre_logits(
      *self.decoder(
        x,
        positions=jnp.cumsum(input_mask, axis=1) - 1,
        mask=jnp.pad(attn_mask, ((0, 0), (0, 0), (0, cache_size - num))),
        decode=True,
      )
    )

  def extend_cache(self, x: Array) -> Array:
    """Reads one more token of each sequence.

    Args:
      x: [B, 1, D], embedded.

    Returns:
      [B, 1, D], about what follows it.

    Raises:
      ValueError: there is no cache.
    """
    if not self.has_variable("cache", _NAMES[0]):
      raise ValueError(
        "There is no cache: call prefill_cache first, then this with the "
        "collection `cache` that it returns."
      )
    position, begin, end = (self.get_variable("cache", k) for k in _NAMES)
    end += 1
    self._put(position + 1, begin, end)
    at = jnp.arange(self._cache_size())[None]
    mask = (begin[:, None] <= at) & (at < end[:, None])
    return self.pre_logits(
      *self.decoder(
        x, positions=position[:, None], mask=mask[:, None], decode=True
      )
    )

  def _put(self, *values):
    """Writes what tells where sequences are in the cache, each [B]."""
    for name, value in zip(_NAMES, values, strict=True):
      self.put_variable("cache", name, value)

  def _cache_size(self):
    """Returns C."""
    layers = self.variables["cache"]["decoder"]["layers"]
    if "attn" in layers:  # Stacked: [B, layers, C, ...].
      return layers["attn"]["k_cache"].shape[2]
    return layers["0"]["attn"]["k_cache"].shape[1]

  def pre_logits(self, normed: Array, out: dict[str, Any]) -> Array:
    """Chooses what the heads read.

    Args:
      normed: [B, N, D], the output of the backbone.
      out: its intermediates.

    Returns:
      [B, N, D].
    """
    raise NotImplementedError
