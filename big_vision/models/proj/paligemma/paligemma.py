"""PaliGemma: a ViT and a language model that answers about its images.

References:
  Beyer et al. 2024, PaliGemma, https://arxiv.org/abs/2407.07726
  Steiner et al. 2024, PaliGemma 2, https://arxiv.org/abs/2412.03555

A sequence is an image, then a text: prefix, which attends to all of image and
prefix, and suffix, which is predicted token by token.

Shapes: `B` batch, `I` tokens of images, `T` of a text, `N` = I + T, `D` width of
the language model, `V` vocabulary, `C` size of the cache.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import fields
from big_vision.models.positions import ImageGrid
from big_vision.models.proj.paligemma.checkpoints import load
from big_vision.models.proj.paligemma.modules import (
  IMG_MODEL,
  LLM_MODEL,
  module_of,
)
from big_vision.models.proj.paligemma.slow_cache import SlowCache
from big_vision.types import Array, ConfigLike

__all__ = ["Model", "image_grid", "load", "make_attn_mask"]

Embedded = tuple[Array, Array, Array]


def make_attn_mask(input_mask: Array, mask_ar: Array) -> Array:
  """Says which tokens one attends to.

  Args:
    input_mask: bool [B, N], which tokens are not padding.
    mask_ar: int [B, N]: 1 starts a block, which those before it do not attend to;
      0 continues it. All 1 is causal; zeros are a prefix that sees all of itself.

  Returns:
    bool [B, N, N], of queries and keys.
  """
  block = jnp.cumsum(mask_ar, axis=1)
  mask = block[:, None, :] <= block[:, :, None]
  return mask & input_mask[:, None, :] & input_mask[:, :, None]


class Model(SlowCache):
  """An image model `img` and a language model `llm`.

  Attributes:
    img_model: str, module below `big_vision.models`.
    img: mapping, its arguments; `num_classes` is D unless it is given.
    llm_model: str, module of the language model.
    llm: mapping, its arguments.
    dtype_mm: str, dtype of the computation of both, unless their arguments have
      their own; None leaves it to them.
  """

  img_model: str = IMG_MODEL
  img: Mapping[str, Any] | None = None
  llm_model: str = LLM_MODEL
  llm: Mapping[str, Any] | None = None
  dtype_mm: str | None = None

  def setup(self):
    make = lambda part, name, args: fields.with_dtype(
      lambda **kw: module_of(part, name).Model(**kw, name=part),
      args,
      self.dtype_mm,
      f"model.{part}_model",
      name,
    )
    self._llm = make("llm", self.llm_model, dict(self.llm or {}))
    img = {"num_classes": self._llm.embdim, **(self.img or {})}
    self._img = make("img", self.img_model, img)

  def embed_image(
    self, image: Array, train: bool = False
  ) -> tuple[Array, dict[str, Any]]:
    """Embeds images.

    Args:
      image: [B, H, W, 3], normally in [-1, 1]; or [B, F, H, W, 3], several.
      train: bool, turns dropout on.

    Returns:
      ([B, I, D], dict of named intermediates).
    """
    frames = image.shape[1:-3]
    zimg, more = self._img(image.reshape(-1, *image.shape[-3:]), train=train)
    if frames:
      zimg = zimg.reshape(len(image), -1, zimg.shape[-1])
    out = {"img/zimg": zimg} | {f"img/{k}": v for k, v in more.items()}
    return zimg, out

  def embed_text(
    self, tokens: Array, train: bool = False
  ) -> tuple[Array, dict[str, Any]]:
    """Embeds texts.

    Args:
      tokens: int [B, T].
      train: bool, turns dropout on.

    Returns:
      ([B, T, D], dict of named intermediates).
    """
    ztxt = self._llm.embed_tokens(tokens, train=train)
    return ztxt, {"llm/ztxt": ztxt}

  def embed_image_and_text(
    self,
    image: Array,
    text: Array,
    *,
    input_mask: Array | None = None,
    mask_ar: Array | None = None,
    train: bool = False,
  ) -> tuple[Embedded, dict[str, Any]]:
    """Embeds sequences.

    Args:
      image: see `embed_image`.
      text: int [B, T].
      input_mask: bool [B, T], which tokens are not padding; None is all.
      mask_ar: int [B, T], see `make_attn_mask`; None is all 1.
      train: bool, turns dropout on.

    Returns:
      ((embeddings [B, N, D], input_mask [B, N], mask_ar [B, N]), dict of named
      intermediates).

    Raises:
      ConfigError: images are not embedded with the width of texts.
    """
    zimg, out_img = self.embed_image(image, train=train)
    ztxt, out_txt = self.embed_text(text, train=train)
    if input_mask is None:
      input_mask = jnp.ones(text.shape, bool)
    if mask_ar is None:
      mask_ar = jnp.ones(text.shape, jnp.int32)
    if zimg.shape[-1] != ztxt.shape[-1]:
      raise lookup.ConfigError(
        f"config.model.img.num_classes = {zimg.shape[-1]} is not the width of "
        f"the language model, {ztxt.shape[-1]}: leave it out."
      )
    first = ((0, 0), (zimg.shape[1], 0))
    x = jnp.concatenate([zimg, ztxt.astype(zimg.dtype)], axis=1)
    input_mask = jnp.pad(input_mask, first, constant_values=True)
    mask_ar = jnp.pad(mask_ar, first)
    return (x, input_mask, mask_ar), {**out_img, **out_txt}

  def __call__(
    self,
    image: Array,
    text: Array,
    mask_ar: Array,
    train: bool = False,
    segments: tuple[Array, Array, Array] | None = None,
  ) -> tuple[Array, dict[str, Any]]:
    """Computes logits of texts.

    Args:
      image: see `embed_image`.
      text: int [B, T]; padding is not masked, it has to come last.
      mask_ar: int [B, T], see `make_attn_mask`.
      train: bool, turns dropout on.
      segments: of sequences that several examples share: to which each image
        belongs [B, F], to which each token [B, T], and the position of each token
        in its text [B, T], see `pipeline.packing`. None is one example each.

    Returns:
      (logits [B, T, V], of the token after each; dict of named intermediates).
    """
    if segments is not None:
      mask_ar = _of_own_text(mask_ar, segments[2])
    (x, input_mask, mask_ar), out = self.embed_image_and_text(
      image, text, mask_ar=mask_ar, train=train
    )
    attn_mask = make_attn_mask(input_mask, mask_ar)
    kw = {}
    if segments is not None:
      num = x.shape[1] - text.shape[1]
      where, kw["positions"] = _of_packs(*segments, num)
      attn_mask &= where
    out["attn_mask"] = attn_mask
    _, out_llm = self._llm(x, mask=attn_mask, train=train, **kw)
    out |= {f"llm/{k}": v for k, v in out_llm.items()}
    pre_logits = out_llm["pre_logits"][:, -text.shape[1] :]
    logits = self._llm.compute_logits(pre_logits, train=train)
    out["text_logits"] = logits
    out["text_tokens"] = jnp.argmax(logits, axis=-1)
    return logits, out

  def prefill_cache(
    self, x: Array, input_mask: Array, mask_ar: Array, *, cache_size: int
  ) -> Array:
    """Reads the beginning of sequences into a new cache.

    Args:
      x: [B, N, D], from `embed_image_and_text`.
      input_mask: bool [B, N], from there.
      mask_ar: int [B, N], from there.
      cache_size: C, at least N and as many tokens as will follow.

    Returns:
      [B, 1, V], the logits of what follows the last token of each.

    Raises:
      ValueError: the cache is too small.
    """
    if cache_size < x.shape[1]:
      raise ValueError(
        f"A cache of {cache_size} tokens is too small for {x.shape[1]}."
      )
    if not hasattr(self._llm, "prefill_cache"):
      return self.slow_prefill(x, input_mask, mask_ar, cache_size)
    mask = make_attn_mask(input_mask, mask_ar)
    return self._llm.prefill_cache(x, input_mask, mask, cache_size=cache_size)

  def extend_cache(self, x: Array, **kw: Any) -> Array:
    """Reads one more token of each sequence.

    Args:
      x: [B, 1, D], embedded by `embed_text`.
      **kw: for the language model.

    Returns:
      [B, 1, V], the logits of what follows it.
    """
    if not hasattr(self._llm, "prefill_cache"):
      return self.slow_extend(x)
    return self._llm.extend_cache(x, **kw)

  def slow_logits(self, x: Array, input_mask: Array, mask_ar: Array) -> Array:
    """Computes the logits of whole sequences, see `SlowCache`."""
    return self._llm(x, mask=make_attn_mask(input_mask, mask_ar))[0]


def _of_packs(image_ids, text_ids, text_positions, num_image_tokens):
  """Keeps examples apart that share a sequence.

  Args:
    image_ids: int [B, F], the example of each image; 0 is none.
    text_ids: int [B, T].
    text_positions: int [B, T].
    num_image_tokens: int, I.

  Returns:
    (which tokens belong to the same example, bool [B, N, N]; positions [B, N]).
  """
  each = num_image_tokens // image_ids.shape[1]
  ids = jnp.concatenate([jnp.repeat(image_ids, each, 1), text_ids], 1)
  same = image_ids[:, :, None] == image_ids[:, None, :]
  before = jnp.sum(jnp.tril(same, -1), axis=2)  # Images of the same example.
  first = before[:, :, None] * each + jnp.arange(each)[None, None]
  num = jnp.sum(text_ids[:, :, None] == image_ids[:, None, :], axis=2)
  positions = [first.reshape(len(ids), -1), text_positions + num * each]
  return ids[:, :, None] == ids[:, None, :], jnp.concatenate(positions, 1)


def _of_own_text(mask_ar, text_positions):
  """Lets the blocks of each text begin with that of its image.

  Args:
    mask_ar: int [B, T].
    text_positions: int [B, T].

  Returns:
    int [B, T], for `make_attn_mask`; its sums begin anew where a text does.
  """
  before = jnp.cumsum(mask_ar, axis=1) - mask_ar
  start = jnp.arange(mask_ar.shape[1])[None] - text_positions
  block = before + mask_ar - jnp.take_along_axis(before, start, axis=1)
  return jnp.diff(block, axis=1, prepend=0)


def image_grid(
  model_cfg: ConfigLike | None, size: Sequence[int], key: str = "model"
) -> ImageGrid | None:
  """Tells how the image model cuts images into patches.

  Args:
    model_cfg: mapping, `config.model`, or None.
    size: (height, width) of the images in pixels.
    key: config key of the model, for error messages.

  Returns:
    The ImageGrid, or None if the image model does not have such a grid.

  Raises:
    ConfigError: the patch is larger than the image.
  """
  model_cfg = model_cfg or {}
  module = module_of("img", model_cfg.get("img_model") or IMG_MODEL)
  if not hasattr(module, "image_grid"):
    return None
  return module.image_grid(model_cfg.get("img"), size, f"{key}.img")
