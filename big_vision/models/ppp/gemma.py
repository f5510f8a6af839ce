"""Gemma 1 and 2: decoders of text, with a cache for one token at a time.

References:
  Gemma team 2024, https://arxiv.org/abs/2403.08295
  Gemma 2 team 2024, https://arxiv.org/abs/2408.00118

Shapes: `B` batch, `T` queries, `S` keys, `N` heads, `K` heads of keys and values,
`H` size of a head, `D` width, `F` hidden width, `V` vocabulary. The names of the
modules are the names in checkpoints, and random keys derive from them.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from big_vision import lookup
from big_vision.models import fields, transformer
from big_vision.models.ppp.gemma_checkpoints import load
from big_vision.models.ppp.gemma_layers import (
  Attention,
  Block,
  Einsum,
  Embedder,
  FeedForward,
  RMSNorm,
  rotate,
  softcap,
  trunc_norm_init,
)
from big_vision.types import Array

__all__ = [
  "VARIANTS",
  "Attention",
  "Block",
  "Einsum",
  "Embedder",
  "FeedForward",
  "Model",
  "RMSNorm",
  "get_config",
  "load",
  "rotate",
  "softcap",
  "trunc_norm_init",
]

# Of the softmax of the attention of Gemma 2's even layers.
_WINDOW = 4096
_V2 = dict(final_logits_softcap=30.0, attn_logits_softcap=50.0, post_norms=True)
_SIZES = {
  "gemma_2b": (2048, 18, 16_384, 8, 1, 256, {}),
  "gemma_7b": (3072, 28, 24_576, 16, 16, 256, {}),
  "gemma2_2b": (2304, 26, 9216, 8, 4, 256, _V2),
  "gemma2_9b": (3584, 42, 14_336, 16, 8, 256, _V2),
  "gemma2_27b": (
    4608, 46, 36_864, 32, 16, 128,
    {**_V2, "query_pre_attn_norm": "rsqrt_emb_per_head"},
  ),
}  # fmt: skip
VARIANTS = tuple(_SIZES)


def get_config(variant: str) -> ml_collections.ConfigDict:
  """Returns the arguments of `Model` for a published size.

  Args:
    variant: such as "gemma2_2b".

  Returns:
    A new ConfigDict.

  Raises:
    ValueError: unknown variant.
  """
  if variant not in _SIZES:
    raise lookup.unknown("variant of Gemma", variant, _SIZES)
  *sizes, more = _SIZES[variant]
  names = ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
  return ml_collections.ConfigDict(
    dict(
      variant=variant,
      **dict(zip(names, sizes, strict=True)),
      norm_eps=1e-6,
      vocab_size=256_000,
      scan=True,
      remat_policy="nothing_saveable",
      **more,
    )
  )


class _Layers(nn.Module):
  """Applies blocks named by their numbers."""

  make_block: Any
  depth: int

  @nn.compact
  def __call__(self, x, scan_arg, *args):
    for i in range(self.depth):
      flag = None if scan_arg is None else scan_arg[i]
      x, _ = self.make_block(name=str(i))(x, flag, *args)
    return x, scan_arg


class Model(nn.Module):
  """Decoder of text.

  Attributes:
    variant: str, name of the size; "gemma2..." has local layers by default.
    width, depth, mlp_dim, num_heads, num_kv_heads, head_dim: ints; D, the number
      of layers, F, N, K, H.
    norm_eps: float, see `RMSNorm`.
    vocab_size: int, V.
    query_pre_attn_norm, attn_logits_softcap, cache_dtype: see `Attention`.
    final_logits_softcap: float, see `softcap`.
    post_norms, dropout, dropout_bdims: see `Block`.
    embed_dtype: str, dtype of the computation; parameters are float32.
    scan: bool, compiles one block and stacks its parameters.
    remat_policy: str, as for `vit.Model`; "none" keeps all for the gradient.
    sliding_window: int, how many tokens every other layer, from the first on,
      looks back; 0 is all of them. None is 4096 for Gemma 2, 0 otherwise.
    dtype_mm: str, in place of `embed_dtype`, as other models call it.
  """

  variant: str
  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  norm_eps: float
  vocab_size: int
  query_pre_attn_norm: str = "rsqrt_head_dim"
  final_logits_softcap: float | None = 0.0
  attn_logits_softcap: float | None = 0.0
  post_norms: bool = False
  dropout: float = 0.0
  dropout_bdims: Sequence[int] = ()
  cache_dtype: str | None = None
  embed_dtype: str = "float32"
  scan: bool = False
  remat_policy: str | None = "none"
  sliding_window: int | None = None
  dtype_mm: str | None = None

  @property
  def dtype(self) -> str:
    """The dtype of the computation."""
    return self.dtype_mm or self.embed_dtype

  @property
  def window(self) -> int:
    """How many tokens local layers look back; 0 if there are none."""
    if self.sliding_window is None:
      return _WINDOW if self.variant.startswith("gemma2") else 0
    return self.sliding_window

  def setup(self):
    fields.check_dtype(self.dtype, f"{fields.key(self)}.embed_dtype")
    self.embedder = Embedder(self.vocab_size, self.width)
    block: Any = Block
    if self.remat_policy != "none":
      block = nn.remat(
        Block,
        prevent_cse=not self.scan,  # Scan itself prevents it.
        static_argnums=(5, 6),  # `decode`, `deterministic`; 0 is self.
        policy=transformer.checkpoint_policy(self.remat_policy),
      )
    kw = dict(
      num_heads=self.num_heads,
      num_kv_heads=self.num_kv_heads,
      embed_dim=self.width,
      head_dim=self.head_dim,
      hidden_dim=self.mlp_dim,
      query_pre_attn_norm=self.query_pre_attn_norm,
      attn_logits_softcap=self.attn_logits_softcap,
      post_norms=self.post_norms,
      dropout=self.dropout,
      dropout_bdims=tuple(self.dropout_bdims),
      cache_dtype=self.cache_dtype,
      window=self.window,
      norm_eps=self.norm_eps,
    )
    if self.scan:
      self.layers = nn.scan(
        block,
        variable_axes={"params": 0, "cache": 1},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, *[nn.broadcast] * 4),
        length=self.depth,
      )(**kw)
    else:
      make = lambda name: block(name=name, **kw)
      self.layers = _Layers(make, self.depth)
    self.final_norm = RMSNorm(self.norm_eps)

  def __call__(
    self,
    tokens: Array | None,
    *,
    embedded_prefix: Array | None = None,
    embed_only: bool = False,
    pre_logits: Array | None = None,
    positions: Array | None = None,
    mask: Array | None = None,
    decode: bool = False,
    deterministic: bool = True,
  ) -> Any:
    """Computes logits, or one step of that.

    Args:
      tokens: int [B, T1], or None.
      embedded_prefix: [B, T0, D] before them, or None; T = T0 + T1.
      embed_only: bool, returns what the layers would read.
      pre_logits: [B, T, D]; with them, only their logits are computed, without
        `final_logits_softcap`.
      positions: int [B, T] or [1, T]; None counts from 0.
      mask: [B, T, S] or [B, 1, T, S], which keys a query attends to; None is
        those up to itself.
      decode: bool, uses the collection `cache`, which must be mutable; see
        `Attention`. Needs `positions` and `mask`.
      deterministic: bool, turns dropout off.

    Returns:
      (logits [B, T, V], dict of named intermediates); or the embeddings
      [B, T, D] with `embed_only`.

    Raises:
      ValueError: no tokens at all, `decode` without positions or mask, or the
        shape of the mask does not fit.
    """
    if pre_logits is not None:
      logits = self.embedder.decode(pre_logits)
      return logits, {"pre_logits": pre_logits, "logits": logits}
    x = self._embed(embedded_prefix, tokens)
    if embed_only:
      return x
    batch, length, _ = x.shape
    if decode and (positions is None or mask is None):
      raise ValueError("decode=True needs `positions` and `mask`.")
    if positions is None:
      positions = jnp.arange(length)[None]
    if mask is None:
      mask = jnp.tril(jnp.ones((length, length), bool))[None]
      mask = jnp.broadcast_to(mask, (batch, length, length))
    if mask.ndim == 3:
      mask = mask[:, None]
    if mask.shape != (batch, 1, length, max(length, mask.shape[-1])):
      raise ValueError(
        f"The attention mask has the shape {mask.shape}, not [{batch}, 1, "
        f"{length}, at least {length}]."
      )
    is_local = None
    if 0 < self.window < mask.shape[-1]:
      is_local = jnp.arange(self.depth) % 2 == 0
    x, _ = self.layers(x, is_local, positions, mask, decode, deterministic)
    out = {"encoded": x}
    x = out["pre_logits"] = self.final_norm(x)
    logits = out["logits_pre_norm"] = self.embedder.decode(x)
    out["logits"] = softcap(logits, self.final_logits_softcap)
    return out["logits"], out

  def _embed(self, prefix, tokens):
    """Returns what the layers read, [B, T, D]."""
    parts = [] if prefix is None else [prefix]
    if tokens is not None:
      parts.append(self.embedder.encode(tokens))
    if not parts:
      raise ValueError("There are neither tokens nor `embedded_prefix`.")
    return jnp.concatenate([x.astype(self.dtype) for x in parts], axis=1)
