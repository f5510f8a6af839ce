"""NaFlex ViT: a ViT for sequences of patches, of any aspect ratio.

An image consists of its patches and their coordinates, padded to a fixed
number.
Padding changes nothing: attention and pooling leave it out. Positions are a
learned grid that is stretched over each image.

References:
  Tschannen et al. 2025, SigLIP 2 (section 2.4.2),
  https://arxiv.org/abs/2502.14786 Dehghani et al. 2023, NaViT,
  https://arxiv.org/abs/2307.06304 Beyer et al. 2022, FlexiViT,
  https://arxiv.org/abs/2212.08013

Shapes: `B` batch, `T` tokens, `D` width, `C` classes, `n` side of the grid of
positions. The names of the modules are the names in checkpoints.
"""

import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from big_vision import checkpoints, guards, lookup
from big_vision.models import common, fields, positions, transformer, vit
from big_vision.types import Array, ConfigLike, Params


def _decode_posemb(posemb):
  """Splits "learn_2d(64)" into ("learn_2d", 64); None stands for no number."""
  match = re.fullmatch(r"(\w+)\((\d+)\)", posemb)
  return (match[1], int(match[2])) if match else (posemb, None)


_POOL_TYPES = ("gap", "map", "max", "none")


class _Model(transformer.Options):
  """NaFlex ViT; `Model` lists the fields."""

  num_classes: int | None = None
  width: int = 768
  depth: int = 12
  mlp_dim: int | None = None
  num_heads: int = 12
  rep_size: int | bool = False
  pool_type: str = "gap"
  head_zeroinit: bool = True
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  dtype_mm: str = "float32"
  posemb: str = "learn_2d(64)"
  nposemb: int | None = None
  patchln_pre: bool = False
  patchln_post: bool = False
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self, image: tuple[Array, Array, Array, Array], *, train: bool = False
  ) -> tuple[Array, dict[str, Any]]:
    """Applies the model.

    Args:
      image: (patches, ptype, yabs, xabs): the pixels of each patch
        [B, T, P * P * 3], normally in [-1, 1]; int [B, T] each, 1 for a patch
        and 0 for padding, the row of the patch, and its column.
      train: bool, turns dropout on.

    Returns:
      (x, out): x is [B, C], or [B, D] without classes, or [B, T, ...] with pool
      type "none"; out is a dict of named intermediates.

    Raises:
      ValueError: unknown pool type or kind of positions, or `nposemb` is
        missing.
    """
    if self.pool_type not in _POOL_TYPES:
      raise lookup.unknown(
        "pool type", self.pool_type, _POOL_TYPES, "model.pool_type"
      )
    fields.check_dtype(self.dtype_mm, f"{fields.key(self)}.dtype_mm")
    out = {}
    patches, ptype, yabs, xabs = image
    is_patch = ptype == 1  # [B, T]

    x = jnp.asarray(patches, self.dtype_mm)
    if self.patchln_pre:
      x = nn.LayerNorm(name="patchln_pre")(x)
    x = nn.Dense(self.width, name="embedding", dtype=self.dtype_mm)(x)
    out["stem"] = x  # [B, T, D]
    if self.patchln_post:
      x = nn.LayerNorm(name="patchln_post")(x)
    posemb = self._positions(is_patch, yabs, xabs)
    x = out["with_posemb"] = x + posemb.astype(x.dtype)

    x = nn.Dropout(rate=self.dropout)(x, not train)
    x, out["encoder"] = vit.Encoder(
      depth=self.depth,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout=self.dropout,
      scan=self.scan,
      remat_policy=self.remat_policy,
      dtype_mm=self.dtype_mm,
      name="Transformer",
      **self.options(),
    )(x, not train, is_patch[:, :, None] & is_patch[:, None, :])
    out["encoded"] = x  # [B, T, D]

    if self.pool_type == "map":
      x = vit.MAPHead(
        num_heads=self.num_heads, mlp_dim=self.mlp_dim, **self.options()
      )(x, is_patch)
    elif self.pool_type != "none":
      x = _pool(x, is_patch, self.pool_type)
    out["head_input"] = x

    if self.rep_size:
      rep_size = self.width if self.rep_size is True else self.rep_size
      x = nn.tanh(nn.Dense(rep_size, name="pre_logits")(x))
    out["pre_logits"] = x
    if self.num_classes:
      kw = {"kernel_init": nn.initializers.zeros} if self.head_zeroinit else {}
      x = out["logits"] = nn.Dense(self.num_classes, name="head", **kw)(x)
    return x, out

  def _positions(self, is_patch, yabs, xabs):
    """Computes the positions [B, T, D]; any finite values for padding."""
    kind, _ = _decode_posemb(self.posemb)
    if kind != "learn_2d":
      raise lookup.unknown(
        "positional embedding", self.posemb, ["learn_2d"], "model.posemb"
      )
    n = self.nposemb
    if not n:
      raise ValueError(
        "config.model.nposemb must be the side of the learned grid of positions"
        ", for example 16."
      )
    posemb = self.param(
      "pos_embedding",
      nn.initializers.normal(stddev=1 / np.sqrt(self.width)),
      (n, n, self.width),
      self.dtype_mm,
    )
    # The coordinates of padding do not count for the size of the image.
    y, x = (jnp.where(is_patch, index, 0) for index in (yabs, xabs))
    height, width = jnp.max(y, axis=1) + 1, jnp.max(x, axis=1) + 1
    return positions.resample(posemb, (height, width), at=(y, x))


