"""Convolutional VAE of images, in the manner of VQ-GAN and MaskGIT.

References:
  Tschannen et al. 2023, GIVT, https://arxiv.org/abs/2312.02116
  Esser et al. 2020, VQ-GAN, https://arxiv.org/abs/2012.09841
  Chang et al. 2022, MaskGIT, https://arxiv.org/abs/2202.04200

Shapes: `B` batch, `H, W` image, `h, w` feature map, `C` channels, `n` = code_len,
`c` size of a codeword. The names of the modules are the names in checkpoints, and
random keys derive from them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import common, fields, patches
from big_vision.models.proj.givt import checkpoints, vae
from big_vision.models.proj.mae import mae
from big_vision.types import Array, ConfigLike, DType, Params

_ACTIVATIONS = {"relu": nn.relu, "swish": nn.swish}
_NORMS = ("BN", "LN", "GN")
_GROUPS = 32


def _activation(name: str) -> Callable[[Array], Array]:
  """Looks up an activation."""
  if name not in _ACTIVATIONS:
    raise lookup.unknown(
      "activation",
      name,
      _ACTIVATIONS,
      "model.activation_fn",
      lookup.ConfigError,
    )
  return _ACTIVATIONS[name]


def _norm(norm_type: str, train: bool, dtype: DType) -> Callable[..., Any]:
  """Looks up a normalization, a function that makes the layer."""
  kw: dict[str, Any] = {"dtype": dtype, "use_fast_variance": False}
  if norm_type == "BN":
    return functools.partial(
      nn.BatchNorm,
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      **kw,
    )
  if norm_type == "LN":
    return functools.partial(nn.LayerNorm, **kw)
  if norm_type == "GN":
    return functools.partial(nn.GroupNorm, num_groups=_GROUPS, **kw)
  raise lookup.unknown(
    "normalization", norm_type, _NORMS, "model.norm_type", lookup.ConfigError
  )


class ResBlock(nn.Module):
  """Residual block, with normalization and activation before convolutions.

  Attributes:
    filters: int, channels of the output.
    norm_fn: makes a normalization.
    conv_fn: makes a convolution.
    dtype: of the computation.
    activation_fn: activation.
    use_conv_shortcut: bool, size of the convolution where the number of channels
      changes: 3x3 instead of 1x1.
  """

  filters: int
  norm_fn: Callable[..., Any]
  conv_fn: Callable[..., Any]
  dtype: DType
  activation_fn: Callable[[Array], Array] = nn.relu
  use_conv_shortcut: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Applies the block.

    Args:
      x: [B, h, w, C].

    Returns:
      [B, h, w, filters].
    """
    conv = functools.partial(self.conv_fn, self.filters, use_bias=False)
    y = x
    for _ in range(2):
      y = self.activation_fn(self.norm_fn()(y))
      y = conv(kernel_size=(3, 3))(y)
    if x.shape[-1] == self.filters:
      return x + y
    # The input is left out here, as in all published checkpoints.
    size = (3, 3) if self.use_conv_shortcut else (1, 1)
    return y + conv(kernel_size=size)(y)


class Encoder(nn.Module):
  """Convolutional encoder, which halves the size between its levels.

  Attributes:
    filters: int, channels of the first convolution.
    num_res_blocks: int, residual blocks of each level.
    channel_multipliers: factors of `filters`, one for each level.
    embedding_dim: int, channels of the output.
    conv_downsample: bool, halves with convolutions instead of averages.
    norm_type: str, "BN", "LN" or "GN".
    activation_fn_str: str, "relu" or "swish".
    dtype: of all but the last layer, which is float32.
  """

  filters: int
  num_res_blocks: int
  channel_multipliers: Sequence[int]
  embedding_dim: int
  conv_downsample: bool = False
  norm_type: str = "GN"
  activation_fn_str: str = "swish"
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """Encodes images.

    Args:
      x: [B, H, W, C].
      train: bool, whether batch normalization uses the statistics of the batch.

    Returns:
      [B, h, w, embedding_dim], float32.
    """
    conv = functools.partial(nn.Conv, dtype=self.dtype)
    norm = _norm(self.norm_type, train, self.dtype)
    act = _activation(self.activation_fn_str)
    block = functools.partial(
      ResBlock,
      norm_fn=norm,
      conv_fn=conv,
      dtype=self.dtype,
      activation_fn=act,
    )
    x = conv(self.filters, (3, 3), use_bias=False)(x)
    filters = self.filters
    for i, multiplier in enumerate(self.channel_multipliers):
      if i:  # Between levels.
        if self.conv_downsample:
          x = conv(filters, (4, 4), strides=(2, 2))(x)
        else:
          x = nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)
      filters = self.filters * multiplier
      for _ in range(self.num_res_blocks):
        x = block(filters)(x)
    for _ in range(self.num_res_blocks):
      x = block(filters)(x)
    x = act(norm()(x))
    return nn.Conv(self.embedding_dim, (1, 1), dtype=jnp.float32)(x)


