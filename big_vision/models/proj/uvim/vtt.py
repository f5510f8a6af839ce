"""Image to sequence: a ViT encoder and an autoregressive decoder of tokens.

Stage II of UViM predicts guiding codes with it, section 2.2 of
  Kolesnikov et al. 2022, https://arxiv.org/abs/2205.10337

Decoding with a cache: the first call of `decode` with `decode=True` creates the
collection `cache`; each later one reads the next token, or with `prefill=True` a
whole prompt, see `decode.py`. `Model.cross_memory` computes what all tokens of a text
share.

Shapes: `B` batch, `N` patches, `L` length of the text, `T` tokens of a call, `D`
width, `V` vocabulary. The names of the modules are the names in checkpoints, and
random keys derive from them and from the order of calls.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import (
  activations,
  cached_attention,
  common,
  fields,
  positions,
  vit,
)
from big_vision.models.cached_attention import CachedAttention, Memory
from big_vision.models.proj.uvim.vtt_checkpoints import (
  Patches,
  image_grid,
  load,
  patches_of,
)
from big_vision.types import Array

__all__ = [
  "Decoder",
  "EncoderDecoderBlock",
  "Model",
  "Patches",
  "WithDecoder",
  "image_grid",
  "load",
  "shift_right",
]


def shift_right(x: Array, axis: int = 1, constant_values: float = 0) -> Array:
  """Moves all entries up by one along an axis and puts a value first.

  Args:
    x: array.
    axis: int, along which to move.
    constant_values: the value.

  Returns:
    Array of the same shape; the last entry is lost.
  """
  widths = [(0, 0)] * x.ndim
  widths[axis] = (1, 0)
  padded = jnp.pad(x, widths, constant_values=constant_values)
  return jnp.take(padded, jnp.arange(x.shape[axis]), axis=axis)


class EncoderDecoderBlock(nn.Module):
  """Pre-norm block: self-attention, attention to the image, MLP.

  Attributes:
    mlp_dim: int, hidden width of the MLP.
    num_heads: int.
    dropout_rate: float, inside all three parts and after the first two.
    decode: bool, whether self-attention has a cache.
    max_decode_length: int, L of the cache; None is the T of the first call.
    dtype_mm: str, dtype of matrix products.
    use_bias: bool, of normalization and MLP. Attention has none.
  """

  mlp_dim: int
  num_heads: int
  dropout_rate: float = 0.0
  decode: bool = False
  max_decode_length: int | None = None
  dtype_mm: str = "float32"
  use_bias: bool = True

  @nn.compact
  def __call__(
    self,
    targets: Array,
    encoded: Array | Memory | None,
    decoder_mask: Array | None = None,
    deterministic: bool = True,
    encoded_mask: Array | None = None,
  ) -> Array:
    """Applies the block.

    Args:
      targets: [B, T, D].
      encoded: [B, N, D], the image; or its Memory in this block; None leaves
        attention to it out.
      decoder_mask: bool, broadcast to [B, H, T, T]: which targets each one
        attends to; None means all.
      deterministic: bool, turns dropout off.
      encoded_mask: bool, broadcast to [B, H, T, N]: which tokens of the image
        exist; None means all.

    Returns:
      [B, T, D].
    """
    length = self.max_decode_length or targets.shape[1]
    drop = lambda y: nn.Dropout(self.dropout_rate)(y, deterministic)
    attention = lambda name: CachedAttention(
      self.num_heads, self.dropout_rate, dtype_mm=self.dtype_mm, name=name
    )

    normalize = functools.partial(nn.LayerNorm, use_bias=self.use_bias)

    targets = activations.tokens(targets)
    x = normalize(name="LayerNorm1")(targets)
    x = attention("SelfAttn")(
      x,
      x,
      decoder_mask,
      cache_length=length if self.decode else None,
      deterministic=deterministic,
    )
    x = activations.tokens(drop(x) + targets)

    if encoded is not None:
      y = normalize(name="LayerNorm2")(x)
      y = attention("CrossAttn")(
        y, encoded, encoded_mask, deterministic=deterministic
      )
      x = activations.tokens(drop(y) + x)

    y = normalize(name="LayerNorm3")(x)
    y = vit.MlpBlock(
      mlp_dim=self.mlp_dim,
      dropout=self.dropout_rate,
      dtype_mm=self.dtype_mm,
      mlp_bias=self.use_bias,
      name="MLP",
    )(y, deterministic)
    return activations.tokens(x + y)


class Decoder(nn.Module):
  """Embeds tokens and predicts each from those before it and an image.

  Attributes:
    emb_dim: int, D.
    mlp_dim, num_heads, num_layers: ints.
    dropout_rate: float, of the embedded tokens and inside the blocks.
    output_vocab_size: int, V.
    zero_decoder_seq: bool, hides the tokens, so that only positions are left.
    dtype_mm: str, dtype of matrix products, but that of the logits.
  """

  emb_dim: int
  mlp_dim: int
  num_heads: int
  num_layers: int
  dropout_rate: float = 0.0
  output_vocab_size: int = 32000
  zero_decoder_seq: bool = False
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(
    self,
    encoded: Array | Mapping[str, Memory],
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
      encoded: [B, N, D], the image; or `Model.cross_memory` of it.
      targets: [B, T], the tokens to be predicted: those before them are read.
        With `decode` but not `prefill`, the tokens to be read themselves.
      pos_emb: [1, >= L, D].
      decoder_mask: bool, broadcast to [B, H, T, T].
      decode: bool, whether there is a cache.
      deterministic: bool, turns dropout off.
      max_decode_length: L of the cache, for the call that creates it; None is
        the T of that call.
      prefill: bool, reads a prompt into a cache: many tokens at once.

    Returns:
      [B, T, V].
    """
    decode = decode or prefill
    y = targets.astype(jnp.int32)
    if prefill or not decode:
      y = shift_right(y)
    y = nn.Embed(
      self.output_vocab_size,
      self.emb_dim,
      embedding_init=nn.initializers.normal(stddev=1.0),
      name="EmbedTargets",
    )(y)
    if self.zero_decoder_seq:
      y = jnp.zeros_like(y)
    y = common.AddPositionEmbs(decode=decode, name="PosEmbedTargets")(
      y, pos_emb
    )
    y = jnp.asarray(y, self.dtype_mm)
    y = nn.Dropout(self.dropout_rate)(y, deterministic)
    for i in range(self.num_layers):
      name = f"EncDecBlock{i}"
      y = EncoderDecoderBlock(
        self.mlp_dim,
        self.num_heads,
        self.dropout_rate,
        decode,
        max_decode_length,
        self.dtype_mm,
        name=name,
      )(
        y,
        encoded[name] if isinstance(encoded, Mapping) else encoded,
        decoder_mask,
        deterministic,
      )
    y = nn.LayerNorm(name="LayerNorm")(y)
    return nn.Dense(
      self.output_vocab_size,
      kernel_init=nn.initializers.zeros,
      name="LogitsDense",
    )(y)


