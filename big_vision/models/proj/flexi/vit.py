"""FlexiViT: a ViT for all patch sizes, https://arxiv.org/abs/2212.08013.

The number of tokens per side, `seqhw`, is an argument of the call and
determines the size of the patches. The patch embedding and the positions are
stored at one size, and resampled to fit.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from big_vision import checkpoints, guards, lookup
from big_vision.models import (
  activations,
  common,
  fields,
  positions,
  vit,
  vit_checkpoints,
)
from big_vision.types import AnyArray, Array, ConfigLike, Params


@guards.transfers
def resample_patchemb(old: AnyArray, new_hw: Sequence[int]) -> AnyArray:
  """Resamples a kernel that embeds patches, for patches of another size.

  With B the matrix that resizes patches bilinearly, the new kernel is the
  pseudo-inverse of B^T times the old one. It changes the embeddings of resized
  patches least, and not at all for larger patches (eq. 4 of the paper).

  Args:
    old: [h, w, C_in, C_out] array, possibly traced.
    new_hw: (height, width) of the new patches, in pixels.

  Returns:
    [*new_hw, C_in, C_out] array; `old` itself if it has that size. Kernels of
    less than 32 bits become float32.

  Raises:
    ConfigError: `old` does not have four dimensions, or `new_hw` two entries.
  """
  if len(old.shape) != 4:
    raise lookup.ConfigError(
      f"A patch embedding has four dimensions, not {len(old.shape)}."
    )
  if len(new_hw) != 2:
    raise lookup.ConfigError(f"Expected a height and a width, got {new_hw}.")
  old_hw, new_hw = tuple(old.shape[:2]), tuple(new_hw)
  if old_hw == new_hw:
    return old
  weights = jnp.asarray(_resampling(old_hw, new_hw))

  def one(kernel):
    return (weights @ kernel.reshape(-1)).reshape(new_hw)

  of_all = jax.vmap(jax.vmap(one, 2, 2), 3, 3)
  return of_all(jnp.asarray(old))


@functools.cache
def _resampling(old_hw, new_hw):
  """Computes the matrix [new pixels, old pixels], float32, of all kernels."""
  resize = np.kron(
    *(_bilinear(o, n) for o, n in zip(old_hw, new_hw, strict=True))
  )
  return np.linalg.pinv(resize.T)


def _bilinear(num_old, num_new):
  """Computes the matrix [new, old], float32, of linear resizing.

  Pixels have their centers at half-integers; it does not smooth.
  """
  at = (np.arange(num_new, dtype=np.float32) + np.float32(0.5)) * np.float32(
    num_old / num_new
  ) - np.float32(0.5)
  low = np.floor(at)
  rows, fraction = np.arange(num_new), at - low
  matrix = np.zeros([num_new, num_old], np.float32)
  below = np.maximum(low, 0).astype(int)
  above = np.minimum(np.ceil(at), num_old - 1).astype(int)
  np.add.at(matrix, (rows, below), 1 - fraction)
  np.add.at(matrix, (rows, above), fraction)
  return matrix


class Patchify(nn.Module):
  """Embeds patches, of the size that gives the wanted grid.

  Attributes:
    patch_size: (height, width) in pixels of the kernel that is stored.
    width: D.
    seqhw: tokens per side, or (rows, columns) of them, for calls without
      `seqhw`; None requires it in the call.
    use_bias: whether a bias is added.
  """

  patch_size: Sequence[int] = (32, 32)
  width: int = 768
  seqhw: int | Sequence[int] | None = None
  use_bias: bool = True

  @nn.compact
  def __call__(
    self, image: Array, seqhw: int | Sequence[int] | None = None
  ) -> Array:
    """Embeds patches.

    Args:
      image: [B, H, W, C].
      seqhw: int, tokens per side, or (rows, columns); static. None means the
        attribute.

    Returns:
      [B, seqhw, seqhw, D], or [B, *seqhw, D].

    Raises:
      TypeError: neither the call nor the attribute gives the number of tokens.
      ValueError: the image has fewer pixels than tokens, or is smaller than the
        stored patch when parameters are initialized without `seqhw`.
    """
    _, h, w, c = image.shape
    stored = tuple(self.patch_size)
    kernel = self.param(
      "kernel",
      nn.initializers.normal(stddev=1 / np.sqrt(self.width)),
      (*stored, c, self.width),
      image.dtype,
    )
    bias = jnp.zeros(self.width, image.dtype)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, bias.shape, bias.dtype)
    seqhw = seqhw or self.seqhw
    if seqhw:
      rows, columns = (seqhw, seqhw) if isinstance(seqhw, int) else seqhw
      patch = (h // rows, w // columns)
    elif self.is_initializing():
      positions.image_grid((h, w), stored)
      patch = stored
    else:
      raise TypeError(
        "FlexiViT needs to know how many tokens there are per side: call it with "
        "seqhw=…, or set config.model.seqhw."
      )
    if 0 in patch:
      raise ValueError(
        f"FlexiViT: an image of {h}x{w} pixels has no {seqhw} tokens per side "
        "(seqhw)."
      )
    if seqhw and (h // patch[0], w // patch[1]) != (rows, columns):
      logging.info(
        "FlexiViT: seqhw=%s does not divide an image of %dx%d pixels: patches of "
        "%dx%d make a grid of %dx%d.",
        seqhw, h, w, *patch, h // patch[0], w // patch[1],
      )  # fmt: skip
    # Parameters may be stored in another dtype.
    kernel = resample_patchemb(kernel, patch).astype(image.dtype)
    x = jax.lax.conv_general_dilated(
      image,
      kernel,
      window_strides=patch,
      padding="VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return activations.patches(bias.astype(x.dtype).reshape(1, 1, 1, -1) + x)


class _Model(vit._Model):
  """A ViT but for its stem; `Model` lists the fields."""

  patch_size: Sequence[int] = (32, 32)
  posemb_size: Sequence[int] = (7, 7)
  seqhw: int | Sequence[int] | None = None

  @nn.compact
  def __call__(
    self,
    image: Array,
    *,
    seqhw: int | Sequence[int] | None = None,
    train: bool = False,
  ) -> tuple[Array, dict[str, Any]]:
    """Applies the model.

    Args:
      image: [B, H, W, 3], normally in [-1, 1].
      seqhw: int, tokens per side, or (rows, columns); static.
      train: bool, turns dropout on.

    Returns:
      (x, out) as `vit.Model`.
    """
    fields.check_dtype(self.dtype_mm, f"{fields.key(self)}.dtype_mm")
    out = {}
    image = jnp.asarray(image, self.dtype_mm)
    x = out["stem"] = Patchify(
      self.patch_size,
      self.width,
      self.seqhw,
      use_bias=self.patch_bias,
      name="embedding",
    )(image, seqhw)
    _, h, w, d = x.shape
    posemb = vit.get_posemb(
      self, self.posemb, self.posemb_size, d, "pos_embedding", x.dtype
    ).astype(x.dtype)  # It may be stored in another one.
    if posemb.shape[1] != h * w:
      posemb = posemb.reshape(1, *self.posemb_size, d)
      posemb = positions.resample(posemb, (h, w))
      posemb = posemb.reshape(1, h * w, d)
    return self.after_stem(x, posemb, out, train)


def Model(
  num_classes: int | None, *, variant: str | None = None, **kw: Any
) -> _Model:
  """Makes a FlexiViT of a named size.

  Args:
    num_classes: int, outputs of the head; None or 0 leaves out the head.
    variant: str, for example "B/30": see `vit.decode_variant`. The patch size
      is that of the stored kernel.
    **kw: overrides of the variant; all of `vit.Model`, and
      patch_size: (height, width) in pixels of the stored kernel, default (32,
        32).
      posemb_size: (height, width) of the stored grid of positions, default (7,
        7).
      seqhw: tokens per side, or (rows, columns), for calls without it.

  Returns:
    The linen module.

  Raises:
    KeyError: unknown variant.
    TypeError: unknown keyword.
  """
  return _Model(num_classes, **{**vit.decode_variant(variant), **kw})


def image_grid(
  model_cfg: ConfigLike, size: Sequence[int], key: str = "model"
) -> positions.ImageGrid:
  """Tells which grid of positions a FlexiViT stores, for images of any size.

  Args:
    model_cfg: mapping, `config.model`, or None.
    size: not used.
    key: not used.

  Returns:
    The ImageGrid.
  """
  del size, key
  return positions.ImageGrid(tuple(_fields(model_cfg).posemb_size))


def _fields(model_cfg):
  """Makes the model of a config, to read its fields and their defaults."""
  return Model(**{"num_classes": None, **(model_cfg or {})})


def load(
  init_params: Params | None,
  init_file: str,
  model_cfg: ConfigLike = None,
  dont_load: str | Sequence[str] = (),
  grid: Sequence[int] | None = None,
  from_grid: Sequence[int] | None = None,
) -> Params:
  """Loads a FlexiViT or a ViT, and resamples what it stores at another size.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]` or one of `VANITY_NAMES`.
    model_cfg: mapping, `config.model`, or None. The sizes of the kernel and of
      the grid are those of `init_params`.
    dont_load: regexes of parameters that keep their initial values.
    grid: (rows, columns) of the positions of the model; None: `posemb_size`,
      if the checkpoint has another number of positions.
    from_grid: (rows, columns) of the positions in the checkpoint; None finds
      it in the workdir of the checkpoint, or takes a square.

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of
    `init_params`.

  Raises:
    ValueError: parameters do not match, see `common.merge_params`.
  """
  params = checkpoints.load_params(VANITY_NAMES.get(init_file, init_file))
  # Without learned positions, or without a model, there is none.
  posemb = (init_params or {}).get("pos_embedding")
  params = vit_checkpoints.fix_old_checkpoints(
    params, None if posemb is None else posemb.shape[1]
  )
  params = vit_checkpoints.restack(params, _scan(init_params, model_cfg))
  params = common.merge_params(params, init_params, dont_load)
  if not init_params:
    return params
  old = params.get("pos_embedding")
  if old is not None and old is not posemb:
    if grid is None and old.shape[1] != posemb.shape[1]:
      grid = _posemb_size(model_cfg, posemb.shape[1])
    params["pos_embedding"] = vit_checkpoints.fit_posemb(
      old, posemb, init_file, grid, from_grid
    )
  kernel = init_params["embedding"]["kernel"]
  if params["embedding"]["kernel"] is not kernel:
    params["embedding"]["kernel"] = resample_patchemb(
      params["embedding"]["kernel"], kernel.shape[:2]
    )
  return params


def _scan(init_params, model_cfg):
  """Tells whether the blocks of the model are stacked."""
  if init_params:
    return "encoderblock" in init_params.get("Transformer", {})
  get = getattr(model_cfg, "get", lambda key: None)
  return get("scan")


def _posemb_size(model_cfg, num):
  """Returns the grid of `num` positions that a config says; None if none."""
  get = getattr(model_cfg, "get", lambda key, default: default)
  size = tuple(get("posemb_size", ()))
  return size if math.prod(size) == num and size else None


# Names of public checkpoints that `config.model_init` accepts.
VANITY_NAMES = {
  **vit_checkpoints.VANITY_NAMES,
  **{
    f"FlexiViT-{size} i1k": f"gs://big_vision/flexivit/flexivit_{size.lower()}_i1k.npz"
    for size in "LBS"
  },
  **{
    f"FlexiViT-B i21k {epochs}ep": f"gs://big_vision/flexivit/flexivit_b_i21k_{epochs}ep.npz"
    for epochs in (90, 300, 1000)
  },
  **{
    f"ViT-B/{patch} i21k": f"gs://big_vision/flexivit/vit_b{patch}_i21k_300ep.npz"
    for patch in (16, 30)
  },
}
