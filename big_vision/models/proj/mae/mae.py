"""Masked autoencoder: a ViT on some of the patches, and a decoder for the others.

Reference: He et al. 2021, https://arxiv.org/abs/2111.06377

Shapes: `B` batch, `N` patches, `K` patches that are kept, `D` width, `d` width of
the decoder, `P` values of a patch, height * width * 3, rows first and colors last.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision.models import (
  activations,
  common,
  positions,
  transformer,
  vit,
)
from big_vision.types import Array, ConfigLike, Params


class _Model(transformer.Options):
  """Masked autoencoder; `Model` lists the fields."""

  patch_size: Sequence[int] = (16, 16)
  width: int = 768
  depth: int = 12
  mlp_dim: int | None = None
  num_heads: int = 12
  decoder_width: int = 512
  decoder_depth: int = 8
  decoder_mlp_dim: int | None = None
  decoder_num_heads: int = 16
  mask_ratio: float = 0.75
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(
    self, image: Array, *, noise: Array | None = None, train: bool = False
  ) -> tuple[Array, dict[str, Any]]:
    """Applies encoder and decoder.

    Args:
      image: [B, H, W, 3].
      noise: [B, N], the patches with the smallest values are kept; None draws it
        from the random stream "dropout".
      train: bool, turns stochastic depth on.

    Returns:
      (pred [B, N, P], out): out has `mask` [B, N], 1 where a patch is hidden;
      `target` [B, N, P], the image; `encoded` [B, 1 + K, D], class token first.
    """
    out: dict[str, Any] = {"target": patchify(image, self.patch_size)}
    grid = positions.image_grid(image.shape[1:3], self.patch_size)
    conv = nn.Conv(
      self.width,
      tuple(self.patch_size),
      strides=tuple(self.patch_size),
      padding="VALID",
      dtype=self.dtype_mm,
      name="embedding",
    )
    x = activations.patches(conv(jnp.asarray(image, self.dtype_mm)))
    x = x.reshape(image.shape[0], -1, self.width)
    pos = positions.get_posemb(
      self, "learn", grid.stored, self.width, "pos_embedding", x.dtype
    )
    if noise is None:
      shape = x.shape[:2]
      noise = jax.random.uniform(self.make_rng("dropout"), shape)
    x, restore = self._keep(x + pos.astype(x.dtype), noise, out)
    cls = self.param("cls", nn.initializers.zeros, (1, 1, self.width), x.dtype)
    cls = jnp.tile(cls, [x.shape[0], 1, 1]).astype(x.dtype)
    x = jnp.concatenate([cls, x], axis=1)
    common_kw = dict(
      scan=self.scan,
      remat_policy=self.remat_policy,
      dtype_mm=self.dtype_mm,
      **self.options(),
    )
    x, out["encoder"] = transformer.Encoder(
      depth=self.depth,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      name="Transformer",
      **common_kw,
    )(x, not train)
    out["encoded"] = x
    x = self._unmasked(x, restore)
    x, out["decoder"] = transformer.Encoder(
      depth=self.decoder_depth,
      mlp_dim=self.decoder_mlp_dim,
      num_heads=self.decoder_num_heads,
      name="Decoder",
      **common_kw,
    )(x, not train)
    size = out["target"].shape[-1]
    return nn.Dense(size, name="decoder_pred")(x)[:, 1:], out

  def _keep(self, x, noise, out):
    """Keeps some patches; ([B, K, D], [B, N] where each patch is among them)."""
    num = x.shape[1]
    keep = int(num * (1 - self.mask_ratio))
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    out["mask"] = (restore >= keep).astype(jnp.float32)
    return jnp.take_along_axis(x, order[:, :keep, None], axis=1), restore

  def _unmasked(self, x, restore):
    """Puts mask tokens where patches are hidden, and adds positions."""
    x = nn.Dense(self.decoder_width, name="decoder_embed")(x)
    n, num, d = x.shape[0], restore.shape[1], self.decoder_width
    init = nn.initializers.normal(stddev=0.02)
    token = self.param("mask_token", init, (1, 1, d), x.dtype)
    hidden = jnp.tile(token, [n, num + 1 - x.shape[1], 1])
    patches = jnp.concatenate([x[:, 1:], hidden], axis=1)
    patches = jnp.take_along_axis(patches, restore[:, :, None], axis=1)
    x = jnp.concatenate([x[:, :1], patches], axis=1)
    shape = (1, num + 1, d)  # The class token has a position, too.
    return x + self.param("decoder_pos_embedding", init, shape, x.dtype)


def patchify(image: Array, patch_size: Sequence[int]) -> Array:
  """Cuts images into patches.

  Args:
    image: [B, H, W, C].
    patch_size: (height, width), which divide H and W.

  Returns:
    [B, N, height * width * C].
  """
  b, height, width, c = image.shape
  p, q = patch_size
  x = image.reshape(b, height // p, p, width // q, q, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * q * c)


def loss(pred: Array, out: dict[str, Any], normalize: bool = True) -> Array:
  """Computes the squared error of the hidden patches, see section 3.

  Args:
    pred: [B, N, P], see `Model`.
    out: dict of intermediates of the model.
    normalize: bool, whether each patch of the image is normalized by its mean and
      deviation, `norm_pix_loss`.

  Returns:
    Scalar, the mean over hidden patches.
  """
  target = out["target"]
  if normalize:
    mean = jnp.mean(target, axis=-1, keepdims=True)
    var = jnp.var(target, axis=-1, keepdims=True, ddof=1)
    target = (target - mean) / jnp.sqrt(var + 1e-6)
  error = jnp.mean(jnp.square(pred - target), axis=-1)
  return jnp.sum(error * out["mask"]) / jnp.sum(out["mask"])


def Model(num_classes: int | None = None, **kw: Any) -> _Model:
  """Makes a masked autoencoder.

  Args:
    num_classes: not used: it has no head.
    **kw: patch_size, width, depth, mlp_dim, num_heads of the encoder, default as
      ViT-B/16; decoder_width, decoder_depth, decoder_mlp_dim, decoder_num_heads,
      default 512, 8, four times the width, 16; mask_ratio, default 0.75; scan,
      remat_policy, dtype_mm as of `vit.Encoder`; and the keywords of
      `transformer.Options`.

  Returns:
    The linen module.

  Raises:
    TypeError: unknown keyword.
  """
  del num_classes
  return _Model(**kw)


def load(
  init_params: Params | None,
  init_file: str | common.Loaded,
  model_cfg: ConfigLike,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads a checkpoint.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all that
      the checkpoint has.
    init_file: a path `<path>[:<sub/tree>]`, or parameters.
    model_cfg: mapping, `config.model`, or None.
    dont_load: regexes of parameters that keep their initial values.

  Returns:
    Nested dict of parameters.

  Raises:
    ValueError: parameters do not match, see `common.merge_params`.
  """
  scan = (model_cfg or {}).get("scan")

  def stack(params):
    params = vit.restack(params, scan)
    if "Decoder" not in params:
      return params
    decoder = vit.restack({"Transformer": params["Decoder"]}, scan)
    return {**params, "Decoder": decoder["Transformer"]}

  return common.load(init_params, init_file, dont_load, stack)
