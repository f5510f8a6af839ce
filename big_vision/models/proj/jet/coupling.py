"""Coupling layers of `jet`: half of the tokens decides how the other half changes.

Shapes: `B` batch, `n` tokens, `C` channels of a token, `c = C / 2`. The names of
the modules are the names in checkpoints.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros

from big_vision.models import fields, vit
from big_vision.types import Array

# What layers split. A kind in a program is the index.
KINDS = SPATIAL, CHANNELS = "spatial", "channels"


class DNN(nn.Module):
  """ViT on tokens, that computes how to change the others.

  Attributes:
    depth: int, number of blocks.
    emb_dim: int, width.
    num_heads: int.
    dtype_mm: str, dtype of matrix products, but those of the last layer.
  """

  depth: int = 1
  emb_dim: int = 256
  num_heads: int = 4
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(
    self, x: Array, context: Array | None = None
  ) -> tuple[Array, Array]:
    """Applies the ViT.

    Args:
      x: [B, n, c].
      context: [B, S, D], what tokens attend to besides, or None.

    Returns:
      (bias, raw scale), each [B, n, c]; both are 0 at first.

    Raises:
      ConfigError: the heads do not divide the width, or unknown dtype.
    """
    _, num, size = x.shape
    where = fields.key(self)
    fields.check_heads(self.num_heads, self.emb_dim, where)
    fields.check_dtype(self.dtype_mm, f"{where}.dtype_mm")
    x = nn.Dense(self.emb_dim, dtype=self.dtype_mm, name="init_proj")(x)
    posemb = self.param(
      "posemb",
      nn.initializers.normal(1 / math.sqrt(self.emb_dim)),
      (1, num, self.emb_dim),
      jnp.float32,
    )
    x = x + posemb.astype(x.dtype)
    if context is not None:
      x = x + nn.MultiHeadDotProductAttention(
        num_heads=self.num_heads,
        qkv_features=self.emb_dim,
        out_kernel_init=zeros,
        dtype=self.dtype_mm,
      )(x, context)
    x, _ = vit.Encoder(
      depth=self.depth,
      num_heads=self.num_heads,
      dtype_mm=self.dtype_mm,
      name="vit",
    )(x)
    x = nn.Dense(
      2 * size, kernel_init=zeros, dtype=jnp.float32, name="final_proj"
    )(x)
    return x[..., :size], x[..., size:]


class Coupling(nn.Module):
  """Coupling layer: one half of the tokens decides how the other changes.

  Attributes:
    depth, emb_dim, num_heads: ints, of the `DNN`.
    scale_factor: float, the largest scale.
    dtype_mm: str, see `DNN`.
  """

  depth: int = 1
  emb_dim: int = 256
  num_heads: int = 4
  scale_factor: float = 2.0
  dtype_mm: str = "float32"

  def setup(self):
    self.dnn = DNN(self.depth, self.emb_dim, self.num_heads, self.dtype_mm)

  def forward(
    self,
    x: Array,
    kind: Array | int,
    channel_proj: Array,
    spatial_proj: Array,
    context: Array | None = None,
  ) -> tuple[Array, Array]:
    """Applies the layer.

    Args:
      x: [B, n, C].
      kind: int [], 0 if the halves are of positions, 1 if they are of channels; a
        Python number compiles one of them only.
      channel_proj: [C, C], permutation; used with kind 1.
      spatial_proj: [n, n], permutation; used with kind 0.
      context: [B, S, D], see `DNN`, or None.

    Returns:
      ([B, n, C], log-determinant of the Jacobian [B]).
    """
    x1, x2 = _split(x, kind, channel_proj, spatial_proj)
    bias, scale, logdet = self._changes(x1, context)
    x2 = (x2 + bias) * scale
    return _merge(x1, x2, kind, channel_proj, spatial_proj), logdet

  def inverse(
    self,
    x: Array,
    kind: Array | int,
    channel_proj: Array,
    spatial_proj: Array,
    context: Array | None = None,
  ) -> tuple[Array, Array]:
    """Inverts `forward`.

    Args:
      x: [B, n, C].
      kind: see `forward`.
      channel_proj: see `forward`.
      spatial_proj: see `forward`.
      context: see `forward`.

    Returns:
      ([B, n, C], log-determinant of the Jacobian of the inverse [B]).
    """
    x1, x2 = _split(x, kind, channel_proj, spatial_proj)
    bias, scale, logdet = self._changes(x1, context)
    x2 = x2 / scale - bias
    return _merge(x1, x2, kind, channel_proj, spatial_proj), -logdet

  def _changes(self, x, context):
    """Computes (bias, scale, log-determinant [B])."""
    bias, raw = self.dnn(x, context)
    log_scale = jax.nn.log_sigmoid(raw) + math.log(self.scale_factor)
    scale = jax.nn.sigmoid(raw) * self.scale_factor
    return bias, scale, jnp.sum(log_scale, axis=(1, 2))


def _product(equation, x, proj):
  """Permutes x; a permutation must not round."""
  return jnp.einsum(equation, x, proj, precision="highest")


def _select(kind, by_space, by_channels, *args):
  """Calls the function of a kind."""
  if isinstance(kind, int):
    return (by_space, by_channels)[kind](*args)
  return jax.lax.cond(kind == 1, by_channels, by_space, *args)


def _split(x, kind, channel_proj, spatial_proj):
  """Cuts [B, n, C] into halves [B, n, c] of either kind."""
  b, n, c = x.shape

  def by_channels(x):
    x = _product("ntc,cd->ntd", x, channel_proj)
    return x[..., : c // 2], x[..., c // 2 :]

  def by_space(x):
    x = _product("ntk,tm->nmk", x, spatial_proj)
    half = lambda x: x.reshape(b, n, c // 2)
    return half(x[:, : n // 2]), half(x[:, n // 2 :])

  return _select(kind, by_space, by_channels, x)


def _merge(x1, x2, kind, channel_proj, spatial_proj):
  """Inverts `_split`."""
  b, n, c = x1.shape

  def by_channels(x1, x2):
    x = jnp.concatenate([x1, x2], axis=2)
    return _product("ntd,cd->ntc", x, channel_proj)

  def by_space(x1, x2):
    half = lambda x: x.reshape(b, n // 2, 2 * c)
    x = jnp.concatenate([half(x1), half(x2)], axis=1)
    return _product("nmk,tm->ntk", x, spatial_proj)

  return _select(kind, by_space, by_channels, x1, x2)
