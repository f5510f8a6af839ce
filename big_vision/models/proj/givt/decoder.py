"""The transformer of GIVT: blocks with a cache, from vectors to logits.

Shapes: `B` batch, `N` patches of an image, `S` tokens of a call, `L` tokens that a
cache holds, `D` width. The names of the modules are the names in checkpoints, and
random keys derive from them.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from big_vision.models import (
  activations,
  common,
  fields,
  positions,
  transformer,
  vit,
)
from big_vision.models.cached_attention import CachedAttention, Memory
from big_vision.types import Array

BLOCK = "EncDecBlock"
# Parameters of blocks are stacked along this axis.
PARAMS_AXIS = 1


class EncoderDecoderBlock(nn.Module):
  """Pre-norm block: self-attention, attention to an image, MLP.

  It is that of `uvim.vtt`, but only its MLP has biases.

  Attributes:
    mlp_dim: int, hidden width of the MLP.
    num_heads: int.
    dropout_rate: float, inside all three parts and after the first two.
    decode: bool, whether self-attention has a cache.
    max_decode_length: int, L of the cache; None is the S of the first call.
    dtype_mm: str, dtype of matrix products.
  """

  mlp_dim: int
  num_heads: int
  dropout_rate: float = 0.0
  decode: bool = False
  max_decode_length: int | None = None
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(
    self,
    targets: Array,
    encoded: Array | Memory | None = None,
    decoder_mask: Array | None = None,
    deterministic: bool = True,
  ) -> tuple[Array, Array]:
    """Applies the block.

    Args:
      targets: [B, S, D].
      encoded: [B, N, D], the image; or its Memory in this block; None leaves
        attention to it out.
      decoder_mask: bool, broadcast to [B, H, S, S]: which tokens each one
        attends to; None means all.
      deterministic: bool, turns dropout off.

    Returns:
      [B, S, D], twice.
    """
    length = self.max_decode_length or targets.shape[1]
    drop = lambda y: nn.Dropout(self.dropout_rate)(y, deterministic)
    attention = lambda name: CachedAttention(
      self.num_heads, self.dropout_rate, dtype_mm=self.dtype_mm, name=name
    )
    normalize = lambda name: nn.LayerNorm(use_bias=False, name=name)

    targets = activations.tokens(targets)
    x = normalize("LayerNorm1")(targets)
    x = attention("SelfAttn")(
      x,
      x,
      decoder_mask,
      cache_length=length if self.decode else None,
      deterministic=deterministic,
    )
    x = activations.tokens(drop(x) + targets)

    if encoded is not None:
      y = normalize("LayerNorm2")(x)
      y = attention("CrossAttn")(y, encoded, deterministic=deterministic)
      x = activations.tokens(drop(y) + x)

    y = normalize("LayerNorm3")(x)
    y = vit.MlpBlock(
      mlp_dim=self.mlp_dim,
      dropout=self.dropout_rate,
      dtype_mm=self.dtype_mm,
      name="MLP",
    )(y, deterministic)
    x = activations.tokens(x + y)
    return x, x


class Decoder(nn.Module):
  """Computes logits from vectors, each from those that it may attend to.

  Attributes:
    emb_dim: int, D.
    mlp_dim, num_heads, num_layers: ints.
    out_dim: int, number of logits of a token.
    seq_len: int, number of positions.
    style: str, "ar" or "masked".
    dropout_rate: float, inside the blocks.
    zero_embedding_init: bool, not used.
    scan: bool, compiles one block and stacks its parameters.
    remat_policy: str, as for `vit.Model`.
    dtype_mm: str, dtype of matrix products, but that of the logits.
  """

  emb_dim: int
  mlp_dim: int
  num_heads: int
  num_layers: int
  out_dim: int
  seq_len: int
  style: str
  dropout_rate: float = 0.0
  zero_embedding_init: bool = False
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(
    self,
    targets: Array,
    encoded: Array | Mapping[str, Memory] | None = None,
    decoder_mask: Array | None = None,
    decode: bool = False,
    deterministic: bool = True,
    return_reps: bool = False,
    max_decode_length: int | None = None,
  ) -> Array | tuple[Array, dict[str, Array]]:
    """Applies the blocks.

    Args:
      targets: [B, S, D], embedded tokens.
      encoded: [B, N, D], an image; or `Model.cross_memory` of it; or None.
      decoder_mask: bool, broadcast to [B, H, S, S]: which tokens each one
        attends to; None means all.
      decode: bool, whether there is a cache.
      deterministic: bool, turns dropout off.
      return_reps: bool, returns representations of the sequences, too.
      max_decode_length: L of the cache, for the call that creates it; None is
        the S of that call.

    Returns:
      [B, S, out_dim]; or with a dict of it as `logits`, of means over the tokens
      [B, D] after block i as `block{i}_rep`, and after the last normalization as
      `pre_logits`.

    Raises:
      ValueError: a masked model has no cache.
    """
    if decode and self.style == "masked":
      raise ValueError(
        "decode=True needs config.model.style='ar': masked models predict all "
        "tokens at once, see `parallel_decode.decode_masked`."
      )
    fields.check_heads(self.num_heads, self.emb_dim, "model")
    pos_emb = positions.get_posemb(
      self, "learn", self.seq_len, self.emb_dim, "pos_emb"
    )
    y = common.AddPositionEmbs(decode=decode, name="PosEmbedTargets")(
      targets, pos_emb
    )
    y = jnp.asarray(y, self.dtype_mm)
    block = dict(
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout_rate=self.dropout_rate,
      decode=decode,
      max_decode_length=max_decode_length,
      dtype_mm=self.dtype_mm,
    )
    if self.scan:
      y, each = self._scanned(block, y, encoded, decoder_mask, deterministic)
    else:
      each = []
      for i in range(self.num_layers):
        name = f"{BLOCK}{i}"
        memory = encoded[name] if isinstance(encoded, Mapping) else encoded
        y, _ = EncoderDecoderBlock(name=name, **block)(
          y, memory, decoder_mask, deterministic
        )
        each.append(y)
    y = nn.LayerNorm(name="LayerNorm")(y)
    logits = nn.Dense(
      self.out_dim, kernel_init=nn.initializers.zeros, name="LogitsDense"
    )(y)
    if not return_reps:
      return logits
    mean = lambda x: jnp.mean(x, axis=1)
    out = {f"block{i}_rep": mean(each[i]) for i in range(self.num_layers)}
    return logits, {**out, "pre_logits": mean(y), "logits": logits}

  def _scanned(self, block, y, encoded, decoder_mask, deterministic):
    """Applies all blocks, as one that is compiled once."""
    per_layer = isinstance(encoded, Mapping)
    layer = nn.remat(
      EncoderDecoderBlock,
      prevent_cse=False,  # Scan itself prevents it.
      static_argnums=(4,),  # `deterministic`; 0 is self.
      policy=transformer.checkpoint_policy(self.remat_policy),
    )
    scanned = nn.scan(
      layer,
      variable_axes={"params": PARAMS_AXIS, "cache": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(1 if per_layer else nn.broadcast, nn.broadcast, nn.broadcast),
      length=self.num_layers,
    )(name=BLOCK, **block)
    memory = encoded[BLOCK] if per_layer else encoded
    return scanned(y, memory, decoder_mask, deterministic)
