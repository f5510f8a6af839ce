"""Makes distributions that are not shared with other models from logits.

Shapes: `...` axes of the batch, `D` channels of a token, `K` components.
"""

from typing import Any

import jax.numpy as jnp

from big_vision.models.distributions import (
  Categorical,
  MixtureSameFamily,
  Normal,
)
from big_vision.types import Array


def wide_square_plus(x: Array) -> Array:
  """Maps numbers to scales as the first published models do.

  It is `x + sqrt(x^2 + 4) / 2`, where `square_plus` halves the whole sum. Not all
  results are positive.

  Args:
    x: array.

  Returns:
    The same shape.
  """
  return x + jnp.sqrt(jnp.square(x) + 4) / 2


def per_channel_mixture(
  logits: Array,
  num_mixtures: int,
  out_dim: int,
  scale_tol: float,
  temperature_scales: Any = None,
  temperature_probs: Any = None,
  positive: Any = wide_square_plus,
) -> MixtureSameFamily:
  """Makes a mixture of Gaussians for each channel.

  Args:
    logits: [..., 3 * D * K]: for each channel K logits of components; then the
      means of all, then the scales.
    num_mixtures: K.
    out_dim: D.
    scale_tol: the least scale.
    temperature_scales: factor of the scales; None is 1.
    temperature_probs: factor of the logits of the components; None is 1.
    positive: function that maps to positive numbers.

  Returns:
    The distribution, of numbers [..., D].
  """
  logits = logits.astype(jnp.float32)
  logits = logits.reshape(*logits.shape[:-1], 3 * out_dim, num_mixtures)
  weights, loc, scale = jnp.split(logits, 3, axis=-2)
  scale = jnp.maximum(positive(scale), scale_tol)
  if temperature_scales is not None:
    scale *= temperature_scales
  if temperature_probs is not None:
    weights *= temperature_probs
  return MixtureSameFamily(Categorical(logits=weights), Normal(loc, scale))
