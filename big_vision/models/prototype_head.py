"""DINO's head: similarities of features to learned prototypes.

References:
  Caron et al. 2021, DINO (appendix C), https://arxiv.org/abs/2104.14294

Shapes: `D` width, `K` prototypes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision.types import Array


class PrototypeHead(nn.Module):
  """An MLP and the cosine similarities of its output to prototypes.

  Attributes:
    hidden: width of the two hidden layers.
    bottleneck: width of the output that is compared to prototypes.
    prototypes: K.
  """

  hidden: int
  bottleneck: int
  prototypes: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Computes similarities.

    Args:
      x: [..., D].

    Returns:
      [..., K] float32 in [-1, 1].
    """
    x = jnp.asarray(x, jnp.float32)
    x = nn.gelu(nn.Dense(self.hidden)(x))
    x = nn.gelu(nn.Dense(self.hidden)(x))
    x = _unit(nn.Dense(self.bottleneck)(x), axis=-1)
    shape = (self.bottleneck, self.prototypes)
    kernel = self.param("prototypes", nn.initializers.lecun_normal(), shape)
    return x @ _unit(kernel, axis=0)


def _unit(x, axis):
  """Scales vectors to length 1; the gradient is finite also at 0."""
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis, keepdims=True) + 1e-12)
