"""Gemma as the language model of `paligemma`: reads embeddings, not tokens.

Shapes: `B` batch, `N` tokens, `D` width, `V` vocabulary, `C` size of the cache.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision.models.ppp import gemma
from big_vision.models.ppp.gemma import load
from big_vision.types import Array

__all__ = ["Model", "load"]

# Fields that replace those of the variant, some only where they are given.
_CACHE = ("seq_len", "cache_begin", "cache_end")
_ALWAYS = ("scan", "remat_policy", "dropout", "dropout_bdims", "cache_dtype")
_IF_GIVEN = (
  "vocab_size",
  "final_logits_softcap",
  "attn_logits_softcap",
  "dtype_mm",
  "width",
  "depth",
  "mlp_dim",
  "num_heads",
  "num_kv_heads",
  "head_dim",
  "post_norms",
  "query_pre_attn_norm",
  "sliding_window",
)


class Model(nn.Module):
  """A `gemma.Model`, whose parameters are directly those of this module.

  Attributes:
    variant: str, name of the size, see `gemma.get_config`.
    scan, remat_policy, dropout, dropout_bdims, cache_dtype: see `gemma.Model`.
    vocab_size, final_logits_softcap, attn_logits_softcap, dtype_mm, width, depth,
      mlp_dim, num_heads, num_kv_heads, head_dim, post_norms, query_pre_attn_norm,
      sliding_window: see there; None is that of the variant.
  """

  variant: str = "gemma_2b"
  scan: bool = True
  remat_policy: str | None = "nothing_saveable"
  vocab_size: int | None = None
  dropout: float = 0.0
  dropout_bdims: Sequence[int] = ()
  cache_dtype: str | None = "bfloat16"
  final_logits_softcap: float | None = None
  attn_logits_softcap: float | None = None
  dtype_mm: str | None = None
  width: int | None = None
  depth: int | None = None
  mlp_dim: int | None = None
  num_heads: int | None = None
  num_kv_heads: int | None = None
  head_dim: int | None = None
  post_norms: bool | None = None
  query_pre_attn_norm: str | None = None
  sliding_window: int | None = None

  def setup(self):
    self.model = gemma.Model(**self.arguments)
    nn.share_scope(self, self.model)

  @property
  def arguments(self) -> dict[str, Any]:
    """The arguments of `gemma.Model`, those of the variant written out."""
    config = dict(gemma.get_config(self.variant))
    config |= {k: getattr(self, k) for k in _ALWAYS}
    given = {k: getattr(self, k) for k in _IF_GIVEN}
    return config | {k: v for k, v in given.items() if v is not None}

  @property
  def embdim(self) -> int:
    """D, the width of the embeddings of tokens."""
    return self.width or gemma.get_config(self.variant).width

  def embed_tokens(self, tokens: Array, train: bool = False) -> Array:
    """Embeds tokens.

    Args:
      tokens: int [B, N].
      train: bool, not used.

    Returns:
      [B, N, D].
    """
    del train
    return self.model(tokens, embed_only=True)

  def compute_logits(self, pre_logits: Array, train: bool = False) -> Array:
    """Computes logits, without `final_logits_softcap`.

    Args:
      pre_logits: [B, N, D].
      train: bool, not used.

    Returns:
      [B, N, V].
    """
    del train
    return self.model(None, pre_logits=pre_logits)[0]

  def __call__(
    self,
    embs: Array,
    mask: Array | None = None,
    train: bool = False,
    positions: Array | None = None,
  ) -> tuple[Array, dict[str, Any]]:
    """Applies the model to embedded tokens.

    Args:
      embs: [B, N, D].
      mask: bool [B, N, N], which tokens one attends to; None is those up to it.
      train: bool, turns dropout on.
      positions: int [B, N]; None counts from 0.

    Returns:
      (logits [B, N, V], dict of named intermediates).

    Raises:
      ValueError: the embeddings have another width.
    """
    batch, _, width = embs.shape
    if width != self.embdim:
      raise ValueError(
        f"Embeddings of width {width} for {self.variant}, whose width is "
        f"{self.embdim}: leave config.model.img.num_classes out."
      )
    return self.model(
      jnp.zeros((batch, 0), jnp.int32),
      embedded_prefix=embs,
      mask=mask,
      positions=positions,
      deterministic=not train,
    )

  def prefill_cache(
    self, x: Array, input_mask: Array, attn_mask: Array, *, cache_size: int
  ) -> Array:
    """Reads the beginning of sequences into a new cache.

    Args:
      x: [B, N, D], embedded tokens.
      input_mask: bool [B, N], which are not padding, wherever that is.
      attn_mask: bool [B, N, N], which tokens one attends to; none is padding.
      cache_size: C, at least N and as many tokens as will follow.

    Returns:
      [B, 1, V], the logits of what follows the last token of each.
    """
    num = input_mask.shape[1]
    lengths = jnp.sum(input_mask, axis=1, dtype=jnp.int32)
    # To the end, so that what follows is at the same place in all examples.
    x, input_mask, attn_mask = jax.vmap(_align_right)(
      x, input_mask.astype(bool), attn_mask
    )
    self._put(lengths, num - lengths, jnp.full_like(lengths, num))
    pad = ((0, 0), (0, 0), (0, cache_size - num))
    _, out = self.model(
      jnp.zeros((len(x), 0), jnp.int32),
      embedded_prefix=x,
      positions=jnp.cumsum(input_mask, axis=1) - 1,
      mask=jnp.pad(attn_mask, pad),
      decode=True,
    )
    return self.compute_logits(out["pre_logits"][:, -1:])

  def extend_cache(self, x: Array, capped: bool = True) -> Array:
    """Reads one more token of each sequence.

    Args:
      x: [B, 1, D], embedded.
      capped: bool, applies `final_logits_softcap`, which neither training nor
        `prefill_cache` do.

    Returns:
      [B, 1, V], the logits of what follows it.
    """
    position, begin, end = (self.get_variable("cache", name) for name in _CACHE)
    end += 1
    self._put(position + 1, begin, end)
    at = jnp.arange(self._cache_size())[None]
    mask = (begin[:, None] <= at) & (at < end[:, None])
    logits, out = self.model(
      jnp.zeros((len(x), 0), jnp.int32),
      embedded_prefix=x,
      positions=position[:, None],
      mask=mask[:, None],
      decode=True,
    )
    return logits if capped else out["logits_pre_norm"]

  def _put(self, *values):
    """Writes what tells where sequences are in the cache, each [B]."""
    for name, value in zip(_CACHE, values, strict=True):
      self.put_variable("cache", name, value)

  def _cache_size(self):
    """Returns C."""
    layers = self.variables["cache"]["layers"]
    if self.scan:
      return layers["attn"]["k_cache"].shape[2]
    return layers["0"]["attn"]["k_cache"].shape[1]


def _align_right(x, input_mask, attn_mask):
  """Moves the tokens of an example to the end, in order, and padding before."""
  order = jnp.argsort(input_mask, stable=True)
  return x[order], input_mask[order], attn_mask[order][:, order]