class Decoder(nn.Module):
  """Convolutional decoder, which doubles the size between its levels.

  Attributes:
    filters: int, channels of the last level, before its multiplier.
    num_res_blocks: int, residual blocks of each level.
    channel_multipliers: factors of `filters`, those of the encoder.
    norm_type: str, "BN", "LN" or "GN".
    activation_fn_str: str, "relu" or "swish".
    output_dim: int, channels of the output.
    dtype: of all but the last layer, which is float32.
  """

  filters: int
  num_res_blocks: int
  channel_multipliers: Sequence[int]
  norm_type: str = "GN"
  activation_fn_str: str = "swish"
  output_dim: int = 3
  dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """Decodes images.

    Args:
      x: [B, h, w, c].
      train: bool, whether batch normalization uses the statistics of the batch.

    Returns:
      [B, H, W, output_dim], float32.
    """
    conv = functools.partial(nn.Conv, dtype=self.dtype)
    norm = _norm(self.norm_type, train, self.dtype)
    act = _activation(self.activation_fn_str)
    block = functools.partial(
      ResBlock,
      norm_fn=norm,
      conv_fn=conv,
      dtype=self.dtype,
      activation_fn=act,
    )
    filters = self.filters * self.channel_multipliers[-1]
    x = conv(filters, (3, 3))(x)
    for _ in range(self.num_res_blocks):
      x = block(filters)(x)
    for i in reversed(range(len(self.channel_multipliers))):
      filters = self.filters * self.channel_multipliers[i]
      for _ in range(self.num_res_blocks):
        x = block(filters)(x)
      if i:
        b, h, w, c = x.shape
        x = jax.image.resize(x, (b, 2 * h, 2 * w, c), "nearest")
        x = conv(filters, (3, 3))(x)
    x = act(norm()(x))
    return nn.Conv(self.output_dim, (3, 3), dtype=jnp.float32)(x)