class WithDecoder(nn.Module):
  """Base of the models that decode texts.

  Subclasses have the field `seq_len` and the attributes `decoder`, called as
  `Decoder` is, and `pos_emb_for_decoder`.
  """

  def decode(
    self,
    encoded: Array | Mapping[str, Memory] | None,
    targets: Array,
    decode: bool = False,
    train: bool = False,
    max_decode_length: int | None = None,
    prefill: bool = False,
  ) -> Array:
    """Computes the logits of tokens.

    Args:
      encoded: [B, N, D], from `encode`; or `cross_memory` of it; None for
        decoders that can do without.
      targets: [B, T] int, the tokens to be predicted, each from those before
        it. With `decode`, the next tokens, from each of which the one after it
        is predicted; with `prefill`, to be predicted again, but see there.
      decode: bool, uses the collection `cache`, which must be mutable. The
        first call creates it and has no meaning; `targets` are of its length.
      train: bool, turns on what the decoder does in training, such as dropout.
      max_decode_length: L of the cache to be created, if not that of `targets`.
      prefill: bool, reads all but the last of `targets` into the cache at once,
        after a 0; they must be at its beginning. Then it holds T tokens.

    Returns:
      [B, T, V].

    Raises:
      ConfigError: the text is longer than `seq_len`.
      ValueError: there is no cache to be filled.
    """
    length = max(targets.shape[1], max_decode_length or 0)
    if length > self.seq_len:
      raise lookup.ConfigError(
        f"config.model.seq_len={self.seq_len} is the length of the longest "
        f"text, but one has {length} tokens."
      )
    if prefill and "cache" not in self.variables:
      raise ValueError(
        "prefill=True fills a cache: create it with decode=True first."
      )
    mask = None
    if not (decode or prefill):
      mask = nn.make_causal_mask(targets, dtype=bool)
    return self.decoder(
      encoded,
      targets,
      self.pos_emb_for_decoder,
      decoder_mask=mask,
      decode=decode,
      deterministic=not train,
      max_decode_length=max_decode_length,
      prefill=prefill,
    )


