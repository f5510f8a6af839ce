"""Clips gradients relative to the weights, unit by unit."""

import operator
from collections.abc import Sequence

import jax
import optax

from big_vision import trees
from big_vision.types import PyTree

# The default of `config.grad_clip_agc_mults`: in the paper clipping the final
# layer made results worse.
NOT_THE_HEAD = (("(.*/)?head/.*", 0.0),)


def clip_adaptively(
  params: PyTree,
  factor: float,
  *,
  eps: float = 1e-3,
  mults: Sequence[tuple[str, float]] = (),
  trained: PyTree = None,
) -> optax.GradientTransformation:
  """Clips the gradient of each unit relative to the norm of its weights.

  The gradient g of the weights w of a unit is scaled down to a norm of
  factor * max(|w|, eps) if it is larger. A unit is what leads to one output; as
  `optax.adaptive_grad_clip` has it, by shape of the parameter:

    [C], [1, 1, C] (bias, scale): the whole parameter.
    [I, O] (dense layer), [D, H, K] (attention): what shares the last axes.
    [h, w, I, O] (convolution): what shares the last axis.

  This takes the layers of a stack (`scan=True` of ViT) for inputs; multipliers
  of 0 exclude them.

  Args:
    params: tree of parameters or of their shapes.
    factor: the clipping factor lambda of the paper.
    eps: the norm that weights are taken to have at least, so that
      parameters of zero can leave it.
    mults: sequence of (regex, multiplier of `factor`) for parameters by name,
      of which the first match counts. 0 does not clip; others have 1.
    trained: tree of bool, which parameters to clip at all; None is all.

  Returns:
    optax.GradientTransformation. Its state has no leaves, and its updates need
    the parameters.

  Raises:
    ValueError: `factor`, `eps` or a multiplier is negative.

  References:
    Brock et al. 2021, section 4.1, https://arxiv.org/abs/2102.06171
  """
  patterns = [*(p for p, _ in mults), ".*"]
  factors = [*(m for _, m in mults), 1.0]
  named = [("", factor), ("_eps", eps), *(("_mults", m) for m in factors)]
  for key, value in named:
    if value < 0:
      raise ValueError(f"config.grad_clip_agc{key}: {value} is negative.")

  masks = trees.make_mask_trees(
    params, patterns, log="config.grad_clip_agc_mults"
  )
  if trained is not None:
    masks = [jax.tree.map(operator.and_, m, trained) for m in masks]
  return optax.chain(
    *(
      optax.masked(optax.adaptive_grad_clip(factor * mult, eps), mask)
      for mult, mask in zip(factors, masks, strict=True)
      if mult
    )
  )
