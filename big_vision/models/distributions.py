"""Distributions that models of images predict: mixtures of Gaussians.

All are pytrees, so that they may be returned by compiled functions. A sample is
the same for the same key, whatever else is computed.

Shapes: `...` axes of the batch, `D` dimensions of a vector, `K` components of a
mixture, `V` categories, `S` shape of samples.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from big_vision.types import Array, Key, Shape

_LOG_2PI = math.log(2 * math.pi)


class Distribution:
  """Base: a density, or probabilities, over numbers or vectors.

  Attributes:
    event_ndims: axes of one value, after those of the batch.
  """

  event_ndims = 0

  @property
  def batch_shape(self) -> Shape:
    """The axes of the batch."""
    raise NotImplementedError

  def log_prob(self, value: Array) -> Array:
    """Computes the logarithm of the density.

    Args:
      value: [..., event].

    Returns:
      [...].
    """
    raise NotImplementedError

  def prob(self, value: Array) -> Array:
    """Computes the density.

    Args:
      value: [..., event].

    Returns:
      [...].
    """
    return jnp.exp(self.log_prob(value))

  def sample(self, *, seed: Key, sample_shape: Shape = ()) -> Array:
    """Draws values.

    Args:
      seed: random key.
      sample_shape: S.

    Returns:
      [S, ..., event].
    """
    shape = tuple(sample_shape)
    draws = self.draw(seed, math.prod(shape))
    return draws.reshape(shape + draws.shape[1:])

  def draw(self, key: Key, num: int) -> Array:
    """Draws [num, ..., event], of which `sample` makes its shape."""
    raise NotImplementedError


@struct.dataclass
class Categorical(Distribution):
  """One of V categories.

  Attributes:
    logits: [..., V], or None.
    probs: [..., V] in their place, of any sum.
  """

  logits: Any = None
  probs: Any = None

  @property
  def log_probs(self) -> Array:
    """Logarithms of the probabilities of all, [..., V]."""
    if (self.logits is None) == (self.probs is None):
      raise ValueError("Categorical takes either logits or probs.")
    if self.probs is None:
      return jax.nn.log_softmax(self.logits)
    return jnp.log(self.probs / jnp.sum(self.probs, axis=-1, keepdims=True))

  @property
  def batch_shape(self) -> Shape:
    """The axes of the batch."""
    return self.log_probs.shape[:-1]

  def log_prob(self, value: Array) -> Array:
    """Looks up the logarithm of a probability.

    Args:
      value: int [...].

    Returns:
      [...], -inf where there is no such category.
    """
    all_of_them = self.log_probs
    num = all_of_them.shape[-1]
    value = jnp.asarray(value, jnp.int32)
    shape = jnp.broadcast_shapes(value.shape, all_of_them.shape[:-1])
    index = jnp.broadcast_to(jnp.clip(value, 0, num - 1), shape)[..., None]
    all_of_them = jnp.broadcast_to(all_of_them, (*shape, num))
    picked = jnp.take_along_axis(all_of_them, index, axis=-1)[..., 0]
    return jnp.where((value >= 0) & (value < num), picked, -jnp.inf)

  def draw(self, key: Key, num: int) -> Array:
    """Draws int32 [num, ...]."""
    logits = self.log_probs
    shape = (num, *logits.shape[:-1])
    return jax.random.categorical(key, logits, shape=shape)


@struct.dataclass
class Normal(Distribution):
  """Independent numbers.

  Attributes:
    loc: [...], means.
    scale: [...], standard deviations.
  """

  loc: Array
  scale: Array

  @property
  def batch_shape(self) -> Shape:
    """The axes of the batch."""
    return jnp.broadcast_shapes(self.loc.shape, self.scale.shape)

  def log_prob(self, value: Array) -> Array:
    """Computes the logarithm of the density.

    Args:
      value: [...].

    Returns:
      [...].
    """
    z = (value - self.loc) / self.scale
    return -0.5 * z**2 - 0.5 * _LOG_2PI - jnp.log(self.scale)

  def draw(self, key: Key, num: int) -> Array:
    """Draws [num, ...]."""
    noise = _noise(key, (num, *self.batch_shape), self.loc, self.scale)
    return self.loc[None] + self.scale[None] * noise


@struct.dataclass
class MultivariateNormalDiag(Distribution):
  """Vectors of independent numbers.

  Attributes:
    loc: [..., D], means.
    scale_diag: [..., D], standard deviations.
  """

  event_ndims = 1

  loc: Array
  scale_diag: Array

  @property
  def batch_shape(self) -> Shape:
    """The axes of the batch."""
    return Normal(self.loc, self.scale_diag).batch_shape[:-1]

  def log_prob(self, value: Array) -> Array:
    """Computes the logarithm of the density.

    Args:
      value: [..., D].

    Returns:
      [...].
    """
    each = Normal(self.loc, jnp.abs(self.scale_diag)).log_prob(value)
    return jnp.sum(each, axis=-1)

  def draw(self, key: Key, num: int) -> Array:
    """Draws [num, ..., D]."""
    return Normal(self.loc, self.scale_diag).draw(key, num)


@struct.dataclass
class MultivariateNormalTri(Distribution):
  """Vectors of dependent numbers: `loc + scale_tri * noise`.

  Attributes:
    loc: [..., D], means.
    scale_tri: [..., D, D], of which the lower triangle is used.
  """

  event_ndims = 1

  loc: Array
  scale_tri: Array

  @property
  def batch_shape(self) -> Shape:
    """The axes of the batch."""
    return self.loc.shape[:-1]

  def log_prob(self, value: Array) -> Array:
    """Computes the logarithm of the density.

    Args:
      value: [..., D].

    Returns:
      [...].
    """
    scale = jnp.tril(self.scale_tri)
    offset = value - self.loc
    shape = (*offset.shape[:-1], *scale.shape[-2:])
    z = jax.lax.linalg.triangular_solve(
      jnp.broadcast_to(scale, shape),
      offset[..., None],
      left_side=True,
      lower=True,
    )[..., 0]
    diag = jnp.diagonal(scale, axis1=-2, axis2=-1)
    log_det = jnp.sum(jnp.log(jnp.abs(diag)), axis=-1)
    constant = 0.5 * _LOG_2PI * z.shape[-1]
    return -0.5 * jnp.sum(z**2, axis=-1) - constant - log_det

  def draw(self, key: Key, num: int) -> Array:
    """Draws [num, ..., D]."""
    shape = (num, *self.loc.shape)
    noise = _noise(key, shape, self.loc, self.scale_tri)
    scale = jnp.tril(self.scale_tri)
    return self.loc[None] + jnp.einsum("...ij,n...j->n...i", scale, noise)


@struct.dataclass
class MixtureSameFamily(Distribution):
  """A mixture of K distributions of one kind.

  Attributes:
    mixture_distribution: Categorical [...] of K.
    components_distribution: distributions [..., K].
  """

  mixture_distribution: Categorical
  components_distribution: Any

  @property
  def event_ndims(self) -> int:  # pyright: ignore
    """Axes of one value."""
    return self.components_distribution.event_ndims

  @property
  def batch_shape(self) -> Shape:
    """The axes of the batch."""
    return self.components_distribution.batch_shape[:-1]

  def log_prob(self, value: Array) -> Array:
    """Computes the logarithm of the density.

    Args:
      value: [..., event].

    Returns:
      [...].
    """
    value = jnp.expand_dims(value, value.ndim - self.event_ndims)
    of_each = self.components_distribution.log_prob(value)
    weights = self.mixture_distribution.log_probs
    return jax.nn.logsumexp(of_each + weights, axis=-1)

  def draw(self, key: Key, num: int) -> Array:
    """Draws [num, ..., event]."""
    mix_key, component_key = jax.random.split(key)
    index = self.mixture_distribution.draw(mix_key, num)
    draws = self.components_distribution.draw(component_key, num)
    axis = index.ndim  # Of the components.
    count = draws.shape[axis]
    here = jax.nn.one_hot(index, count, dtype=draws.dtype)
    here = here.reshape(here.shape + (1,) * self.event_ndims)
    return jnp.sum(draws * here, axis=axis)


def square_plus(x: Array) -> Array:
  """Maps numbers to positive ones: `(x + sqrt(x^2 + 4)) / 2`.

  Args:
    x: array.

  Returns:
    The same shape.
  """
  return (x + jnp.sqrt(jnp.square(x) + 4)) / 2


def full_normal(
  logits: Array,
  out_dim: int,
  scale_tol: float,
  temperature_scales: float | None = None,
  positive: Any = square_plus,
) -> MultivariateNormalTri:
  """Makes Gaussians with all their correlations from the output of a model.

  Args:
    logits: [..., D * D + D], scales before means.
    out_dim: D.
    scale_tol: the least scale of a dimension.
    temperature_scales: factor of the scales; None is 1.
    positive: function that maps to positive numbers.

  Returns:
    The distribution, of vectors [..., D].
  """
  logits = logits.astype(jnp.float32)
  scales, loc = jnp.split(logits, [out_dim**2], axis=-1)
  scales = positive(scales).reshape(*loc.shape, out_dim)
  least = scale_tol * jnp.eye(out_dim, dtype=scales.dtype)
  scales = jnp.maximum(scales, jnp.broadcast_to(least, scales.shape))
  if temperature_scales is not None:
    scales *= temperature_scales
  return MultivariateNormalTri(loc, scales)


def gaussian_mixture(
  logits: Array,
  num_mixtures: int,
  out_dim: int,
  scale_tol: float,
  temperature_scales: float | None = None,
  temperature_probs: float | None = None,
  positive: Any = square_plus,
) -> MixtureSameFamily:
  """Makes mixtures of Gaussians from the output of a model.

  Args:
    logits: [..., K + K * 2 * D]: logits of the components, then for each its
      means and its scales.
    num_mixtures: K.
    out_dim: D.
    scale_tol: the least scale.
    temperature_scales: factor of the scales; None is 1.
    temperature_probs: factor of the logits of the components; None is 1.
    positive: function that maps to positive numbers.

  Returns:
    The distribution, of vectors [..., D].
  """
  logits = logits.astype(jnp.float32)
  weights, rest = jnp.split(logits, [num_mixtures], axis=-1)
  rest = rest.reshape(*weights.shape, 2, out_dim)
  loc, scale = rest[..., 0, :], rest[..., 1, :]
  scale = jnp.maximum(positive(scale), scale_tol)
  if temperature_scales is not None:
    scale *= temperature_scales
  if temperature_probs is not None:
    weights *= temperature_probs
  return MixtureSameFamily(
    Categorical(logits=weights), MultivariateNormalDiag(loc, scale)
  )


def _noise(key, shape, *like):
  """Draws standard normal numbers in the dtype of arrays."""
  return jax.random.normal(key, shape, jnp.result_type(*like))
