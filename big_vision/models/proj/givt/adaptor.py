"""Invertible network between the codes of a VAE and those that GIVT models.

References:
  Tschannen et al. 2023, GIVT, https://arxiv.org/abs/2312.02116
  Jacobsen et al. 2018, i-RevNet, https://arxiv.org/abs/1802.07088

Shapes: `B` batch, `h, w` grid of codes, `n` = h * w, `C` channels. The names of the
modules are the names in checkpoints, and random keys derive from them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import common, fields
from big_vision.models.proj.givt import cnn
from big_vision.types import Array, ConfigLike, Params

# The two halves of the channels.
Pair = tuple[Array, Array]


def _dtype_field() -> str:
  """Makes a field that does not move those of subclasses."""
  return dataclasses.field(default="float32", kw_only=True)


class IRevNetBlock(nn.Module):
  """Adds a function of one half of the channels to the other half.

  Attributes:
    first: bool, leaves out normalization and activation of the input.
    dropout_rate: float.
    num_channels: int, of each half.
    num_channels_bottleneck: int, channels inside; None means `num_channels`.
    num_grps_norm: int, groups of normalization, which divide these numbers.
    dtype_mm: str, dtype of the function; sums have that of the input.
  """

  first: bool = False
  dropout_rate: float = 0.0
  num_channels: int = 2
  num_channels_bottleneck: int | None = None
  num_grps_norm: int = 32
  dtype_mm: str = _dtype_field()

  @nn.compact
  def _branch(self, x, train):
    """Computes what is added to the other half, [B, h, w, C / 2]."""
    dtype = x.dtype

    def conv(x, features):
      kw: dict[str, Any] = dict(padding=1, use_bias=False, dtype=self.dtype_mm)
      return nn.Conv(features, (3, 3), **kw)(x)

    def norm(x, name):
      kw: dict[str, Any] = dict(
        num_groups=self.num_grps_norm, dtype=self.dtype_mm
      )
      return nn.relu(nn.GroupNorm(name=name, **kw)(x))

    inside = self.num_channels_bottleneck or self.num_channels
    if not self.first:
      x = norm(x, "gn_0")
    x = norm(conv(x, inside), "gn_1")
    x = nn.Dropout(self.dropout_rate)(conv(x, inside), not train)
    x = conv(norm(x, "gn_2"), self.num_channels)
    return x.astype(dtype)

  def forward(self, x: Pair, train: bool = True) -> Pair:
    """Applies the block.

    Args:
      x: two halves [B, h, w, C / 2].
      train: turns dropout on.

    Returns:
      Two halves, of the same shape.
    """
    x1, x2 = x
    return x2, self._branch(x2, train) + x1

  def inverse(self, x: Pair, train: bool = True) -> Pair:
    """Applies the inverse of the block, which it is without dropout.

    Args:
      x: what `forward` returns.
      train: turns dropout on.

    Returns:
      What `forward` was given.
    """
    x2, y1 = x
    return y1 - self._branch(x2, train), x2

  def __call__(self, x: Pair, train: bool = True) -> Pair:
    """Applies the block.

    Args:
      x, train: as for `forward`.

    Returns:
      What `forward` returns.
    """
    return self.forward(x, train)


class IRevNet(nn.Module):
  """Invertible network on feature maps.

  Attributes:
    num_blocks: int.
    num_channels: int, C, even.
    num_channels_bottleneck: int, twice the channels inside of a block; None means
      C.
    dropout_rate: float.
    dtype_mm: str, dtype of what is added to the features; features stay in that
      of the input, else there is no inverse.
  """

  num_blocks: int = 4
  num_channels: int = 4
  num_channels_bottleneck: int | None = None
  dropout_rate: float = 0.0
  dtype_mm: str = _dtype_field()

  def setup(self):
    fields.check_dtype(self.dtype_mm, "adaptor.model.dtype_mm")
    half = self.num_channels // 2
    inside = (self.num_channels_bottleneck or self.num_channels) // 2
    groups = min(32, half)
    even = self.num_channels > 0 and self.num_channels % 2 == 0
    if not even or half % groups or inside % groups:
      raise lookup.ConfigError(
        f"num_channels={self.num_channels} (config.model.out_dim) should be even, "
        f"and half of it and of config.adaptor.model.num_channels_bottleneck="
        f"{self.num_channels_bottleneck} multiples of {groups or 1}, the number "
        "of groups of the normalization."
      )
    self.modules = [
      IRevNetBlock(
        first=i == 0,
        dropout_rate=self.dropout_rate,
        num_channels=half,
        num_channels_bottleneck=inside,
        num_grps_norm=groups,
        dtype_mm=self.dtype_mm,
      )
      for i in range(self.num_blocks)
    ]

  def forward(self, x: Array, train: bool = True) -> Array:
    """Applies the network.

    Args:
      x: [B, h, w, C].
      train: turns dropout on.

    Returns:
      [B, h, w, C].
    """
    x1, x2 = jnp.split(x, 2, axis=-1)
    for block in self.modules:
      x1, x2 = block.forward((x1, x2), train)
    return jnp.concatenate([x1, x2], axis=-1)

  def inverse(self, x: Array, train: bool = True) -> Array:
    """Applies the inverse of the network, which it is without dropout.

    Args:
      x: [B, h, w, C].
      train: turns dropout on.

    Returns:
      [B, h, w, C].
    """
    x1, x2 = jnp.split(x, 2, axis=-1)
    for block in reversed(self.modules):
      x1, x2 = block.inverse((x1, x2), train)
    return jnp.concatenate([x1, x2], axis=-1)

  def __call__(self, x: Array, train: bool = True) -> Array:
    """Applies the network.

    Args:
      x, train: as for `forward`.

    Returns:
      What `forward` returns.
    """
    return self.forward(x, train)


class Model(IRevNet):
  """Invertible network on sequences of codes.

  Attributes:
    pixel_shuffle_patch_size: that of the VAE, whose images are square.
  """

  pixel_shuffle_patch_size: Sequence[int] = (1, 1)

  def forward(self, x: Array, train: bool = True) -> Array:
    """Applies the network.

    Args:
      x: [B, n, C].
      train: turns dropout on.

    Returns:
      [B, n, C].

    Raises:
      ConfigError: the codes are not those of a square image.
    """
    return super().forward(self._as_grid(x), train).reshape(x.shape)

  def inverse(self, x: Array, train: bool = True) -> Array:
    """Applies the inverse of the network, which it is without dropout.

    Args:
      x: [B, n, C].
      train: turns dropout on.

    Returns:
      [B, n, C].

    Raises:
      ConfigError: the codes are not those of a square image.
    """
    return super().inverse(self._as_grid(x), train).reshape(x.shape)

  def _as_grid(self, x):
    """Returns codes [B, h, w, C]."""
    b, n, c = x.shape
    grid = cnn.get_h_w_pixelshuffle(n, self.pixel_shuffle_patch_size)
    return x.reshape(b, *grid, c)


def load(
  init_params: Params | None,
  init_file: Any,
  model_params: ConfigLike = None,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads a checkpoint.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all that
      the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]`, or a Loaded.
    model_params: not used.
    dont_load: regexes of parameters that keep their initial values.

  Returns:
    Nested dict of parameters.

  Raises:
    ValueError: parameters do not match, see `common.merge_params`.
  """
  del model_params
  return common.load(init_params, init_file, dont_load)
