"""Vision Transformer, with the improvements of "Better plain ViT baselines".

References:
  Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929
  Beyer et al. 2022, https://arxiv.org/abs/2205.01580
  Zhai et al. 2021 (MAP head, variants), https://arxiv.org/abs/2106.04560

Shapes: `B` batch, `h, w` grid of patches, `T` tokens, `D` width, `C` classes.
The names of the modules are the names in checkpoints, and random keys derive
from them and from the order of calls.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import fields, positions
from big_vision.models.positions import (
  ImageGrid,
  get_posemb,
  posemb_sincos_2d,
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


def _constrain(x):
  """Hints at the sharding of activations [B, T, D], if there are axis rules."""
  return nn.with_logical_constraint(x, ("act_batch", "act_len", "act_emb"))


class MlpBlock(nn.Module):
  """Two dense layers with a GELU between them.

  Attributes:
    mlp_dim: int, hidden width; None means 4 times the input width.
    dropout: float, rate after the GELU.
    dtype_mm: str, dtype of the computation; parameters are float32.
  """

  mlp_dim: int | None = None
  dropout: float = 0.0
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(self, x: Array, deterministic: bool = True) -> Array:
    """Applies the block.

    Args:
      x: [B, T, D].
      deterministic: bool, turns dropout off.

    Returns:
      [B, T, D].
    """
    inits = dict(
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.normal(stddev=1e-6),
    )
    d = x.shape[-1]
    x = nn.Dense(self.mlp_dim or 4 * d, dtype=self.dtype_mm, **inits)(x)
    x = _constrain(x)
    x = nn.gelu(x)
    x = nn.Dropout(rate=self.dropout)(x, deterministic)
    return nn.Dense(d, dtype=self.dtype_mm, **inits)(x)


class Encoder1DBlock(nn.Module):
  """Pre-norm block of self-attention and MLP.

  Attributes:
    mlp_dim: int, hidden width of the MLP; None means 4 times the width.
    num_heads: int.
    dropout: float, rate after attention, after the MLP, and inside the MLP.
    dtype_mm: str, dtype of matrix products.
  """

  mlp_dim: int | None = None
  num_heads: int = 12
  dropout: float = 0.0
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(
    self, x: Array, deterministic: bool = True, mask: Array | None = None
  ) -> tuple[Array, dict[str, Array]]:
    """Applies the block.

    Args:
      x: [B, T, D].
      deterministic: bool, turns dropout off.
      mask: [B, T, T] bool, which keys (last) a query attends to; None means
        all.

    Returns:
      ([B, T, D], dict of intermediates).
    """
    out = {}
    x = _constrain(x)
    y = nn.LayerNorm()(x)
    y = out["sa"] = nn.MultiHeadDotProductAttention(
      num_heads=self.num_heads,
      kernel_init=nn.initializers.xavier_uniform(),
      deterministic=deterministic,
      dtype=self.dtype_mm,
    )(y, y, mask=None if mask is None else mask[:, None])
    y = _constrain(y)
    y = nn.Dropout(rate=self.dropout)(y, deterministic)
    x = out["+sa"] = x + y

    y = nn.LayerNorm()(x)
    y = out["mlp"] = MlpBlock(
      mlp_dim=self.mlp_dim, dropout=self.dropout, dtype_mm=self.dtype_mm
    )(y, deterministic)
    y = _constrain(y)
    y = nn.Dropout(rate=self.dropout)(y, deterministic)
    x = out["+mlp"] = x + y
    return _constrain(x), out


class Encoder(nn.Module):
  """Stack of blocks and a final normalization.

  Attributes:
    depth: int, number of blocks.
    mlp_dim: int, hidden width of the MLPs; None means 4 times the width.
    num_heads: int.
    dropout: float, rate.
    scan: bool, compiles one block, stacks the parameters [depth, ...], and
      recomputes activations in the backward pass.
    remat_policy: str, which activations are kept with `scan`: an attribute of
      `jax.checkpoint_policies`; None and "none" mean "nothing_saveable".
    dtype_mm: str, dtype of matrix products.
  """

  depth: int
  mlp_dim: int | None = None
  num_heads: int = 12
  dropout: float = 0.0
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(
    self, x: Array, deterministic: bool = True, mask: Array | None = None
  ) -> tuple[Array, dict[str, Any]]:
    """Applies all blocks and the normalization.

    Args:
      x: [B, T, D].
      deterministic: bool, turns dropout off.
      mask: [B, T, T] bool, which keys (last) a query attends to; None means
        all.

    Returns:
      ([B, T, D], dict of intermediates, for example `block00/sa`).

    Raises:
      ValueError: unknown `remat_policy` or dtype, or the number of heads does
        not divide D.
    """
    out = {}
    fields.check_dtype(self.dtype_mm, f"{fields.key(self)}.dtype_mm")
    fields.check_heads(self.num_heads, x.shape[-1], fields.key(self))
    block = dict(
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout=self.dropout,
      dtype_mm=self.dtype_mm,
    )
    if self.scan:
      rematted = nn.remat(
        Encoder1DBlock,
        prevent_cse=False,  # Scan itself prevents it.
        static_argnums=(2,),  # `deterministic`; 0 is self.
        policy=_remat_policy(self.remat_policy),
      )
      x, stacked = nn.scan(
        rematted,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=self.depth,
      )(name="encoderblock", **block)(x, deterministic, mask)
      for i in range(self.depth):
        out[f"block{i:02d}"] = jax.tree.map(lambda o, i=i: o[i], stacked)
    else:
      for i in range(self.depth):
        layer = Encoder1DBlock(name=f"encoderblock_{i}", **block)
        x, out[f"block{i:02d}"] = layer(x, deterministic, mask)
    out["pre_ln"] = x
    return nn.LayerNorm(name="encoder_norm")(x), out


def _remat_policy(name):
  """Finds the function in `jax.checkpoint_policies`; None saves nothing."""
  if name in (None, "none"):
    return None
  known = [n for n in dir(jax.checkpoint_policies) if not n.startswith("_")]
  if name not in known:
    raise lookup.unknown("policy", name, known, "model.remat_policy")
  return getattr(jax.checkpoint_policies, name)


class MAPHead(nn.Module):
  """Pools with multi-head attention: one learned query attends to all tokens.

  Attributes:
    mlp_dim: int, hidden width of the MLP; None means 4 times the width.
    num_heads: int.
  """

  mlp_dim: int | None = None
  num_heads: int = 12

  @nn.compact
  def __call__(self, x: Array, mask: Array | None = None) -> Array:
    """Pools tokens.

    Args:
      x: [B, T, D].
      mask: [B, T] bool, which tokens to attend to; None means all.

    Returns:
      [B, D].
    """
    n, _, d = x.shape
    fields.check_heads(self.num_heads, d, fields.key(self))
    init = nn.initializers.xavier_uniform()
    probe = self.param("probe", init, (1, 1, d), x.dtype)
    probe = jnp.tile(probe, [n, 1, 1])
    x = nn.MultiHeadDotProductAttention(
      num_heads=self.num_heads, kernel_init=init
    )(probe, x, mask=None if mask is None else mask[:, None, None])
    # The residual starts here: the probe itself is not added.
    y = nn.LayerNorm()(x)
    x = x + MlpBlock(mlp_dim=self.mlp_dim)(y)
    return x[:, 0]


_POOL_TYPES = ("gap", "map", "tok", "0", "none")


class _Model(nn.Module):
  """ViT; `Model` lists the fields."""

  num_classes: int | None = None
  patch_size: Sequence[int] = (16, 16)
  width: int = 768
  depth: int = 12
  mlp_dim: int | None = None
  num_heads: int = 12
  posemb: str = "learn"
  rep_size: int | bool = False
  dropout: float = 0.0
  pool_type: str = "gap"
  head_zeroinit: bool = True
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  dtype_mm: str = "float32"

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
      name="embedding",
      dtype=self.dtype_mm,
    )(image)  # [B, h, w, D]
    _, h, w, d = x.shape
    if replace is not None:
      where, token = replace
      token = jnp.asarray(token, x.dtype).reshape(1, 1, 1, d)
      x = jnp.where(where[..., None], token, x)
    posemb = get_posemb(self, self.posemb, (h, w), d, "pos_embedding", x.dtype)
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
    if self.pool_type == "tok":
      cls = self.param("cls", nn.initializers.zeros, (1, 1, d), x.dtype)
      x = jnp.concatenate([jnp.tile(cls, [n, 1, 1]), x], axis=1)

    x = nn.Dropout(rate=self.dropout)(x, not train)
    x, out["encoder"] = Encoder(
      depth=self.depth,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout=self.dropout,
      scan=self.scan,
      remat_policy=self.remat_policy,
      dtype_mm=self.dtype_mm,
      name="Transformer",
    )(x, deterministic=not train)
    tokens = out["encoded"] = x  # [B, T, D]

    if self.pool_type == "map":
      x = MAPHead(num_heads=self.num_heads, mlp_dim=self.mlp_dim)(x)
    elif self.pool_type == "gap":
      x = jnp.mean(x, axis=1)
    elif self.pool_type in ("0", "tok"):
      x = x[:, 0]
      if self.pool_type == "tok":
        tokens = tokens[:, 1:]
    if self.pool_type != "none":
      out["head_input"] = x

    # The same layers run on each token, for segmentation and visualization.
    x_2d = tokens.reshape(n, h, w, -1)
    if self.rep_size:
      rep_size = self.width if self.rep_size is True else self.rep_size
      hid = nn.Dense(rep_size, name="pre_logits")
      x_2d, x = nn.tanh(hid(x_2d)), nn.tanh(hid(x))
    out["pre_logits_2d"], out["pre_logits"] = x_2d, x

    if self.num_classes:
      kw = {"kernel_init": nn.initializers.zeros} if self.head_zeroinit else {}
      head = nn.Dense(self.num_classes, name="head", **kw)
      x_2d, x = head(x_2d), head(x)
      out["logits_2d"], out["logits"] = x_2d, x
    return x, out


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
      posemb: "learn" or "sincos2d".
      rep_size: width of a tanh layer before the head; True means `width`.
      dropout: rate.
      pool_type: "gap" mean, "map" attention, "tok" class token, "0" first
        token, "none".
      head_zeroinit: bool, initializes the kernel of the head with zeros.
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
  return positions.image_grid(size, Model(**(model_cfg or {})).patch_size, key)
