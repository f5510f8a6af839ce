"""Decodes with language models that have no cache, by reading all again."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision.types import Array


class SlowCache(nn.Module):
  """Base of models whose cache may be what has been read so far.

  Subclasses have `slow_logits(x, input_mask, mask_ar) -> [B, N, V]`.
  """

  def slow_prefill(
    self, x: Array, input_mask: Array, mask_ar: Array, cache_size: int
  ) -> Array:
    """Reads the beginning of sequences, see `paligemma.Model.prefill_cache`."""
    x = jnp.where(input_mask[..., None], x, 0)
    missing = cache_size - x.shape[1]
    pad = lambda a: jnp.pad(a, [(0, 0), (0, missing)] + [(0, 0)] * (a.ndim - 2))
    self._set(pad(x), pad(input_mask), pad(jnp.where(input_mask, mask_ar, 0)))
    return self._last_logits()

  def slow_extend(self, x: Array) -> Array:
    """Reads one more token, see `paligemma.Model.extend_cache`."""
    old, input_mask, mask_ar = self._get()
    num = jnp.sum(input_mask, axis=1)
    here = jax.nn.one_hot(num, input_mask.shape[1], dtype=old.dtype)
    self._set(
      old + here[..., None] * x,
      input_mask | (here > 0),
      mask_ar + (here > 0).astype(mask_ar.dtype),
    )
    return self._last_logits()

  def _last_logits(self):
    """Computes the logits [B, 1, V] after the last token of each."""
    x, input_mask, mask_ar = self._get()
    logits = self.slow_logits(x, input_mask, mask_ar)
    last = jnp.sum(input_mask, axis=1) - 1
    here = jax.nn.one_hot(last, x.shape[1], dtype=logits.dtype)
    return jnp.einsum("bn,bnv->bv", here, logits)[:, None]

  def _set(self, *values):
    for name, value in zip(_NAMES, values, strict=True):
      self.put_variable("cache", name, value)

  def _get(self):
    return [self.get_variable("cache", name) for name in _NAMES]

  def slow_logits(self, x: Array, input_mask: Array, mask_ar: Array) -> Array:
    """Computes the logits of whole sequences.

    Args:
      x: [B, N, D].
      input_mask: bool [B, N].
      mask_ar: int [B, N].

    Returns:
      [B, N, V].
    """
    raise NotImplementedError


_NAMES = ("x_cache", "input_mask_cache", "mask_ar_cache")
