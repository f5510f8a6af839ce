"""GIVT: a transformer on vectors, which predicts their densities.

Reference: Tschannen, Eastwood, Mentzer 2023, https://arxiv.org/abs/2312.02116

A sequence of real-valued tokens, the code of an image, is predicted from a label or
from another image: each token from those before it ("ar"), or those that are hidden
from all others ("masked"), by a mixture of Gaussians. See `decode.py` and
`parallel_decode.py` for how to sample.

Shapes: `B` batch, `N` patches of an image, `L` length of a sequence, `S` tokens of a
call, `C` channels of a token, `E` width, `K` components of a mixture. The names of
the modules are the names in checkpoints, and random keys derive from them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import (
  activations,
  cached_attention,
  distributions,
  fields,
  positions,
  vit,
)
from big_vision.models.cached_attention import Memory
from big_vision.models.proj.givt import decoder, densities, masks
from big_vision.models.proj.givt.decoder import Decoder, EncoderDecoderBlock
from big_vision.models.proj.givt.givt_checkpoints import load
from big_vision.models.proj.givt.masks import apply_mask_schedule
from big_vision.types import Array, Key

__all__ = [
  "Decoder",
  "EncoderDecoderBlock",
  "Model",
  "apply_mask_schedule",
  "load",
]

Pdf = distributions.MultivariateNormalTri | distributions.MixtureSameFamily
_random_mask_with_ratios = masks.random_mask
_STYLES = ("ar", "masked")
_MASK_STYLES = ("replace", "concat")
_ALWAYS = 0.999  # From this probability on, no example has a label.


class Model(nn.Module):
  """Predicts sequences of vectors.

  Attributes:
    num_heads, mlp_dim, emb_dim: ints, of encoder and decoder; the last is E.
    num_layers: int, of the encoder of images; 0 is none.
    num_decoder_layers: int; 0 is as many as the encoder has.
    enc_dropout_rate, dec_dropout_rate: floats.
    num_labels: int; with 1 or None there are no labels.
    seq_len: int, L.
    patches: (height, width) of a patch in pixels.
    input_size: (height, width) of the images in pixels.
    posemb_type: str, "learn".
    zero_decoder_seq: bool, not used.
    style: str, "ar" or "masked".
    zero_embedding_init: bool, starts with labels that are zeros.
    num_mixtures: int, K.
    multivariate: bool, predicts one Gaussian with all its correlations.
    out_dim: int, C.
    scale_tol: float, the least scale of a Gaussian.
    mask_schedule_train: str, see `apply_mask_schedule`.
    min_masking_rate_training: float. Training draws the argument of the schedule
      below one minus this.
    mask_style: str, whether an embedding stands for a hidden token ("replace"), or
      half of the channels say whether it is hidden ("concat").
    drop_labels_probability: float, part of the examples without their label in
      training. With 1 none has it, not even in evaluation.
    fix_square_plus: bool, maps to scales by `distributions.square_plus`; otherwise
      by `densities.wide_square_plus`.
    per_channel_mixtures: bool, predicts channels independently.
    scan: bool, compiles one block of each and stacks its parameters.
    remat_policy: str, as for `vit.Model`.
    dtype_mm: str, dtype of all before the logits; parameters are float32.
  """

  num_heads: int = 8
  num_layers: int = 0
  num_decoder_layers: int = 6
  mlp_dim: int = 2048
  enc_dropout_rate: float = 0.0
  dec_dropout_rate: float = 0.0
  emb_dim: int = 512
  num_labels: int | None = 1000
  seq_len: int = 256
  patches: Sequence[int] = (16, 16)
  input_size: Sequence[int] = (256, 256)
  posemb_type: str = "learn"
  zero_decoder_seq: bool = False
  style: str = "ar"
  zero_embedding_init: bool = False
  num_mixtures: int = 4
  multivariate: bool = False
  out_dim: int = 32
  scale_tol: float = 1e-6
  mask_schedule_train: str = "cosine"
  min_masking_rate_training: float = 0.3
  mask_style: str = "replace"
  drop_labels_probability: float = 0.0
  fix_square_plus: bool = False
  per_channel_mixtures: bool = True
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  dtype_mm: str = "float32"

  def __post_init__(self):
    # So that equal models are equal to `jax.jit`, which hashes them.
    object.__setattr__(self, "patches", tuple(self.patches))
    object.__setattr__(self, "input_size", tuple(self.input_size))
    super().__post_init__()

  @property
  def has_encoder(self) -> bool:
    """Whether sequences are predicted from images."""
    return self.num_layers > 0

  @property
  def num_logits(self) -> int:
    """How many numbers describe the density of a token."""
    if self.multivariate:
      if self.num_mixtures != 1:
        raise lookup.ConfigError(
          f"config.model.num_mixtures = {self.num_mixtures}: with multivariate ="
          " True there is one Gaussian. Use 1."
        )
      return self.out_dim**2 + self.out_dim
    if self.per_channel_mixtures:
      return 3 * self.num_mixtures * self.out_dim
    return self.num_mixtures * (1 + 2 * self.out_dim)

  @property
  def special_labels(self) -> dict[str, int]:
    """Rows of the table of labels that are none, by what they stand for."""
    names = []
    if self.style == "masked":
      concat = self.mask_style == "concat"
      names = ["mask", "nomask", "replace"] if concat else ["mask"]
    if self.drop_labels_probability > 0:
      names.append("nolabel")
    return {name: self._num_rows + i for i, name in enumerate(names)}

  @property
  def _num_rows(self):
    """Counts labels; without any, the first row begins a sequence."""
    return self.num_labels or 1

  def setup(self):
    self._check()
    self.encoder = None
    if self.has_encoder:
      grid = positions.image_grid(self.input_size, self.patches).stored
      self.grid = grid
      self.pos_emb_for_encoder = vit.get_posemb(
        self, "learn", grid, self.emb_dim, "pos_embedding_encoder"
      )
      self.patch_emb = nn.Conv(
        self.emb_dim,
        self.patches,
        strides=self.patches,
        padding="VALID",
        dtype=self.dtype_mm,
        name="EmbedPatches",
      )
      self.encoder = vit.Encoder(
        depth=self.num_layers,
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        dropout=self.enc_dropout_rate,
        scan=self.scan,
        remat_policy=self.remat_policy,
        dtype_mm=self.dtype_mm,
      )
    init: Any = nn.initializers.normal(stddev=1.0)
    self.label_emb = nn.Embed(
      self._num_rows + len(self.special_labels),
      self.emb_dim,
      embedding_init=(
        nn.initializers.zeros if self.zero_embedding_init else init
      ),
      name="EmbedLabels",
    )
    self.target_emb = nn.Dense(
      self.emb_dim, dtype=self.dtype_mm, name="EmbedTargets"
    )
    self.decoder = Decoder(
      emb_dim=self.emb_dim,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      num_layers=self.num_decoder_layers or self.num_layers,
      out_dim=self.num_logits,
      # The label is beside all tokens, not in place of the last.
      seq_len=self.seq_len + (self.style == "masked"),
      style=self.style,
      dropout_rate=self.dec_dropout_rate,
      scan=self.scan,
      remat_policy=self.remat_policy,
      dtype_mm=self.dtype_mm,
    )

  def _check(self):
    """Checks fields that configs set."""
    fields.check_dtype(self.dtype_mm, "model.dtype_mm")
    for key, known in (
      ("style", _STYLES),
      ("mask_style", _MASK_STYLES),
      ("posemb_type", ("learn",)),
    ):
      if getattr(self, key) not in known:
        raise lookup.unknown(
          key, getattr(self, key), known, f"model.{key}", lookup.ConfigError
        )
    concat = self.style == "masked" and self.mask_style == "concat"
    if concat and self.emb_dim % 2:
      raise lookup.ConfigError(
        f"config.model.emb_dim = {self.emb_dim} is odd: with mask_style = "
        "'concat' half of the channels say what is hidden."
      )

  def encode(self, image: Array, train: bool = False) -> Array:
    """Encodes images.

    Args:
      image: [B, H, W, 3], normally in [-1, 1].
      train: bool, turns dropout on.

    Returns:
      [B, N, E].

    Raises:
      ConfigError: the model has no encoder, or one for images of another size.
    """
    if self.encoder is None:
      raise lookup.ConfigError(
        "There is an image to predict a sequence from, but config.model.num_layers"
        " = 0: the model has no encoder. Say how many layers it should have."
      )
    x = activations.patches(self.patch_emb(image))
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
    """Computes keys and values of images, once for all tokens of a sequence.

    Args:
      encoded: [B, N, E], from `encode`.

    Returns:
      Dict by the name of the block, in place of `encoded` for `decode`.
    """
    blocks = self.variables["params"]["decoder"]
    make = lambda p: cached_attention.memory(p, encoded, self.dtype_mm)
    names = [name for name in blocks if name.startswith(decoder.BLOCK)]
    if self.scan:
      # Examples stay on the first axis, so layers are on the second.
      make = jax.vmap(make, decoder.PARAMS_AXIS, 1)
    return {name: make(blocks[name]["CrossAttn"]) for name in names}

  def embed_labels(
    self, labels: Array | None = None, batch_size: int | None = None
  ) -> Array:
    """Embeds what a sequence begins with.

    Args:
      labels: int [B], or None for models without labels.
      batch_size: B, if there are no labels.

    Returns:
      [B, 1, E].

    Raises:
      ValueError: neither of them is given, or labels are needed.
    """
    if labels is None:
      if self._num_rows > 1:
        raise ValueError(
          f"The model has config.model.num_labels = {self.num_labels}: it needs "
          "the label of each example, or num_labels = None."
        )
      if batch_size is None:
        raise ValueError("Without labels, `batch_size` is needed.")
      labels = jnp.zeros((batch_size,), jnp.int32)
    return self.label_emb(labels)[:, None]

  def _special(self, name):
    """Embeds a label that is none, as [1, 1, E]."""
    return self.embed_labels(jnp.full((1,), self.special_labels[name]))

  def _dropped(self, labels, drop_labels):
    """Replaces labels, where there are any, by that of none."""
    if labels is None:
      return None
    if self.drop_labels_probability >= _ALWAYS:
      drop_labels = jnp.ones(labels.shape, bool)
    if drop_labels is None:
      return labels
    if "nolabel" not in self.special_labels:
      raise lookup.ConfigError(
        "config.model.drop_labels_probability = 0: the model always has labels. "
        "Train it with a positive probability to leave them out."
      )
    nolabel = self.special_labels["nolabel"]
    return jnp.where(drop_labels.astype(bool), nolabel, labels)

  def prefill(
    self,
    labels: Array | None = None,
    batch_size: int | None = None,
    encoded: Array | Mapping[str, Memory] | None = None,
    drop_labels: Array | None = None,
  ) -> Array:
    """Reads the label into the cache, which `decode` has created.

    Args:
      labels: int [B]; None for models without labels.
      batch_size: B, if there are no labels.
      encoded: as for `decode`.
      drop_labels: bool [B], where the label is left out; None is nowhere.

    Returns:
      [B, 1, `num_logits`], of the first token.
    """
    labels = self._dropped(labels, drop_labels)
    y = self.embed_labels(labels, batch_size)
    return self.decoder(y, encoded, decode=True)

  def decode(
    self,
    targets: Array,
    labels: Array | None = None,
    encoded: Array | Mapping[str, Memory] | None = None,
    decode: bool = False,
    train: bool = False,
    max_decode_length: int | None = None,
    input_mask: Array | None = None,
    drop_labels: Array | None = None,
    return_reps: bool = False,
  ) -> Array | tuple[Array, dict[str, Array]]:
    """Computes the logits of tokens.

    Args:
      targets: [B, S, C], the tokens to be predicted; S is L. With `decode`, the
        next tokens, from each of which the one after it is predicted.
      labels: int [B]; None for models without labels. With `decode`, those that
        `prefill` has read count.
      encoded: [B, N, E], from `encode`, or `cross_memory` of it; None for models
        without an encoder.
      decode: bool, uses the collection `cache`, which must be mutable. The first
        call creates it and has no meaning; `targets` are of its length.
      train: bool, turns dropout on.
      max_decode_length: length of the cache to be created, if not S.
      input_mask: bool [B, L], which tokens are hidden in masked models.
      drop_labels: bool [B], where the label is left out; None is nowhere.
      return_reps: bool, see `Decoder`.

    Returns:
      [B, S, `num_logits`]; or with the dict of `Decoder`.

    Raises:
      ValueError: what is given does not fit the style of the model.
    """
    if targets.shape[1] > self.seq_len:
      raise lookup.ConfigError(
        f"config.model.seq_len = {self.seq_len}, but a sequence has "
        f"{targets.shape[1]} tokens, as many as the code of an image "
        "(config.vae.model.code_len)."
      )
    y = self.target_emb(targets)
    if not decode:
      labels = self._dropped(labels, drop_labels)
      label = self.embed_labels(labels, len(targets)).astype(y.dtype)
    if self.style == "masked":
      if input_mask is None or decode or return_reps:
        raise ValueError(
          "A model of style 'masked' needs `input_mask`, and takes neither "
          "decode=True nor return_reps=True."
        )
      y = jnp.concatenate([label, self._hide(y, input_mask)], axis=1)
      return self.decoder(y, encoded, deterministic=not train)[:, 1:]
    if input_mask is not None:
      raise ValueError("`input_mask` needs config.model.style = 'masked'.")
    mask = None
    if not decode:
      y = jnp.concatenate([label, y[:, :-1]], axis=1)
      mask = nn.make_causal_mask(y[..., 0], dtype=bool)
    return self.decoder(
      y,
      encoded,
      mask,
      decode=decode,
      deterministic=not train,
      return_reps=return_reps,
      max_decode_length=max_decode_length,
    )

  def _hide(self, y, input_mask):
    """Hides embedded tokens [B, L, E]."""
    hidden = input_mask.astype(bool)[..., None]
    embedded = lambda name: self._special(name).astype(y.dtype)
    if self.mask_style == "replace":
      return jnp.where(hidden, embedded("mask"), y)
    m = jnp.where(hidden, embedded("mask"), embedded("nomask"))
    y = jnp.where(hidden, embedded("replace"), y)
    return jnp.concatenate([m[..., ::2], y[..., ::2]], axis=-1)

  def get_pdf(
    self,
    logits: Array,
    temperature_scales: Any = None,
    temperature_probs: Any = None,
  ) -> Pdf:
    """Makes the densities of tokens.

    Args:
      logits: [B, L, `num_logits`].
      temperature_scales: factor of the scales; None is 1.
      temperature_probs: factor of the logits of components; None is 1.

    Returns:
      The densities [B, L] of vectors [C]; with `per_channel_mixtures`, those
      [B, L, C] of numbers.
    """
    positive = (
      distributions.square_plus
      if self.fix_square_plus
      else densities.wide_square_plus
    )
    if self.multivariate:
      return distributions.full_normal(
        logits, self.out_dim, self.scale_tol, temperature_scales, positive
      )
    mixture = (
      densities.per_channel_mixture
      if self.per_channel_mixtures
      else distributions.gaussian_mixture
    )
    return mixture(
      logits,
      self.num_mixtures,
      self.out_dim,
      self.scale_tol,
      temperature_scales,
      temperature_probs,
      positive,
    )

  def __call__(
    self,
    sequence: Array,
    labels: Array | None = None,
    *,
    image: Array | None = None,
    decode: bool = False,
    input_mask: Array | None = None,
    drop_labels: Array | None = None,
    train: bool = False,
  ) -> tuple[Array, Pdf]:
    """Predicts the tokens of a sequence.

    Args:
      sequence: [B, L, C].
      labels, decode, input_mask, drop_labels: see `decode`.
      image: [B, H, W, 3], for models with an encoder.
      train: bool, turns dropout on.

    Returns:
      (logits [B, L, `num_logits`], their densities, see `get_pdf`).

    Raises:
      ConfigError: there is an image, but no encoder, or the other way round.
    """
    encoded = None
    if image is not None:
      encoded = self.encode(image, train)
    elif self.has_encoder:
      raise lookup.ConfigError(
        f"config.model.num_layers = {self.num_layers}: the model predicts from an "
        "image, of which there is none. Name it cond_image in config.input.pp, or "
        "use num_layers = 0."
      )
    logits = self.decode(
      sequence,
      labels,
      encoded,
      decode=decode,
      train=train,
      input_mask=input_mask,
      drop_labels=drop_labels,
    )
    return logits, self.get_pdf(logits)

  def get_input_mask_training(
    self, rng: Key, shape: Sequence[int]
  ) -> Array | None:
    """Draws which tokens are hidden in training.

    Args:
      rng: random key.
      shape: (B, L).

    Returns:
      bool [B, L]; None in models of style "ar".
    """
    if self.style == "ar":
      return None
    batch, length = shape
    most = 1 - self.min_masking_rate_training
    kept = jax.random.uniform(rng, (batch,), maxval=most)
    ratios = apply_mask_schedule(kept, self.mask_schedule_train)
    # The same key is safe: permutations split it.
    return masks.random_mask(rng, ratios, length)

  def get_input_mask_teacher_forced(self, shape: Sequence[int]) -> Array | None:
    """Makes the mask that hides nothing.

    Args:
      shape: (B, L).

    Returns:
      bool [B, L]; None in models of style "ar".
    """
    return None if self.style == "ar" else jnp.zeros(tuple(shape), bool)

  def get_drop_labels(self, rng: Key, batch_size: int) -> Array | None:
    """Draws the examples whose label is left out.

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
