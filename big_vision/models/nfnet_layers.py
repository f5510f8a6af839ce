"""Layers of NFNet, which keep the variance of what they get; see `nfnet`.

References:
  Brock et al. 2021a (signal propagation), https://arxiv.org/abs/2101.08692
  Hu et al. 2017 (squeeze-excite), https://arxiv.org/abs/1709.01507

Shapes: `B` batch, `h, w` feature map, `C` channels.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from big_vision.types import Array

# 1 / standard deviation of gelu(z) of a standard normal z, as the authors have
# estimated it (0.04% more than by integration).
GELU_GAIN = 1.7015043497085571


def scaled_gelu(x: Array, approximate: bool = True) -> Array:
  """Applies a GELU that maps a standard normal to a variance of 1.

  Args:
    x: array.
    approximate: bool, whether it is the approximation with tanh.

  Returns:
    Array of the same shape.
  """
  return nn.gelu(x, approximate=approximate) * GELU_GAIN


class ScaledStdConv(nn.Conv):
  """Convolution with scaled weight standardization.

  The kernel in use is gain * (kernel - mean) / sqrt(variance * fan_in), per
  output channel; it keeps the variance of white noise. Checkpoints hold
  `kernel` and `gain`.

  Attributes:
    std_eps: float, added to the variance; None is a lower bound of 1e-4 for
      variance * fan_in instead.
  """

  std_eps: float | None = None

  def param(self, name: str, *args: Any, **kw: Any) -> Any:
    """Makes a parameter; the kernel is standardized and scaled.

    Args:
      name: str, of the parameter.
      *args: for `nn.Module.param`.
      **kw: for `nn.Module.param`.

    Returns:
      The parameter as it is used.
    """
    value = super().param(name, *args, **kw)
    if name != "kernel":
      return value
    gain = super().param("gain", nn.initializers.ones, value.shape[-1:])
    fan_in = math.prod(value.shape[:-1])
    axis = tuple(range(value.ndim - 1))
    value = value - jnp.mean(value, axis, keepdims=True)
    variance = jnp.mean(value * value, axis, keepdims=True)
    if self.std_eps is None:
      # The bound matters to kernels that are (nearly) constant.
      scale = lax.rsqrt(jnp.maximum(variance * fan_in, 1e-4))
    else:
      scale = lax.rsqrt((variance + self.std_eps) * fan_in)
    return value * (scale * jnp.expand_dims(gain, axis))


class SqueezeExcite(nn.Module):
  """Computes weights of channels, between 0 and 2, from their means.

  Attributes:
    ratio: float, hidden width divided by the number of channels.
    dtype_mm: str, dtype of the computation; None means that of the input.
    width: int, the hidden width itself, instead of `ratio`.
  """

  ratio: float = 0.5
  dtype_mm: str | None = None
  width: int | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Computes the weights, which are 1 on average at initialization.

    Args:
      x: [B, h, w, C].

    Returns:
      [B, 1, 1, C].
    """
    num_channels = x.shape[-1]
    hidden = self.width or max(1, int(num_channels * self.ratio))
    x = jnp.mean(x, axis=(1, 2), keepdims=True)
    x = nn.relu(nn.Dense(hidden, dtype=self.dtype_mm)(x))
    x = nn.Dense(num_channels, dtype=self.dtype_mm)(x)
    return 2.0 * nn.sigmoid(x)
