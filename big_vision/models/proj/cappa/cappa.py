"""Captioner: a ViT encoder, and a decoder that predicts the tokens of a caption.

The decoder predicts tokens one after the other, or some captions in parallel: from
mask tokens, each of which sees all others and the image.

  Tschannen et al. 2023, Image Captioners Are Scalable Vision Learners Too,
  https://arxiv.org/abs/2306.07915

Decoding with a cache is that of `uvim.vtt`, whose blocks these are; samplers are
in `uvim.decode`.

Shapes: `B` batch, `N` patches, `L` length of a caption, `T` tokens of a call, `D`
width of the encoder, `E` of the decoder, `V` vocabulary. The names of the modules
are the names in checkpoints, and random keys derive from them and from the order
of calls.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision.models import (
  cached_attention,
  common,
  fields,
  transformer,
  vit,
)
from big_vision.models.cached_attention import Memory
from big_vision.models.proj.cappa.checkpoints import load
from big_vision.models.proj.uvim.vtt import (
  EncoderDecoderBlock,
  WithDecoder,
  shift_right,
)
from big_vision.types import Array, Batch

__all__ = ["Decoder", "Model", "load", "shift_right", "token_weights"]

_BLOCK = "EncDecBlock"
# Parameters of blocks are stacked along this axis.
_PARAMS_AXIS = 1


def token_weights(batch: Batch, pad_token: int = 0) -> Array:
  """Tells which tokens of captions are to be predicted.

  Args:
    batch: `labels` int [B, L]; `label_masks` [B, L] if there are more weights.
    pad_token: the token that is not.

  Returns:
    [B, L] float32.
  """
  found = (batch["labels"] != pad_token).astype(jnp.float32)
  return found * batch["label_masks"] if "label_masks" in batch else found


class _Layer(EncoderDecoderBlock):
  """One step of `nn.scan`."""

  def __call__(self, *args: Any) -> tuple[Array, None]:
    return super().__call__(*args), None


class Decoder(nn.Module):
  """Predicts tokens from those before them, or from none, and an image.

  Attributes:
    emb_dim: int, E.
    mlp_dim, num_heads, num_layers: ints.
    dropout_rate: float, inside the blocks.
    output_vocab_size: int, V.
    masked_pred_prob: float, part of the captions that training predicts in
      parallel.
    masking_ratio: float, part of their tokens that is hidden.
    use_bias: bool, of normalization and MLP in the blocks.
    scan: bool, compiles one block and stacks its parameters.
    remat_policy: str, as for `vit.Model`.
    dtype_mm: str, dtype of matrix products, but that of the logits.
  """

  emb_dim: int
  mlp_dim: int
  num_heads: int
  num_layers: int
  dropout_rate: float = 0.0
  output_vocab_size: int = 32_000
  masked_pred_prob: float = 0.0
  masking_ratio: float = 0.0
  use_bias: bool = True
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(
    self,
    encoded: Array | Mapping[str, Memory] | None,
    targets: Array,
    pos_emb: Array,
    decoder_mask: Array | None = None,
    decode: bool = False,
    deterministic: bool = True,
    max_decode_length: int | None = None,
    prefill: bool = False,
  ) -> Array:
    """Computes the logits of tokens.

    Args:
      encoded: [B, N, D], the image; or `Model.cross_memory` of it; None leaves
        attention to it out.
      targets: [B, T], the tokens to be predicted. With `decode` but not
        `prefill`, the tokens to be read themselves.
      pos_emb: [1, >= L, E].
      decoder_mask: bool, broadcast to [B, H, T, T].
      decode: bool, whether there is a cache.
      deterministic: bool, turns dropout and parallel prediction off.
      max_decode_length: L of the cache, for the call that creates it; None is
        the T of that call.
      prefill: bool, reads a prompt into a cache: many tokens at once.

    Returns:
      [B, T, V].
    """
    y = targets.astype(jnp.int32)
    masks = self.masked_pred_prob > 0
    if masks and not (decode or prefill or deterministic):
      y, decoder_mask = self._some_in_parallel(y, decoder_mask)
    elif prefill or not decode:
      y = shift_right(y)
    y = nn.Embed(
      self.output_vocab_size + masks,
      self.emb_dim,
      embedding_init=nn.initializers.normal(stddev=1.0),
      name="EmbedTargets",
    )(y)
    decode = decode or prefill
    y = common.AddPositionEmbs(decode=decode, name="PosEmbedTargets")(
      y, pos_emb
    )
    y = jnp.asarray(y, self.dtype_mm)
    block = dict(
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout_rate=self.dropout_rate,
      decode=decode,
      max_decode_length=max_decode_length,
      dtype_mm=self.dtype_mm,
      use_bias=self.use_bias,
    )
    if self.scan:
      y = self._scanned(block, y, encoded, decoder_mask, deterministic)
    else:
      for i in range(self.num_layers):
        name = f"{_BLOCK}{i}"
        memory = encoded[name] if isinstance(encoded, Mapping) else encoded
        y = EncoderDecoderBlock(name=name, **block)(
          y, memory, decoder_mask, deterministic
        )
    y = nn.LayerNorm(name="LayerNorm")(y)
    return nn.Dense(
      self.output_vocab_size,
      kernel_init=nn.initializers.zeros,
      name="LogitsDense",
    )(y)

  def _scanned(self, block, y, encoded, decoder_mask, deterministic):
    """Applies all blocks, as one that is compiled once."""
    per_layer = isinstance(encoded, Mapping)
    layer = nn.remat(
      _Layer,
      prevent_cse=False,  # Scan itself prevents it.
      static_argnums=(4,),  # `deterministic`; 0 is self.
      policy=transformer.checkpoint_policy(self.remat_policy),
    )
    scanned = nn.scan(
      layer,
      variable_axes={"params": _PARAMS_AXIS, "cache": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(1 if per_layer else nn.broadcast, nn.broadcast, nn.broadcast),
      length=self.num_layers,
    )(name=_BLOCK, **block)
    memory = encoded[_BLOCK] if per_layer else encoded
    return scanned(y, memory, decoder_mask, deterministic)[0]

  def _some_in_parallel(self, y, causal):
    """Hides tokens of random captions, which may look at all others.

    Args:
      y: int [B, T], the tokens to be predicted.
      causal: bool [B, 1, T, T], the mask of the other captions.

    Returns:
      (tokens to be read [B, T], mask [B, 1, T, T]).
    """
    num, length = y.shape
    in_parallel = (
      jax.random.uniform(self.make_rng("dropout"), (num,))
      < self.masked_pred_prob
    )
    num_hidden = int(self.masking_ratio * length)
    first = jnp.broadcast_to(jnp.arange(length) < num_hidden, y.shape)
    hidden = jax.random.permutation(
      self.make_rng("dropout"), first, axis=1, independent=True
    )
    masked = jnp.where(hidden, self.output_vocab_size, y)
    y = jnp.where(in_parallel[:, None], masked, shift_right(y))
    in_parallel = in_parallel[:, None, None, None]
    return y, in_parallel if causal is None else causal | in_parallel


class Model(WithDecoder):
  """Encoder of images and decoder of captions.

  Attributes:
    num_heads, num_layers, mlp_dim, emb_dim: ints, of the encoder.
    enc_dropout_rate: float, of the encoder.
    vocab_size: int, V.
    seq_len: int, length of the longest caption.
    patches: (height, width) of a patch in pixels.
    input_seq_len, patch_dropout: unused, for configs that have them.
    posemb_type: str, positions of both: "learn" or "sincos2d".
    decoder_num_heads, decoder_num_layers, decoder_mlp_dim, decoder_emb_dim: ints,
      of the decoder; 0 is that of the encoder.
    dec_dropout_rate: float, of the decoder.
    masked_pred_prob, masking_ratio: floats, see `Decoder`.
    decoder_bias: bool, of normalization and MLP in the decoder's blocks.
    scan: bool, compiles one block of each and stacks its parameters.
    remat_policy: str, as for `vit.Model`.
    dtype_mm: str, dtype of all before the logits; parameters are float32.
  """

  num_heads: int = 8
  num_layers: int = 6
  mlp_dim: int = 2048
  emb_dim: int = 512
  enc_dropout_rate: float = 0.0
  vocab_size: int = 32_000
  seq_len: int = 256
  patches: Sequence[int] = (16, 16)
  input_seq_len: int = 768
  posemb_type: str = "learn"
  patch_dropout: float = 0.0
  decoder_num_heads: int = 0
  decoder_num_layers: int = 0
  decoder_mlp_dim: int = 0
  decoder_emb_dim: int = 0
  dec_dropout_rate: float = 0.0
  masked_pred_prob: float = 0.0
  masking_ratio: float = 0.0
  decoder_bias: bool = True
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  dtype_mm: str = "float32"

  def __post_init__(self):
    # So that equal models are equal to `jax.jit`, which hashes them.
    object.__setattr__(self, "patches", tuple(self.patches))
    super().__post_init__()

  def setup(self):
    fields.check_dtype(self.dtype_mm, "model.dtype_mm")
    width = self.decoder_emb_dim or self.emb_dim
    layers = self.decoder_num_layers or self.num_layers
    self.encoder = vit.Model(
      patch_size=self.patches,
      width=self.emb_dim,
      depth=self.num_layers,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout=self.enc_dropout_rate,
      posemb=self.posemb_type,
      scan=self.scan,
      remat_policy=self.remat_policy,
      dtype_mm=self.dtype_mm,
    )
    self.pos_emb_for_decoder = vit.get_posemb(
      self, self.posemb_type, (1, self.seq_len), width, "pos_embedding_decoder"
    )
    self.decoder = Decoder(
      emb_dim=width,
      mlp_dim=self.decoder_mlp_dim or self.mlp_dim,
      num_heads=self.decoder_num_heads or self.num_heads,
      num_layers=layers,
      dropout_rate=self.dec_dropout_rate,
      output_vocab_size=self.vocab_size,
      masked_pred_prob=self.masked_pred_prob,
      masking_ratio=self.masking_ratio,
      use_bias=self.decoder_bias,
      scan=self.scan,
      remat_policy=self.remat_policy,
      dtype_mm=self.dtype_mm,
    )

  def encode(
    self, image: Array, train: bool = False, return_enc_features: bool = False
  ) -> Any:
    """Encodes images.

    Args:
      image: [B, H, W, 3], normally in [-1, 1].
      train: bool, turns dropout on.
      return_enc_features: bool, returns what the ViT computes, too.

    Returns:
      [B, N, D]; or with the dict of all intermediate results of the ViT.
    """
    _, out = self.encoder(image, train=train)
    encoded = out["encoded"]
    return (encoded, out) if return_enc_features else encoded

  def cross_memory(self, encoded: Array) -> dict[str, Memory]:
    """Computes keys and values of images, once for all tokens of their captions.

    Args:
      encoded: [B, N, D], from `encode`.

    Returns:
      Dict by the name of the block, in place of `encoded` for `decode`.
    """
    blocks = self.variables["params"]["decoder"]
    make = lambda p: cached_attention.memory(p, encoded, self.dtype_mm)
    if self.scan:
      stacked = blocks[_BLOCK]["CrossAttn"]
      # Samplers expect examples on the first axis, so layers are on the second.
      return {_BLOCK: jax.vmap(make, _PARAMS_AXIS, 1)(stacked)}
    names = [name for name in blocks if name.startswith(_BLOCK)]
    return {name: make(blocks[name]["CrossAttn"]) for name in names}

  def __call__(
    self,
    image: Array,
    text: Array | None,
    *,
    decode: bool = False,
    train: bool = False,
    return_enc_features: bool = False,
  ) -> Any:
    """Computes the logits of the tokens of captions.

    Args:
      image: [B, H, W, 3], normally in [-1, 1].
      text: [B, T] int, see `decode`; None with `return_enc_features`.
      decode: bool, see `decode`.
      train: bool, see `decode`.
      return_enc_features: bool, returns what the encoder computes instead.

    Returns:
      [B, T, V]; or ([B, N, D], dict) of `encode`.
    """
    encoded, out = self.encode(image, train, return_enc_features=True)
    if return_enc_features:
      return encoded, out
    return self.decode(encoded, text, decode=decode, train=train)
