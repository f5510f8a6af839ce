"""Classifier-free guidance of densities: p(x | label)^(1 + w) / p(x)^w.

Shapes: `...` axes of the batch, `C` channels of a token, `T` tries.
"""

from typing import Any

import jax
import jax.numpy as jnp

from big_vision.models.distributions import (
  MixtureSameFamily,
  MultivariateNormalDiag,
  Normal,
)
from big_vision.types import Array, Key, Shape

# Where the density is looked at, around the mean, in its own units and in those
# of the proposals, of which hardly any are farther away.
_REACH = 10.0
_REACH_OF_PROPOSALS = 5.0


class CFGDensity:
  """A guided density, not normalized, independent in all channels.

  Of mixtures one component is drawn, by the weights that they have with the label,
  and guided by that of the same number.

  Attributes:
    cond: Normal [..., C], given the label.
    uncond: Normal [..., C], without it.
    w: weight; 0 leaves guidance out.
  """

  def __init__(
    self,
    pdf_c: MixtureSameFamily,
    pdf_u: MixtureSameFamily,
    w: float | Array,
    rng: Key,
  ) -> None:
    """Makes the density.

    Args:
      pdf_c: mixture of Gaussians without correlations, given the label.
      pdf_u: the same without it.
      w: weight.
      rng: random key, draws the components.

    Raises:
      ValueError: they are other distributions.
    """
    for pdf in (pdf_c, pdf_u):
      parts = getattr(pdf, "components_distribution", None)
      if not isinstance(parts, MultivariateNormalDiag | Normal):
        raise ValueError(
          "cfg_inference_weight needs a model that predicts mixtures of Gaussians "
          f"without correlations, not {type(pdf).__name__}: use "
          "config.model.multivariate = False, or no guidance."
        )
    index = pdf_c.mixture_distribution.sample(seed=rng)
    self.cond = _component(pdf_c.components_distribution, index)
    self.uncond = _component(pdf_u.components_distribution, index)
    self.w = w
    widest = jnp.maximum(self.cond.scale, self.uncond.scale)
    self._proposal = Normal(self.cond.loc, 2 * widest)

  def log_prob(self, value: Array) -> Array:
    """Computes the logarithm of the density, up to a constant.

    Args:
      value: [..., C].

    Returns:
      [..., C].
    """
    given, without = self.cond.log_prob(value), self.uncond.log_prob(value)
    return (1 + self.w) * given - self.w * without

  def prob(self, value: Array) -> Array:
    """Computes the density, up to a factor.

    Args:
      value: [..., C].

    Returns:
      [..., C].
    """
    return jnp.exp(self.log_prob(value))

  def _log_factor(self):
    """Computes by how much to raise the proposals, [..., C].

    The logarithm of the density is a parabola: its greatest value is at its vertex
    or, if that is far away or a minimum, at the ends of what is looked at.
    """
    mean, w = self.cond.loc, self.w
    precision = 1 / jnp.square(self.uncond.scale)
    curvature = (1 + w) / jnp.square(self.cond.scale) - w * precision
    has_peak = curvature > 0
    peak = w * precision * (mean - self.uncond.loc)
    peak = jnp.where(has_peak, peak / jnp.where(has_peak, curvature, 1), 0)
    reach = _REACH_OF_PROPOSALS * self._proposal.scale
    reach = jnp.minimum(reach, _REACH)
    at = (jnp.clip(peak, -reach, reach), -reach, reach)
    values = jnp.stack([self.log_prob(mean + x) for x in at])
    return jnp.max(values, axis=0) - self._proposal.log_prob(mean)

  def rejection_sample(
    self, seed: Key, max_samples: int = 1000
  ) -> tuple[Array, Array]:
    """Draws values, of which each is the first accepted of many tries.

    Args:
      seed: random key.
      max_samples: T. Where none is accepted, the value is drawn without guidance.

    Returns:
      ([..., C]; percentage of the values for which one was accepted).
    """
    proposal_key, height_key = jax.random.split(seed)
    tries = self._proposal.sample(
      seed=proposal_key, sample_shape=(max_samples,)
    )
    heights = jax.random.uniform(height_key, tries.shape, tries.dtype)
    one = lambda x: x[None]
    # In logarithms: densities of narrow Gaussians are not finite.
    raised = jnp.log(heights) + one(self._log_factor())
    below = self._as_tries(raised, tries)
    index = jnp.argmax(below, axis=0)
    found = jnp.any(below, axis=0)
    first = jnp.take_along_axis(tries, one(index), axis=0)[0]
    other = self.cond.sample(seed=jax.random.fold_in(proposal_key, 1))
    return jnp.where(found, first, other), 100 * jnp.mean(found)

  def _as_tries(self, raised, tries):
    """Tells which tries are accepted, bool [T, ..., C]."""

    def accepted(height, value):
      return height + self._proposal.log_prob(value) < self.log_prob(value)

    return jax.vmap(accepted)(raised, tries)

  def sample(self, *, seed: Key, sample_shape: Shape = ()) -> Array:
    """Draws values, see `rejection_sample`.

    Args:
      seed: random key.
      sample_shape: (); several values at once are not implemented.

    Returns:
      [..., C].

    Raises:
      ValueError: another `sample_shape`.
    """
    if tuple(sample_shape):
      raise ValueError("A guided density draws one value at a time.")
    return self.rejection_sample(seed)[0]


def _component(parts: Any, index: Array) -> Normal:
  """Picks a component of each mixture."""
  if isinstance(parts, Normal):  # [..., C, K], a mixture for each channel.
    pick = lambda x: jnp.take_along_axis(x, index[..., None], -1)[..., 0]
    return Normal(pick(parts.loc), pick(parts.scale))
  at = index[..., None, None]
  pick = lambda x: jnp.take_along_axis(x, at, axis=-2)[..., 0, :]
  return Normal(pick(parts.loc), pick(parts.scale_diag))
