"""JetFormer: one transformer that predicts both texts and images.

Reference: Tschannen, Pinto, Kolesnikov 2024, https://arxiv.org/abs/2411.19722

A sequence is a text and an image, in either order, and each token is predicted
from those before it: words by probabilities, vectors of the image by a mixture
of Gaussians. These vectors are what an invertible model (`proj.jet.jet`) makes
of the pixels (`proj.jetformer.patch_pca`).

Shapes: `B` batch, `T` tokens of the text, `I` vectors of the image, `d` their
size, `R` copies of the text, `S` = R T + I + 1 or, with `boi_id`, + 2, less one
if shifted; `D` width, `V` vocabulary, `K` components of a mixture.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import activations, distributions, fields
from big_vision.models.ppp import gemma
from big_vision.models.proj.jetformer import sequences
from big_vision.models.proj.jetformer.backbone import GemmaBackbone, GemmaBlock
from big_vision.models.proj.jetformer.cache import Cached, right_align
from big_vision.models.proj.jetformer.checkpoints import load
from big_vision.types import Array, Key

__all__ = ["GemmaBackbone", "GemmaBlock", "Model", "load", "right_align"]

Pdf = distributions.MultivariateNormalTri | distributions.MixtureSameFamily
_IDS = ("bos_id", "boi_id", "nolabel_id")


class Model(Cached):
  """A decoder of texts and images.

  Attributes:
    width, depth, mlp_dim, num_heads, num_kv_heads, head_dim, norm_eps, dropout,
      dropout_bdims, cache_dtype, embed_dtype, scan, remat_policy: see
      `GemmaBackbone`.
    vocab_size: int, V.
    bos_id: int, token before a text.
    boi_id: int, token before an image. None is `bos_id`, and none at all
      between the two.
    nolabel_id: int, token in place of what is dropped; None if nothing is.
    num_vocab_repeats: int, R, copies of a text, each with other embeddings.
    causal_mask_on_prefix: bool, whether tokens of what comes first attend to
      those before them only.
    untie_output_vocab: bool, whether words are predicted with a matrix other
      than their embeddings.
    num_mixtures: int, K.
    multivariate: bool, predicts one Gaussian with all its correlations.
    out_dim: int, d of the vectors that are predicted.
    scale_tol: float, the least scale of a Gaussian.
    head_dtype: str, dtype of what is predicted about images.
    per_modality_final_norm: bool, normalizes for texts and images separately.
    drop_labels_probability: float, see `get_drop_labels`.
    dtype_mm: str, in place of `embed_dtype`, as other models call it.
  """

  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  norm_eps: float = 1e-6
  dropout: float = 0.0
  dropout_bdims: Sequence[int] = ()
  cache_dtype: str | None = None
  embed_dtype: str = "float32"
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  vocab_size: int = 1000
  bos_id: int | None = None
  boi_id: int | None = None
  nolabel_id: int | None = None
  num_vocab_repeats: int = 1
  causal_mask_on_prefix: bool = True
  untie_output_vocab: bool = False
  num_mixtures: int = 4
  multivariate: bool = False
  out_dim: int = 32
  scale_tol: float = 1e-6
  head_dtype: str = "float32"
  per_modality_final_norm: bool = False
  drop_labels_probability: float = 0.0
  dtype_mm: str | None = None

  @property
  def num_logits(self) -> int:
    """How many numbers describe the distribution of a vector."""
    if not self.multivariate:
      return self.num_mixtures * (1 + 2 * self.out_dim)
    if self.num_mixtures != 1:
      raise lookup.ConfigError(
        f"config.model.num_mixtures = {self.num_mixtures}: with multivariate = "
        "True there is one Gaussian. Use 1."
      )
    return self.out_dim**2 + self.out_dim

  def setup(self):
    self._check()
    self.text_emb = nn.Embed(
      self.vocab_size * self.num_vocab_repeats,
      self.width,
      embedding_init=nn.initializers.normal(stddev=1.0),
      name="EmbedText",
    )
    if self.untie_output_vocab:
      self.text_head = nn.Dense(
        self.vocab_size,
        kernel_init=nn.initializers.normal(stddev=1.0),
        name="LogitsText",
      )
    self.img_emb = nn.Dense(self.width, name="EmbedImage")
    self.img_head = nn.Dense(
      self.num_logits,
      kernel_init=nn.initializers.zeros,
      dtype=self.head_dtype,
      name="LogitsImage",
    )
    if self.per_modality_final_norm:
      self.text_norm = gemma.RMSNorm(self.norm_eps, name="TextNorm")
      self.img_norm = gemma.RMSNorm(self.norm_eps, name="ImageNorm")
    self.decoder = GemmaBackbone(
      width=self.width,
      depth=self.depth,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      num_kv_heads=self.num_kv_heads,
      head_dim=self.head_dim,
      out_dim=self.out_dim,
      norm_eps=self.norm_eps,
      dropout=self.dropout,
      dropout_bdims=self.dropout_bdims,
      cache_dtype=self.cache_dtype,
      embed_dtype=self.dtype_mm or self.embed_dtype,
      head_dtype=self.head_dtype,
      scan=self.scan,
      remat_policy=self.remat_policy,
    )

  def _check(self):
    """Checks fields that configs set."""
    fields.check_dtype(self.head_dtype, "model.head_dtype")
    if self.num_vocab_repeats < 1:
      raise lookup.ConfigError(
        f"config.model.num_vocab_repeats = {self.num_vocab_repeats}: use 1, "
        "or more."
      )
    for name in _IDS:
      token = getattr(self, name)
      if token is not None and not 0 <= token < self.vocab_size:
        raise lookup.ConfigError(
          f"config.model.{name} = {token} is not a token: they are 0 to "
          f"vocab_size - 1 = {self.vocab_size - 1}."
        )

  def _token(self, name):
    """Returns a special token that is needed."""
    token = getattr(self, name)
    if token is None:
      raise lookup.ConfigError(
        f"config.model.{name} is not set: give it the number of a token, less "
        f"than config.model.vocab_size = {self.vocab_size}."
      )
    return token

  def lookup_token(self, id: int, batch_size: int) -> Array:
    """Embeds one token for all examples.

    Args:
      id: the token.
      batch_size: B.

    Returns:
      [B, 1, D].
    """
    embedded = self.text_emb(jnp.full((1, 1), id, jnp.int32))
    return jnp.tile(embedded, (batch_size, 1, 1))

  def embed_image_and_text(
    self,
    text_tokens: Array,
    image_tokens: Array,
    *,
    text_first_mask: Array,
    text_input_mask: Array | None = None,
    drop_prefix: Array | None = None,
    shift: bool = True,
  ) -> tuple[Array, Array, Array]:
    """Embeds sequences.

    Args:
      text_tokens: int [B, T].
      image_tokens: [B, I, d].
      text_first_mask: bool [B], where the text comes before the image.
      text_input_mask: bool [B, T], which tokens are not padding; None is all.
      drop_prefix: bool [B], of which examples `nolabel_id` replaces all of what
        comes first; None is none.
      shift: bool, leaves the last token out, from which nothing is predicted.

    Returns:
      (embeddings [B, S, D]; bool [B, S, S], which tokens one attends to; bool
      [B, S], which are not padding).

    Raises:
      ConfigError: a special token is needed that is None.
    """
    batch = len(text_tokens)
    text_first = text_first_mask.astype(bool)
    text_mask = jnp.ones(text_tokens.shape, bool)
    if text_input_mask is not None:
      text_mask = text_input_mask.astype(bool)
    image = self.img_emb(image_tokens)
    if drop_prefix is not None:
      nolabel = self._token("nolabel_id")
      drop_text = (drop_prefix.astype(bool) & text_first)[:, None]
      drop_image = (drop_prefix.astype(bool) & ~text_first)[:, None, None]
      text_tokens = jnp.where(drop_text, nolabel, text_tokens)
      text_mask |= drop_text
      image = jnp.where(drop_image, self.lookup_token(nolabel, batch), image)
    copies = range(self.num_vocab_repeats)
    tokens = [text_tokens + i * self.vocab_size for i in copies]
    text = self.text_emb(jnp.concatenate(tokens, axis=1))
    text_mask = jnp.tile(text_mask, (1, self.num_vocab_repeats))

    one = jnp.ones((batch, 1), bool)
    bos = self.lookup_token(self._token("bos_id"), batch)
    boi = boi_mask = None
    if self.boi_id is not None:
      boi, boi_mask = self.lookup_token(self.boi_id, batch), one
    image_mask = jnp.ones(image.shape[:2], bool)
    x = sequences.join(text_first, bos, boi, text, image)
    input_mask = sequences.join(
      text_first, one, boi_mask, text_mask, image_mask
    )
    if shift:
      x, input_mask = x[:, :-1], input_mask[:, :-1]
    prefix = None
    if not self.causal_mask_on_prefix:
      prefix = jnp.where(text_first, text.shape[1], image.shape[1])
    attn_mask = sequences.attention_mask(input_mask, prefix)
    return activations.tokens(x), attn_mask, input_mask

  def __call__(
    self,
    text_tokens: Array,
    image_tokens: Array,
    text_first_mask: Array,
    *,
    text_input_mask: Array | None = None,
    drop_prefix: Array | None = None,
    train: bool = False,
  ) -> tuple[Array, Array, distributions.Categorical, Pdf, dict[str, Array]]:
    """Predicts each token from those before it.

    Args:
      text_tokens, image_tokens, text_first_mask, text_input_mask, drop_prefix:
        see `embed_image_and_text`.
      train: bool, turns dropout on.

    Returns:
      (logits of words [B, T, R V], or [B, T, V] with `untie_output_vocab`; what
      describes the distributions of vectors [B, I, `num_logits`]; the
      distributions of words [B, T]; those of vectors [B, I]; dict of named
      intermediates).
    """
    x, attn_mask, input_mask = self.embed_image_and_text(
      text_tokens,
      image_tokens,
      text_first_mask=text_first_mask,
      text_input_mask=text_input_mask,
      drop_prefix=drop_prefix,
    )
    normed, out = self.decoder(
      x,
      mask=attn_mask,
      positions=jnp.cumsum(input_mask, axis=1) - 1,
      deterministic=not train,
    )
    text, image = self.split_image_and_text_prelogits(
      self.pre_logits(normed, out),
      text_first_mask,
      text_tokens.shape[1],
      image_tokens.shape[1],
    )
    text_logits, image_logits = self.text_logits(text), self.img_logits(image)
    pmf, pdf = self.get_pmf(text_logits), self.get_pdf(image_logits)
    return text_logits, image_logits, pmf, pdf, out

  def pre_logits(self, normed: Array, out: dict[str, Any]) -> Array:
    """Chooses what the heads read, see `Cached`."""
    return out["encoded"] if self.per_modality_final_norm else normed

  def split_image_and_text_prelogits(
    self,
    prelogits: Array,
    text_first_mask: Array,
    text_len: int,
    image_len: int,
  ) -> tuple[Array, Array]:
    """Separates what words and what vectors are predicted from.

    Args:
      prelogits: [B, S, D], of a shifted sequence.
      text_first_mask: bool [B].
      text_len: T.
      image_len: I.

    Returns:
      ([B, T, D], [B, I, D]).
    """
    between = int(self.boi_id is not None)
    image_at = self.num_vocab_repeats * text_len + between
    text_at = image_len + between
    first = text_first_mask.astype(bool)[:, None, None]
    cut = lambda begin, num: prelogits[:, begin : begin + num]
    text = jnp.where(first, cut(0, text_len), cut(text_at, text_len))
    image = jnp.where(first, cut(image_at, image_len), cut(0, image_len))
    return text, image

  def text_logits(self, pre_logits: Array) -> Array:
    """Computes logits of words.

    Args:
      pre_logits: [B, T, D].

    Returns:
      [B, T, R V], or [B, T, V] with `untie_output_vocab`.
    """
    if self.per_modality_final_norm:
      pre_logits = self.text_norm(pre_logits)
    if self.untie_output_vocab:
      return self.text_head(pre_logits)
    return self.text_emb.attend(pre_logits)

  def img_logits(self, pre_logits: Array) -> Array:
    """Computes what describes the distributions of vectors.

    Args:
      pre_logits: [B, I, D].

    Returns:
      [B, I, `num_logits`] of `head_dtype`.
    """
    if self.per_modality_final_norm:
      pre_logits = self.img_norm(pre_logits)
    return self.img_head(pre_logits)

  @staticmethod
  def get_pmf(logits: Array) -> distributions.Categorical:
    """Makes the distributions of words from their logits [B, T, V]."""
    return distributions.Categorical(logits=logits)

  def get_pdf(
    self,
    logits: Array,
    temperature_scales: float | None = None,
    temperature_probs: float | None = None,
  ) -> Pdf:
    """Makes the distributions of vectors.

    Args:
      logits: [B, I, `num_logits`].
      temperature_scales: factor of the scales; None is 1.
      temperature_probs: factor of the logits of components; None is 1.

    Returns:
      The distributions [B, I], of vectors [d].
    """
    if self.multivariate:
      return distributions.full_normal(
        logits, self.out_dim, self.scale_tol, temperature_scales
      )
    return distributions.gaussian_mixture(
      logits,
      self.num_mixtures,
      self.out_dim,
      self.scale_tol,
      temperature_scales,
      temperature_probs,
    )

  def get_drop_labels(self, rng: Key, batch_size: int) -> Array | None:
    """Draws the examples of which what comes first is dropped.

    Args:
      rng: random key.
      batch_size: B.

    Returns:
      bool [B], True with `drop_labels_probability`; None if that is 0.
    """
    if not self.drop_labels_probability:
      return None
    draws = jax.random.uniform(rng, (batch_size,))
    return draws <= self.drop_labels_probability
