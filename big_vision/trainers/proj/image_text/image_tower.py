"""The image tower of a two-tower model, for images, parts and hidden patches.

Shapes: `B` batch, `n` images, `h, w` grid of patches, `M` hidden patches, `C`
channels, `D` width.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from big_vision.models import positions
from big_vision.trainers.proj.image_text.self_distill_settings import Settings
from big_vision.types import Array, Key, Params


class ImageTower:
  """Applies the image tower of a model, and knows its shapes.

  Attributes:
    width: D, of its outputs.
    stem_width: width of embedded patches.
    num_patches: h * w.
    num_hidden: M, at least 1.
    local_size: side of local views in pixels.
  """

  def __init__(
    self, model: Any, batch_shapes: dict[str, Any], settings: Settings
  ):
    """Finds the shapes.

    Args:
      model: linen module with two inputs, whose parameters `img` are those of
        the image tower.
      batch_shapes: dict of ShapeDtypeStruct with `image` and possibly `local`.
      settings: which terms there are, and their sizes.

    Raises:
      ValueError: the model does not fit.
    """
    self._model = model
    image = batch_shapes["image"]
    if isinstance(image, (tuple, list)) or len(image.shape) != 4:
      raise ValueError(
        "config.self_distill needs images [B, H, W, C], of which parts can be "
        "cut, not sequences of patches: it does not work with NaFlex."
      )
    self._params, out = self._shapes(image)
    pooled, patches = out.get("img/pre_logits"), out.get("img/pre_logits_2d")
    if patches is None or pooled is None or len(pooled.shape) != 2:
      raise ValueError(
        "config.self_distill needs an image tower that is pooled and has "
        "patches, `pre_logits` [B, D] and `pre_logits_2d` [B, h, w, D] in its `out`, such "
        "as config.model.image_model = 'vit' with another pool_type than 'none'."
      )
    _, height, _, channels = image.shape
    self._grid = patches.shape[1:3]
    self.width = patches.shape[-1]
    self.num_patches = math.prod(self._grid)
    self.num_hidden = max(round(settings.mask_ratio * self.num_patches), 1)
    patch = height // self._grid[0]
    self.local_size = (
      settings.local_size or max(round(self._grid[0] * 3 / 7), 1) * patch
    )
    if settings.local_weight:
      shape = (1, self.local_size, self.local_size, channels)
      if "local" in batch_shapes:
        shape = (1, *batch_shapes["local"].shape[2:])
        self.local_size = shape[1]
      self._fit_local(jax.ShapeDtypeStruct(shape, image.dtype), patch)
    if settings.masked_weight:
      self.stem_width = out["img/stem"].shape[-1]
      self._check_replace(image)

  def _shapes(self, image):
    """Returns (parameters, out) of the image tower alone, as shapes."""

    def init(image):
      (_, _, out), variables = self._model.init_with_output(
        jax.random.PRNGKey(0), image
      )
      return variables["params"], out

    params, out = jax.eval_shape(init, image)
    if "img" not in params:
      raise ValueError(
        "config.self_distill needs a model with an image tower `img`, such as "
        "config.model_name = 'proj.image_text.two_towers'."
      )
    return params, out

  def _fit_local(self, image, patch):
    """Finds the grid of local views; ValueError if they do not fit."""
    if self.local_size % patch or self.local_size < patch:
      raise ValueError(
        f"config.self_distill.local_size = {self.local_size} must be a multiple "
        f"of the patch size, {patch}."
      )
    params, out = self._shapes(image)
    self._local_grid = out["img/pre_logits_2d"].shape[1:3]
    shapes = lambda p: {
      jax.tree_util.keystr(k): x.shape
      for k, x in jax.tree_util.tree_leaves_with_path(p["img"])
    }
    here, there = shapes(self._params), shapes(params)
    differ = [k for k in here if here[k] != there.get(k)]
    self._resize = bool(differ)
    if differ not in ([], ["['pos_embedding']"]):
      raise ValueError(
        "config.self_distill.local_weight: the image model has other parameters "
        f"for images of {self.local_size} pixels: {', '.join(differ)}. Set "
        "local_size to the size of the images, or local_weight to 0."
      )

  def _check_replace(self, image):
    """Raises ValueError if patches cannot be hidden."""
    where = jnp.zeros([1, *self._grid], bool)
    token = jnp.zeros([self.stem_width])
    one = jax.ShapeDtypeStruct((1, *image.shape[1:]), image.dtype)
    call = lambda p, x: self._model.apply(
      {"params": p}, x, None, replace=(where, token)
    )
    try:
      jax.eval_shape(call, self._params, one)
    except TypeError as e:
      raise ValueError(
        "config.self_distill.masked_weight: patches of this image model "
        f"cannot be hidden, as its call has no `replace` ({e}). Set masked_weight to 0."
      ) from e

  def _apply(self, params, img, image, **kw):
    """Returns (pooled [B, D], patches [B, h, w, D])."""
    _, _, out = self._model.apply(
      {"params": {**params, "img": img}}, image, None, **kw
    )
    return out["img/pre_logits"], out["img/pre_logits_2d"]

  def full(
    self, params: Params, img: Params, image: Array
  ) -> tuple[Array, Array]:
    """Computes the teacher's outputs for whole images.

    Args:
      params: all parameters of the model.
      img: parameters of the teacher, instead of `params["img"]`.
      image: [B, H, W, C].

    Returns:
      (pooled [B, D], patches [B, h, w, D]).
    """
    return self._apply(params, img, image)

  def local(self, params: Params, image: Array, rng: Key) -> Array:
    """Computes the student's outputs for local views.

    Args:
      params: all parameters of the model.
      image: [n, local_size, local_size, C].
      rng: random key of dropout.

    Returns:
      [n, D], pooled.
    """
    img = params["img"]
    if self._resize:
      # Learned positions are stretched over the local view.
      posemb = img["pos_embedding"]
      d = posemb.shape[-1]
      posemb = posemb.reshape(1, *self._grid, d)
      posemb = positions.resample(posemb, self._local_grid)
      img = {**img, "pos_embedding": posemb.reshape(1, -1, d)}
    kw = dict(train=True, rngs={"dropout": rng})
    return self._apply(params, img, image, **kw)[0]

  def masked(
    self, params: Params, image: Array, hidden: Array, token: Array, rng: Key
  ) -> Array:
    """Computes the student's outputs for images with hidden patches.

    Args:
      params: all parameters of the model.
      image: [B, H, W, C].
      hidden: [B, M] int, indices of the hidden patches.
      token: [stem_width], replaces the hidden patches.
      rng: random key of dropout.

    Returns:
      [B, h, w, D], of all patches.
    """
    where = hidden[:, :, None] == jnp.arange(self.num_patches)[None, None]
    where = jnp.any(where, axis=1).reshape(-1, *self._grid)
    kw = dict(train=True, rngs={"dropout": rng}, replace=(where, token))
    return self._apply(params, params["img"], image, **kw)[1]
