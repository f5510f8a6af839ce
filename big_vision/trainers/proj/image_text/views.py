"""What `self_distill` sees and compares: views of an image, a tower, heads.

References:
  Caron et al. 2021, DINO (heads), https://arxiv.org/abs/2104.14294

Shapes: `B` batch, `V` views, `h, w` grid of patches, `M` hidden patches, `D`
width, `K` prototypes.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


def random_boxes(rng, shape, area, ratio=(3 / 4, 4 / 3)):
  """Parts of an image: area and logarithm of the aspect ratio are uniform.

  Args:
    rng: random key.
    shape: tuple of int.
    area: (lowest, highest) fraction of the image.
    ratio: (lowest, highest) of width to height, relative to that of the image.

  Returns:
    [*shape, 4] float32: (ymin, xmin, ymax, xmax) in [0, 1].
  """
  keys = jax.random.split(rng, 4)
  uniform = jax.random.uniform
  size = uniform(keys[0], shape, minval=area[0], maxval=area[1])
  low, high = map(math.log, ratio)
  aspect = jnp.exp(uniform(keys[1], shape, minval=low, maxval=high))
  height = jnp.minimum(jnp.sqrt(size / aspect), 1.0)
  width = jnp.minimum(jnp.sqrt(size * aspect), 1.0)
  y = uniform(keys[2], shape) * (1 - height)
  x = uniform(keys[3], shape) * (1 - width)
  return jnp.stack([y, x, y + height, x + width], axis=-1)


def crop(image, boxes, size):
  """Cuts parts of images and resizes them bilinearly, with antialiasing.

  Args:
    image: [B, H, W, C] float.
    boxes: [B, V, 4], see `random_boxes`.
    size: int, pixels.

  Returns:
    [B, V, size, size, C].
  """
  height, width, channels = image.shape[1:]

  def one(image, box):
    sides = jnp.array([height, width], jnp.float32)
    low, high = box[:2] * sides, box[2:] * sides
    scale = size / (high - low)
    return jax.image.scale_and_translate(
      image, (size, size, channels), (0, 1), scale, -low * scale, "linear"
    )

  return jax.vmap(jax.vmap(one, (None, 0)))(image, boxes)


class Head(nn.Module):
  """DINO's head: an MLP and the cosine similarities to prototypes.

  Attributes:
    hidden: int, width of its two hidden layers.
    bottleneck: int, width of what is compared to prototypes.
    prototypes: int, K.
  """

  hidden: int
  bottleneck: int
  prototypes: int

  @nn.compact
  def __call__(self, x):
    """Maps x [..., D] to [..., K] float32 in [-1, 1]."""
    x = jnp.asarray(x, jnp.float32)
    x = nn.gelu(nn.Dense(self.hidden)(x))
    x = nn.gelu(nn.Dense(self.hidden)(x))
    x = _unit(nn.Dense(self.bottleneck)(x), axis=-1)
    shape = (self.bottleneck, self.prototypes)
    kernel = self.param("prototypes", nn.initializers.lecun_normal(), shape)
    return x @ _unit(kernel, axis=0)


def _unit(x, axis):
  """Vectors of length 1; with a gradient also at 0."""
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis, keepdims=True) + 1e-12)


class Tower:
  """The image tower of a model, and what is known of its shapes.

  Attributes:
    width: int, D, of its outputs.
    stem_width: int, of embedded patches.
    num_patches: int, h * w.
    num_hidden: int, M, at least 1.
    local_size: int, side of local views in pixels.
  """

  def __init__(self, model, batch_shapes, settings):
    """Looks at the shapes; raises ValueError if the model does not fit."""
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
        "config.self_distill needs an image tower that is pooled and has patches,"
        " `pre_logits` [B, D] and `pre_logits_2d` [B, h, w, D] in its `out`, such "
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
    """(parameters, out) of the image tower alone, as shapes."""

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
    """Finds the grid of local views."""
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
    """Raises ValueError if patches can not be hidden."""
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
        "config.self_distill.masked_weight: patches of this image model can not "
        f"be hidden, as its call has no `replace` ({e}). Set masked_weight to 0."
      ) from e

  def _apply(self, params, img, image, **kw):
    """(pooled [B, D], patches [B, h, w, D])."""
    _, _, out = self._model.apply(
      {"params": {**params, "img": img}}, image, None, **kw
    )
    return out["img/pre_logits"], out["img/pre_logits_2d"]

  def full(self, params, img, image):
    """The teacher's outputs for images; `img` are its parameters."""
    return self._apply(params, img, image)

  def local(self, params, image, rng):
    """The student's outputs [n, D] for local views [n, s, s, C]."""
    img = params["img"]
    if self._resize:
      # Learned positions are stretched over the local view.
      posemb = img["pos_embedding"]
      d = posemb.shape[-1]
      posemb = posemb.reshape(1, *self._grid, d)
      posemb = jax.image.resize(posemb, (1, *self._local_grid, d), "linear")
      img = {**img, "pos_embedding": posemb.reshape(1, -1, d)}
    kw = dict(train=True, rngs={"dropout": rng})
    return self._apply(params, img, image, **kw)[0]

  def masked(self, params, image, hidden, token, rng):
    """The student's outputs [B, h, w, D] where patches [B, M] are hidden."""
    where = hidden[:, :, None] == jnp.arange(self.num_patches)[None, None]
    where = jnp.any(where, axis=1).reshape(-1, *self._grid)
    kw = dict(train=True, rngs={"dropout": rng}, replace=(where, token))
    return self._apply(params, params["img"], image, **kw)[1]