def _pool(x, mask, pool_type):
  """Computes mean or maximum [B, D] of the tokens x [B, T, D] in mask [B, T].

  Examples without tokens fill up the last batch of an evaluation, with weight
  0. Their result is 0, since NaN would stay NaN.
  """
  mask = mask[:, :, None]
  num = jnp.sum(mask, axis=1)  # [B, 1]
  if pool_type == "gap":
    return jnp.sum(jnp.where(mask, x, 0), axis=1) / jnp.maximum(num, 1)
  x = jnp.max(jnp.where(mask, x, jnp.finfo(x.dtype).min), axis=1)
  return jnp.where(num > 0, x, 0)


def Model(
  num_classes: int | None = None, *, variant: str | None = None, **kw: Any
) -> _Model:
  """Makes a NaFlex ViT of a named size.

  Args:
    num_classes: int, outputs of the head; None or 0 leaves out the head.
    variant: str, a size of `vit.decode_variant`, for example "B".
    **kw: overrides of the variant, and
      width, depth, mlp_dim, num_heads: default 768, 12, 4 * width, 12.
      rep_size: width of a tanh layer before the head; True means `width`.
      pool_type: "gap" mean, "map" attention, "max", "none".
      head_zeroinit: bool, initializes the kernel of the head with zeros.
      scan, remat_policy, dtype_mm: see `vit.Encoder`; and the keywords of
        `transformer.Options`.
      posemb: "learn_2d"; a number, as in "learn_2d(64)", no longer has an
        effect: images may have any number of rows and columns.
      nposemb: side of the learned grid of positions; required.
      patchln_pre, patchln_post: bools, normalize before and after patches are
        embedded.
      dropout: rate.

  Returns:
    The linen module.

  Raises:
    KeyError: unknown variant.
    ValueError: the variant has a patch size.
    TypeError: unknown keyword.
  """
  size = vit.decode_size(
    variant, "model.variant", "which the patches themselves have here"
  )
  return _Model(num_classes, **{**size, **kw})


def load(
  init_params: Params | None,
  init_file: str | Params,
  model_cfg: ConfigLike,
  dont_load: str | Sequence[str] = (),
  grid: Sequence[int] | None = None,
) -> Params:
  """Loads a checkpoint with any grid of positions and stacking of the blocks.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]` or one of `vit.VANITY_NAMES`.
    model_cfg: mapping, `config.model`, or None.
    dont_load: regexes of parameters that keep their initial values, for example
      ["head/.*"].
    grid: not used: the shapes of positions are those of their grids.

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of
    `init_params`.

  Raises:
    ValueError: parameters do not match, see `common.merge_params`, or the
      checkpoint belongs to another ViT.
  """
  del grid
  params = checkpoints.load_params(vit.VANITY_NAMES.get(init_file, init_file))

  params = vit.restack(params, (model_cfg or {}).get("scan"))
  params = common.merge_params(params, init_params, dont_load)
  if init_params and "pos_embedding" in init_params:
    params["pos_embedding"] = _resize_posemb(
      params["pos_embedding"], init_params["pos_embedding"].shape, init_file
    )
  return params


@guards.transfers
def _resize_posemb(old, shape, init_file):
  """Resizes a grid [n, n, D] as the model does, unless it has the shape."""
  if tuple(old.shape) == tuple(shape):
    return old
  n, _, d = shape
  if old.shape[0] != old.shape[1] or old.shape[2] != d:
    raise ValueError(
      f"pos_embedding of {init_file!r} is {tuple(old.shape)}, but the model "
      f"needs a square grid of positions of its width, as {tuple(shape)} is: "
      "config.model_init must be a NaFlex ViT of this size."
    )
  y, x = jnp.mgrid[:n, :n].reshape(2, 1, -1)
  size = jnp.array([n])
  new = positions.resample(jnp.asarray(old), (size, size), at=(y, x))
  return np.asarray(new).reshape(shape)
