"""Vision Transformer, with the improvements of "Better plain ViT baselines".

References:
  Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929
  Beyer et al. 2022, https://arxiv.org/abs/2205.01580
  Zhai et al. 2021 (MAP head, variants), https://arxiv.org/abs/2106.04560

Shapes: `B` batch, `h, w` grid of patches, `T` tokens, `D` width, `C` classes.
The names of the modules are the names in checkpoints, and random keys derive
from them and from the order of calls.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import (
  activations,
  fields,
  positions,
  rope,
  transformer,
)
from big_vision.models.positions import (
  ImageGrid,
  get_posemb,
  posemb_sincos_2d,
)
from big_vision.models.transformer import (
  Encoder,
  Encoder1DBlock,
  MAPHead,
  MlpBlock,
)
from big_vision.models.vit_checkpoints import (
  SIGLIP_CHECKPOINTS,
  VANITY_NAMES,
  fix_old_checkpoints,
  load,
  pyloop_to_scan,
  resample_posemb,
  restack,
  scan_to_pyloop,
)
from big_vision.models.vit_sizes import decode_size, decode_variant
from big_vision.types import Array, ConfigLike

__all__ = [
  "Encoder",
  "Encoder1DBlock",
  "MAPHead",
  "MlpBlock",
  "Model",
  "SIGLIP_CHECKPOINTS",
  "VANITY_NAMES",
  "decode_size",
  "decode_variant",
  "fix_old_checkpoints",
  "get_posemb",
  "image_grid",
  "load",
  "posemb_sincos_2d",
  "pyloop_to_scan",
  "resample_posemb",
  "restack",
  "scan_to_pyloop",
]


_POOL_TYPES = ("gap", "map", "tok", "tok+gap", "0", "none")


class _Model(transformer.Options):
  """ViT; `Model` lists the fields."""

  num_classes: int | None = None
  patch_size: Sequence[int] = (16, 16)
  width: int = 768
  depth: int = 12
  mlp_dim: int | None = None
  num_heads: int = 12
  posemb: str | None = "learn"
  posemb_size: Sequence[int] | None = None
  rep_size: int | bool = False
  dropout: float = 0.0
  pool_type: str = "gap"
  head_zeroinit: bool = True
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  dtype_mm: str = "float32"
  class_token: bool | None = None
  dist_token: bool = False
  registers: int = 0
  rope: str | None = None
  rope_theta: float = 100.0
  patch_bias: bool = True
  pre_norm: bool = False
  pool_norm: bool = False
  head_bias: bool = True

  @nn.compact
  def __call__(
    self,
    image: Array,
    *,
    train: bool = False,
    replace: tuple[Array, Array] | None = None,
  ) -> tuple[Array, dict[str, Any]]:
    """Applies the model.

    Args:
      image: [B, H, W, 3], normally in [-1, 1].
      train: bool, turns dropout on.
      replace: (where [B, h, w] bool, token [D]): replaces the embedded patches
        at `where` by `token`, before positions are added; None replaces
        nothing.

    Returns:
      (x, out): x is [B, C], or [B, D] without classes, or [B, T, ...] with pool
      type "none"; out is a dict of named intermediates.

    Raises:
      ConfigError: the patch is larger than the image, or unknown dtype.
    """
    out = {}
    fields.check_dtype(self.dtype_mm, f"{fields.key(self)}.dtype_mm")
    positions.image_grid(image.shape[1:3], self.patch_size, fields.key(self))
    image = jnp.asarray(image, self.dtype_mm)
    x = out["stem"] = nn.Conv(
      self.width,
      tuple(self.patch_size),
      strides=tuple(self.patch_size),
      padding="VALID",
      use_bias=self.patch_bias,
      name="embedding",
      dtype=self.dtype_mm,
    )(image)  # [B, h, w, D]
    x = activations.patches(x)
    _, h, w, d = x.shape
    if replace is not None:
      where, token = replace
      token = jnp.asarray(token, x.dtype).reshape(1, 1, 1, d)
      x = jnp.where(where[..., None], token, x)
    stored = positions.stored_size(self.posemb_size, (h, w), fields.key(self))
    posemb = get_posemb(self, self.posemb, stored, d, "pos_embedding", x.dtype)
    posemb = posemb.astype(x.dtype)  # It may be stored in another one.
    if stored != (h, w):
      posemb = positions.resample(posemb.reshape(1, *stored, d), (h, w))
      posemb = posemb.reshape(1, h * w, d)
    return self.after_stem(x, posemb, out, train)

  def after_stem(
    self, x: Array, posemb: Array, out: dict[str, Any], train: bool
  ) -> tuple[Array, dict[str, Any]]:
    """Applies all that follows the patch embedding, also for other stems.

    Args:
      x: [B, h, w, D], embedded patches.
      posemb: [1, h * w, D], positions.
      out: dict of intermediates, to which others are added.
      train: bool, turns dropout on.

    Returns:
      (x, out) as `__call__`.

    Raises:
      ValueError: unknown `pool_type`.
    """
    if self.pool_type not in _POOL_TYPES:
      raise lookup.unknown(
        "pool type", self.pool_type, _POOL_TYPES, "model.pool_type"
      )
    n, h, w, d = x.shape
    x = x.reshape(n, h * w, d)
    x = out["with_posemb"] = x + posemb
    x = self._with_prefix(x)
    prefix = x.shape[1] - h * w
    if self.pre_norm:
      x = self.normalize("pre_norm")(x)

    x = nn.Dropout(rate=self.dropout)(x, not train)
    x, out["encoder"] = Encoder(
      depth=self.depth,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout=self.dropout,
      scan=self.scan,
      remat_policy=self.remat_policy,
      dtype_mm=self.dtype_mm,
      final_norm=not self.pool_norm,
      name="Transformer",
      **self.options(),
    )(x, not train, None, self._rotations((h, w), prefix))
    out["encoded"] = x  # [B, T, D]
    tokens = x[:, prefix:]  # Of the patches.

    if self.pool_type == "map":
      x = MAPHead(
        num_heads=self.num_heads, mlp_dim=self.mlp_dim, **self.options()
      )(x)
    elif self.pool_type == "gap":
      x = jnp.mean(tokens, axis=1)
    elif self.pool_type == "tok+gap":
      x = jnp.concatenate([x[:, 0], jnp.mean(tokens, axis=1)], axis=-1)
    elif self.pool_type in ("0", "tok"):
      x = x[:, 0]
    if self.pool_norm:
      x = self.normalize("pool_norm")(x)
    if self.pool_type != "none":
      out["head_input"] = x

    # The same layers run on each token, for segmentation and visualization.
    x_2d = tokens.reshape(n, h, w, -1)
    if self.pool_type == "tok+gap":
      x_2d = jnp.concatenate([x_2d, x_2d], axis=-1)
    if self.rep_size:
      rep_size = self.width if self.rep_size is True else self.rep_size
      hid = nn.Dense(rep_size, name="pre_logits")
      x_2d, x = nn.tanh(hid(x_2d)), nn.tanh(hid(x))
    out["pre_logits_2d"], out["pre_logits"] = x_2d, x

    if self.num_classes:
      kw = {"kernel_init": nn.initializers.zeros} if self.head_zeroinit else {}
      layer = functools.partial(
        nn.Dense, self.num_classes, use_bias=self.head_bias, **kw
      )
      head = layer(name="head")
      x_2d, x = head(x_2d), head(x)
      if self.dist_token:
        out["logits_cls"] = x
        out["logits_dist"] = layer(name="head_dist")(out["encoded"][:, 1])
        x = (x + out["logits_dist"]) / 2
      out["logits_2d"], out["logits"] = x_2d, x
    return x, out

  def _with_prefix(self, x):
    """Puts the tokens that are not patches, without positions, before x."""
    has_class = self.class_token
    if has_class is None:
      has_class = self.pool_type in ("tok", "tok+gap")
    if not has_class and (self.dist_token or "tok" in self.pool_type):
      raise lookup.ConfigError(
        f"config.{fields.key(self)}.class_token={self.class_token}: pool_type="
        f"{self.pool_type!r} and dist_token={self.dist_token} need it."
      )
    d, tokens = x.shape[-1], []
    random = nn.initializers.normal(stddev=0.02)
    if has_class:
      tokens += [self.param("cls", nn.initializers.zeros, (1, 1, d), x.dtype)]
    if self.dist_token:
      tokens += [self.param("dist", random, (1, 1, d), x.dtype)]
    if self.registers:
      shape = (1, self.registers, d)
      tokens += [self.param("registers", random, shape, x.dtype)]
    tokens = [jnp.tile(t, [x.shape[0], 1, 1]).astype(x.dtype) for t in tokens]
    return jnp.concatenate([*tokens, x], axis=1) if tokens else x

  def _rotations(self, grid, prefix):
    """Returns rotary positions of all tokens, or None."""
    if self.rope is None:
      return None
    fields.check_heads(self.num_heads, self.width, fields.key(self))
    size = self.width // self.num_heads
    return rope.make(self.rope, grid, size, self.rope_theta, prefix)


def Model(
  num_classes: int | None = None, *, variant: str | None = None, **kw: Any
) -> _Model:
  """Makes a ViT of a named size.

  Args:
    num_classes: int, outputs of the head; None or 0 leaves out the head.
    variant: str, for example "B/16", see `decode_variant`.
    **kw: overrides of the variant, and
      patch_size: (height, width) in pixels, default (16, 16).
      width, depth, mlp_dim, num_heads: default 768, 12, 4 * width, 12.
      posemb: "learn" or "sincos2d"; None leaves positions out.
      posemb_size: (rows, columns) of the grid of these positions, which is
        resampled for images with another number of patches, as for tests at a
        higher resolution; None: images have the same size always.
      rope: rotary positions, besides `posemb`: a kind of `rope.make`, whose
        wavelengths have the ratio `rope_theta`, default 100; None leaves them
        out.
      rep_size: width of a tanh layer before the head; True means `width`.
      dropout: rate.
      pool_type: "gap" mean of the patches, "map" attention, "tok" class token,
        "tok+gap" both, "0" first token, "none".
      class_token: bool, whether there is one; None leaves it to `pool_type`.
      dist_token: bool, a second such token with a head of its own, whose
        logits are averaged with those of the other head
        (https://arxiv.org/abs/2012.12877).
      registers: number of further tokens
        (https://arxiv.org/abs/2309.16588).
      patch_bias, head_bias: bools, whether these layers have biases.
      pre_norm: bool, normalizes the tokens before the first block.
      pool_norm: bool, normalizes what is pooled in place of the tokens.
      head_zeroinit: bool, initializes the kernel of the head with zeros.
      norm, norm_eps, act, glu, mlp_bias, attn_bias, qk_norm, layerscale,
        drop_path: see `transformer.Options`.
      scan, remat_policy, dtype_mm: see `Encoder`.

  Returns:
    The linen module.

  Raises:
    KeyError: unknown variant.
    TypeError: unknown keyword.
  """
  return _Model(num_classes, **{**decode_variant(variant), **kw})


def image_grid(
  model_cfg: ConfigLike, size: Sequence[int], key: str = "model"
) -> ImageGrid:
  """Tells how a ViT cuts images into patches.

  Args:
    model_cfg: mapping, `config.model`, or None.
    size: (height, width) of the images in pixels.
    key: config key of the model, for error messages.

  Returns:
    The ImageGrid.

  Raises:
    ConfigError: the patch is larger than the image.
  """
  model = Model(**(model_cfg or {}))
  grid = positions.image_grid(size, model.patch_size, key)
  stored = positions.stored_size(model.posemb_size, grid.stored, key)
  return grid._replace(stored=stored)