class Model(vae.Model):
  """Encodes square images as vectors, row by row, and decodes them.

  Attributes:
    codeword_dim: int, channels of the feature map; c is a multiple of it, with
      `pixel_shuffle_patch_size`.
    code_len: int, n, of which only `code_dropout` needs to know.
    filters: int, channels before multiplication.
    num_res_blocks: int, residual blocks of each level.
    channel_multipliers: factors of `filters`, one for each level; the size halves
      between levels.
    conv_downsample: bool, halves with convolutions instead of averages.
    activation_fn: str, "relu" or "swish".
    norm_type: str, "GN", "LN", or "BN", which keeps averages in the collection
      `batch_stats`: it must be mutable in training.
    output_dim: int, channels of the images.
    dtype: of the computation of all but the last layers of encoder and decoder;
      parameters are float32.
    malib_ckpt: bool, whether the parameters are those of the published VAEs of
      ImageNet: images are [0, 1] inside.
    pixel_shuffle_patch_size: (rows, columns) of the feature map that are
      concatenated to one code.
    dtype_mm: str, of the computation, too; None leaves it to `dtype`.
  """

  filters: int = 128
  num_res_blocks: int = 2
  channel_multipliers: Sequence[int] = ()
  conv_downsample: bool = False
  activation_fn: str = "swish"
  norm_type: str = "GN"
  output_dim: int = 3
  dtype: DType = jnp.float32
  malib_ckpt: bool = False
  pixel_shuffle_patch_size: Sequence[int] = (1, 1)
  dtype_mm: str | None = None

  def setup(self):
    self._check()
    common_kw: dict[str, Any] = dict(
      filters=self.filters,
      num_res_blocks=self.num_res_blocks,
      channel_multipliers=self.channel_multipliers,
      norm_type=self.norm_type,
      activation_fn_str=self.activation_fn,
      dtype=self.dtype if self.dtype_mm is None else jnp.dtype(self.dtype_mm),
    )
    self.cnn_encoder = Encoder(
      embedding_dim=2 * (self.codeword_dim or 0),
      conv_downsample=self.conv_downsample,
      **common_kw,
    )
    self.cnn_decoder = Decoder(output_dim=self.output_dim, **common_kw)

  def _check(self):
    """Refuses settings that do not fit each other."""
    fields.check_dtype(self.dtype_mm, "model.dtype_mm")
    if not self.codeword_dim:
      raise lookup.ConfigError(
        f"config.model.codeword_dim={self.codeword_dim!r} should be the number of "
        "channels of a code, for example 16."
      )
    if not self.channel_multipliers:
      raise lookup.ConfigError(
        "config.model.channel_multipliers is empty: give one factor for each "
        "level, for example (1, 1, 2, 2, 4)."
      )
    widths = [self.filters * m for m in (1, *self.channel_multipliers)]
    if self.norm_type == "GN" and any(w % _GROUPS for w in widths):
      raise lookup.ConfigError(
        f"config.model.filters={self.filters} with config.model."
        f"channel_multipliers={tuple(self.channel_multipliers)} should be "
        f"multiples of {_GROUPS}, the groups of norm_type='GN'."
      )

  def encode(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
    """Encodes images.

    Args:
      x: [B, H, H, C] in [-1, 1].
      train: whether batch normalization uses the statistics of the batch.

    Returns:
      (means, logarithms of the variances), both [B, n, c].

    Raises:
      ConfigError: images are not square, or of a size that does not fit
        `pixel_shuffle_patch_size`.
    """
    if self.malib_ckpt:
      x = (x + 1) / 2
    x = self.cnn_encoder(x, train=train)
    _, h, w, _ = x.shape
    ph, pw = self.pixel_shuffle_patch_size
    if h != w or h % ph or w % pw:
      raise lookup.ConfigError(
        f"The feature map of the image is {h} x {w}: it must be square, and "
        f"config.model.pixel_shuffle_patch_size={(ph, pw)} divide it. Change "
        "the size in config.input.pp."
      )
    mu, logvar = jnp.split(x, 2, axis=-1)
    if self.malib_ckpt:
      logvar = jnp.clip(logvar, -30, 20)
    return self._codes(mu), self._codes(logvar)

  def _codes(self, x):
    """Makes codes [B, n, c] of a feature map; its channels come first in c."""
    x = mae.patchify(x, self.pixel_shuffle_patch_size)
    b, n, c = x.shape
    x = x.reshape(b, n, -1, self.codeword_dim)
    return jnp.swapaxes(x, 2, 3).reshape(b, n, c)

  def decode(self, z: Array, train: bool = False) -> Array:
    """Decodes images.

    Args:
      z: [B, n, c].
      train: whether batch normalization uses the statistics of the batch.

    Returns:
      [B, H, H, C] in [-1, 1].

    Raises:
      ConfigError: the codes are not those of a square image.
    """
    patch = tuple(self.pixel_shuffle_patch_size)
    b, n, c = z.shape
    grid = get_h_w_pixelshuffle(n, patch)
    z = jnp.swapaxes(z.reshape(b, n, -1, math.prod(patch)), 2, 3)
    z = patches.unpatchify(z.reshape(b, n, c), grid, patch)
    x = self.cnn_decoder(z, train=train)
    if self.malib_ckpt:
      x = 2 * x - 1
    return jnp.clip(x, -1, 1)


def get_h_w_pixelshuffle(
  hw: int, pixel_shuffle_patch_size: Sequence[int]
) -> tuple[int, int]:
  """Finds the grid of codes of a square feature map.

  Args:
    hw: int, number of codes.
    pixel_shuffle_patch_size: (rows, columns) of the feature map in a code.

  Returns:
    (rows, columns) of codes.

  Raises:
    ConfigError: there is no such grid.
  """
  ph, pw = pixel_shuffle_patch_size
  side = math.isqrt(hw * ph * pw)
  h, w = side // ph, side // pw
  if h * w != hw:
    raise lookup.ConfigError(
      f"{hw} codes of config.model.pixel_shuffle_patch_size={(ph, pw)} are not "
      "a square feature map."
    )
  return h, w


def load(
  init_params: Params | None,
  init_file: Any,
  model_params: ConfigLike = None,
  dont_load: str | Sequence[str] = (),
  malib_ckpt: bool = False,
  use_ema_params: bool = False,
) -> Params:
  """Loads a checkpoint.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all that
      the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]`, or a Loaded; with `malib_ckpt` see
      `checkpoints.load_malib`.
    model_params: not used.
    dont_load: regexes of parameters that keep their initial values.
    malib_ckpt: bool, whether it is the state of the code that has trained the
      published VAEs of ImageNet.
    use_ema_params: bool, takes the average of the parameters of such a state.

  Returns:
    Nested dict of parameters.

  Raises:
    ConfigError: an average is asked for in another checkpoint.
    ValueError: parameters do not match, see `common.merge_params`.
  """
  del model_params
  if malib_ckpt:
    params = checkpoints.load_malib(init_file, use_ema_params)
    return common.merge_params(params, init_params, dont_load)
  if use_ema_params:
    raise lookup.ConfigError(
      "use_ema_params is for a checkpoint with malib_ckpt=True; for one of a run "
      "with config.ema_decay write <path>:params_ema."
    )
  return common.load(init_params, init_file, dont_load)
