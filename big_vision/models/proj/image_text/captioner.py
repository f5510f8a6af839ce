"""Text decoder that attends to an encoded image: for captions, boxes, or both.

It predicts tokens one after the other, or all in parallel from mask tokens. The
preprocessing decides on the meaning of tokens; those before the first predicted
one are given, like a prompt. Its blocks are those of CapPa, see `cappa.cappa`.

References:
  Tschannen et al. 2023, CapPa (parallel prediction),
    https://arxiv.org/abs/2306.07915
  Wan et al. 2024, LocCa (boxes as tokens), https://arxiv.org/abs/2403.19596
  Tschannen et al. 2025, SigLIP 2 (section 2.2),
  https://arxiv.org/abs/2502.14786

Shapes: `B` batch, `L` length of the text, `T` image tokens, `E` their width, `V`
vocabulary. The names of the modules are the names in checkpoints.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision.models import fields, vit
from big_vision.models.proj.uvim.vtt import EncoderDecoderBlock, shift_right
from big_vision.types import Array


class _Model(nn.Module):
  """Decoder; `Model` lists the fields."""

  vocab_size: int
  width: int = 768
  depth: int = 6
  mlp_dim: int | None = None
  num_heads: int = 12
  dropout: float = 0.0
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(
    self,
    encoded: Array,
    tokens: Array,
    mask: Array,
    parallel: Array | None = None,
    image_mask: Array | None = None,
    *,
    train: bool = False,
  ) -> Array:
    """Computes the logits of every token, each from the tokens before it.

    Args:
      encoded: [B, T, E] float, the image, not pooled.
      tokens: [B, L] int in [0, V). L is always that of the initialization.
      mask: [B, L] bool or number: nonzero where a token is to be predicted.
      parallel: [B] bool, examples that are predicted in parallel: their first
        token with a mask and all tokens after it are hidden. None means no
        example.
      image_mask: [B, T] bool, which tokens of the image exist; None means all.
      train: bool, turns dropout on.

    Returns:
      [B, L, V] float32.
    """
    fields.check_dtype(self.dtype_mm, "captioning.dtype_mm")
    fields.check_heads(self.num_heads, self.width, "captioning")
    num, length = tokens.shape
    if parallel is None:
      parallel = jnp.zeros([num], bool)
    x = nn.Embed(self.vocab_size + 2, self.width, name="embedding")(
      self._inputs(tokens, mask, parallel)
    )
    x = x + vit.get_posemb(
      self, "learn", length, self.width, "pos_embedding", x.dtype
    )
    x = nn.Dropout(rate=self.dropout)(x, not train)
    causal = jnp.tril(jnp.ones([1, length, length], bool))
    attend_to = causal | parallel[:, None, None]  # [B, L, L]
    exists = None if image_mask is None else image_mask[:, None, None]
    for i in range(self.depth):
      x = EncoderDecoderBlock(
        mlp_dim=self.mlp_dim or 4 * self.width,
        num_heads=self.num_heads,
        dropout_rate=self.dropout,
        dtype_mm=self.dtype_mm,
        name=f"EncDecBlock{i}",
      )(x, encoded, attend_to[:, None], not train, exists)
    x = nn.LayerNorm(name="norm")(x)
    logits = nn.Dense(self.vocab_size, dtype=self.dtype_mm, name="logits")(x)
    return jnp.asarray(logits, jnp.float32)

  def _inputs(self, tokens, mask, parallel):
    """Makes the ids [B, L] that the decoder reads; `V` and up are special."""
    begin, hidden = self.vocab_size, self.vocab_size + 1
    # Padding after the first predicted token is hidden too: otherwise it would
    # tell the length of the text.
    hide = predicted(mask) & parallel[:, None]
    # The token for the beginning stays if something is given after it.
    hide = jnp.concatenate([hide[:, :1], hide[:, :-1]], axis=1)
    return jnp.where(hide, hidden, shift_right(tokens, constant_values=begin))


def predicted(mask: Array) -> Array:
  """Marks all tokens from the first one on that is to be predicted.

  Args:
    mask: [B, L] bool or number, nonzero where a token is to be predicted.

  Returns:
    [B, L] bool.
  """
  return jnp.cumsum(mask != 0, axis=1) > 0


def image_mask(image: Any) -> Array | None:
  """Marks the tokens of images that exist.

  Args:
    image: input of the image tower; of NaFlex it is (patches, their type, rows,
      columns), each with a batch axis.

  Returns:
    [B, T] bool; None if there is no padding.
  """
  return image[1] == 1 if isinstance(image, (tuple, list)) else None


def complete(
  logits_fn: Callable[[Array], Array], tokens: Array, mask: Array
) -> Array:
  """Continues given tokens, always with the most probable next token.

  Args:
    logits_fn: `tokens [B, L] -> logits [B, L, V]`, where the logits at a
      position depend on the tokens before it.
    tokens: [B, L] int.
    mask: [B, L], nonzero where a token is to be predicted; see `predicted`.

  Returns:
    [B, L] int like `tokens`, where given tokens are unchanged. It does not stop
    at an end-of-text token; the tokens after that have no meaning.
  """
  new = predicted(mask)

  def step(i, tokens):
    best = jnp.argmax(logits_fn(tokens)[:, i], axis=-1).astype(tokens.dtype)
    return tokens.at[:, i].set(jnp.where(new[:, i], best, tokens[:, i]))

  start = jnp.where(new, 0, tokens)
  return jax.lax.fori_loop(0, tokens.shape[1], step, start)


def Model(vocab_size: int, *, variant: str | None = None, **kw: Any) -> _Model:
  """Makes a decoder of a named size.

  Args:
    vocab_size: int, V.
    variant: str, a size of `vit.decode_variant`, for example "B". SigLIP 2 uses
      the size of the text tower with half its depth.
    **kw: overrides of the variant, and
      width, depth, mlp_dim, num_heads: default 768, 6, 4 * width, 12.
      dropout: rate inside the blocks and of the embedded tokens.
      dtype_mm: dtype of matrix products.

  Returns:
    The linen module.

  Raises:
    KeyError: unknown variant.
    ValueError: the variant has a patch size.
    TypeError: unknown keyword.
  """
  size = vit.decode_size(variant, "captioning.variant", "which text does not")
  return _Model(vocab_size, **{**size, **kw})