class Model(WithDecoder):
  """Encoder of images and decoder of sequences.

  Attributes:
    patches: mapping with `size`, (height, width) of a patch in pixels.
    num_heads, num_layers, mlp_dim: ints, of encoder and decoder.
    dropout_rate: float.
    emb_dim: int, D.
    vocab_size: int, V.
    seq_len: int, length of the longest text.
    input_size: (height, width) of the images in pixels.
    posemb_type: str, positions of both: "learn" or "sincos2d".
    zero_decoder_seq: bool, whether the decoder does not see the tokens.
    dtype_mm: str, dtype of all before the logits; parameters are float32.
  """

  patches: Any
  num_heads: int = 8
  num_layers: int = 6
  mlp_dim: int = 2048
  dropout_rate: float = 0.0
  emb_dim: int = 512
  vocab_size: int = 32000
  seq_len: int = 256
  input_size: Sequence[int] = (256, 256)
  posemb_type: str = "sincos2d"
  zero_decoder_seq: bool = False
  dtype_mm: str = "float32"

  def __post_init__(self):
    # So that equal models are equal to `jax.jit`, which hashes them.
    object.__setattr__(self, "patches", patches_of(self.patches))
    object.__setattr__(self, "input_size", tuple(self.input_size))
    super().__post_init__()

  def setup(self):
    fields.check_dtype(self.dtype_mm, "model.dtype_mm")
    grid = positions.image_grid(self.input_size, self.patches.size).stored
    self.grid = grid
    self.pos_emb_for_encoder = vit.get_posemb(
      self, self.posemb_type, grid, self.emb_dim, "pos_embedding_encoder"
    )
    self.pos_emb_for_decoder = vit.get_posemb(
      self,
      self.posemb_type,
      (1, self.seq_len),
      self.emb_dim,
      "pos_embedding_decoder",
    )
    self.encoder = vit.Encoder(
      depth=self.num_layers,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout=self.dropout_rate,
      dtype_mm=self.dtype_mm,
    )
    self.decoder = Decoder(
      emb_dim=self.emb_dim,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      num_layers=self.num_layers,
      dropout_rate=self.dropout_rate,
      output_vocab_size=self.vocab_size,
      zero_decoder_seq=self.zero_decoder_seq,
      dtype_mm=self.dtype_mm,
    )
    self.embedding = nn.Conv(
      self.emb_dim,
      self.patches.size,
      strides=self.patches.size,
      padding="VALID",
      dtype=self.dtype_mm,
      name="EmbedPatches",
    )

  def encode(self, image: Array, train: bool = False) -> Array:
    """Encodes images.

    Args:
      image: [B, H, W, 3], normally in [-1, 1].
      train: bool, turns dropout on.

    Returns:
      [B, N, D].

    Raises:
      ConfigError: the images have another number of patches than the model.
    """
    x = activations.patches(self.embedding(image))
    if x.shape[1:3] != self.grid:
      raise lookup.ConfigError(
        f"config.model.input_size={self.input_size}, but the images have "
        f"{image.shape[1]}x{image.shape[2]} pixels. Write their size there, or "
        "resize them in the preprocessing."
      )
    x = x.reshape(x.shape[0], -1, self.emb_dim)
    x = x + self.pos_emb_for_encoder.astype(x.dtype)
    return self.encoder(x, deterministic=not train)[0]

  def cross_memory(self, encoded: Array) -> dict[str, Memory]:
    """Computes keys and values of images, once for all tokens of their texts.

    Args:
      encoded: [B, N, D], from `encode`.

    Returns:
      Dict by the name of the block, in place of `encoded` for `decode`.
    """
    blocks = self.variables["params"]["decoder"]
    names = [f"EncDecBlock{i}" for i in range(self.num_layers)]
    return {
      name: cached_attention.memory(
        blocks[name]["CrossAttn"], encoded, self.dtype_mm
      )
      for name in names
    }

  def __call__(
    self,
    image: Array,
    text: Array,
    *,
    decode: bool = False,
    train: bool = False,
  ) -> Array:
    """Computes the logits of the tokens of a text.

    Args:
      image: [B, H, W, 3], normally in [-1, 1].
      text: [B, T] int, see `decode`.
      decode: bool, see `decode`.
      train: bool, turns dropout on.

    Returns:
      [B, T, V].
    """
    encoded = self.encode(image, train=train)
    return self.decode(encoded, text, decode=decode, train=train)
