"""The transformer of JetFormer: blocks of Gemma on any embeddings.

Shapes: `B` batch, `S` sequence, `D` width. The names of the modules are the
names in checkpoints, and random keys derive from them.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from big_vision.models import fields, transformer
from big_vision.models.ppp import gemma
from big_vision.types import Array

_STATIC = (5, 6)  # `decode` and `deterministic` of a block; 0 is self.


class GemmaBlock(gemma.Block):
  """A `gemma.Block` whose output is an intermediate of the model."""

  post_norms: bool = False

  def __call__(
    self,
    x: Array,
    scan_arg: dict[str, Array],
    positions: Array,
    attn_mask: Array,
    decode: bool,
    deterministic: bool = True,
  ) -> tuple[Array, dict[str, Array]]:
    """Applies the block.

    Args:
      x: [B, S, D].
      scan_arg: dict of what the block gives away.
      positions, attn_mask, decode, deterministic: see `gemma.Block`.

    Returns:
      ([B, S, D], `scan_arg` with the same as `outputs`).
    """
    args = (positions, attn_mask, decode, deterministic)
    x, _ = super().__call__(x, None, *args)
    return x, {**scan_arg, "outputs": x}


class _Layers(nn.Module):
  """Applies blocks named by their numbers."""

  make_block: Any
  depth: int

  @nn.compact
  def __call__(self, x, scan_arg, *args):
    outputs = []
    for i in range(self.depth):
      x, out = self.make_block(name=str(i))(x, scan_arg, *args)
      outputs.append(out["outputs"])
    return x, {"outputs": outputs}


class GemmaBackbone(nn.Module):
  """Applies the layers of the first Gemma.

  Attributes:
    width, depth, mlp_dim, num_heads, num_kv_heads, head_dim: ints, see
      `gemma.Model`; the width is D.
    out_dim: int, not used.
    norm_eps: float, of all normalizations.
    dropout, dropout_bdims: see `gemma.Block`.
    cache_dtype: str, see `gemma.Attention`.
    embed_dtype: str, dtype of the computation; parameters are float32.
    head_dtype: str, not used.
    scan: bool, compiles one block and stacks its parameters.
    remat_policy: str, as for `gemma.Model`.
  """

  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  out_dim: int
  norm_eps: float
  dropout: float = 0.0
  dropout_bdims: Sequence[int] = ()
  cache_dtype: str | None = None
  embed_dtype: str = "float32"
  head_dtype: str = "float32"
  scan: bool = False
  remat_policy: str | None = "none"

  def setup(self):
    fields.check_dtype(self.embed_dtype, f"{fields.key(self)}.embed_dtype")
    block: Any = GemmaBlock
    if self.remat_policy != "none":
      block = nn.remat(
        GemmaBlock,
        prevent_cse=not self.scan,  # Scan itself prevents it.
        static_argnums=_STATIC,
        policy=transformer.checkpoint_policy(self.remat_policy),
      )
    kw = dict(
      num_heads=self.num_heads,
      num_kv_heads=self.num_kv_heads,
      embed_dim=self.width,
      head_dim=self.head_dim,
      hidden_dim=self.mlp_dim,
      query_pre_attn_norm="rsqrt_head_dim",
      attn_logits_softcap=None,
      dropout=self.dropout,
      dropout_bdims=tuple(self.dropout_bdims),
      cache_dtype=self.cache_dtype,
      norm_eps=self.norm_eps,
    )
    axes: Any = (0, *[nn.broadcast] * 4)
    if self.scan:
      self.layers = nn.scan(
        block,
        variable_axes={"params": 0, "cache": 1},
        split_rngs={"params": True, "dropout": True},
        in_axes=axes,
        length=self.depth,
      )(**kw)
    else:
      make = lambda name: block(name=name, **kw)
      self.layers = _Layers(make, self.depth)
    self.final_norm = gemma.RMSNorm(self.norm_eps)

  def __call__(
    self,
    x: Array,
    *,
    mask: Array,
    positions: Array | None = None,
    decode: bool = False,
    deterministic: bool = True,
  ) -> tuple[Array, dict[str, Array]]:
    """Applies the layers.

    Args:
      x: [B, S, D], embeddings.
      mask: bool [B, S, C] or [B, 1, S, C], which of C keys a query attends to;
        with `decode`, C is the size of the cache, else S.
      positions: int [B, S] or [1, S]; None counts from 0.
      decode: bool, uses the collection `cache`, which must be mutable, see
        `gemma.Attention`. Needs `positions`.
      deterministic: bool, turns dropout off.

    Returns:
      ([B, S, D], normalized; dict of it as `pre_logits`, of the output of each
      block as `block00_rep`, ..., and of that of the last as `encoded`).

    Raises:
      ValueError: `decode` without positions, or embeddings of another width.
    """
    if x.shape[-1] != self.width:
      raise ValueError(
        f"Embeddings of width {x.shape[-1]} for a backbone of {self.width}."
      )
    if positions is None:
      if decode:
        raise ValueError("decode=True needs `positions`.")
      positions = jnp.arange(x.shape[1])[None]
    if mask.ndim == 3:
      mask = mask[:, None]
    x = x.astype(self.embed_dtype)
    x, each = self.layers(x, {}, positions, mask, decode, deterministic)
    out = {f"block{i:02d}_rep": each["outputs"][i] for i in range(self.depth)}
    out["encoded"] = x
    out["pre_logits"] = self.final_norm(x)
    return out["pre_logits"], out
