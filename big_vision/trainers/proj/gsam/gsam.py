"""Sharpness-aware gradients: SAM and GSAM.

"Sharpness-Aware Minimization for Efficiently Improving Generalization",
https://arxiv.org/abs/2010.01412, and "Surrogate Gap Minimization Improves
Sharpness-Aware Training", https://arxiv.org/abs/2203.08065.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from big_vision.types import Array, Params, PyTree


def dual_vector(y: PyTree) -> tuple[PyTree, Array]:
  """Scales a tree of arrays, seen as one vector, to length one.

  Args:
    y: tree of arrays.

  Returns:
    (y / |y|, |y|) with the norm of all leaves together. Zeros stay zeros.
  """
  norm = jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(y)))
  inverse = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
  return jax.tree.map(lambda x: x * inverse.astype(x.dtype), y), norm


def radius(
  lr: Any, *, rho_max: float, rho_min: float, lr_max: float, lr_min: float
) -> Any:
  """Interpolates the radius by the learning rate (section 4.2 of GSAM).

  Args:
    lr: current learning rate, array [] or float.
    rho_max: radius at `lr_max`.
    rho_min: radius at `lr_min`.
    lr_max: largest learning rate.
    lr_min: smallest learning rate.

  Returns:
    The radius; `rho_max` if both learning rates are the same.
  """
  if lr_max == lr_min:
    return rho_max
  return rho_min + (rho_max - rho_min) * (lr - lr_min) / (lr_max - lr_min)


def gsam_gradient(
  loss_fn: Callable[..., Array],
  params: Params,
  inputs: Any,
  targets: Any,
  rho_max: float,
  rho_min: float,
  alpha: float,
  lr: Any,
  lr_max: float,
  lr_min: float,
  eps: float = 1e-12,
  adaptive_perturbation: bool = False,
  minimize_fp: bool = True,
) -> tuple[Array, Params]:
  """Computes the gradient of GSAM (algorithm 1), from two gradients.

  With rho_max = rho_min and alpha = 0 it is the gradient of SAM.

  Args:
    loss_fn: `(params, inputs, targets) -> loss []`.
    params: tree of arrays.
    inputs: first argument of the loss after the parameters.
    targets: second one.
    rho_max: radius of the perturbation at `lr_max`.
    rho_min: radius at `lr_min`.
    alpha: weight of the ascent step that reduces the surrogate gap.
    lr: current learning rate.
    lr_max: largest learning rate.
    lr_min: smallest learning rate.
    eps: is added to the norm of the gradient.
    adaptive_perturbation: whether weights are perturbed in proportion to their
      size, as ASAM does, https://arxiv.org/abs/2102.11600.
    minimize_fp: whether to descend along the gradient of the perturbed loss and
      to ascend along the rest of the loss's gradient; otherwise to descend along
      the gradient of the loss and along the rest of the perturbed one.

  Returns:
    (loss [] of the unperturbed parameters, tree like `params`).
  """
  first, gradient, _ = two_gradients(
    jax.value_and_grad(lambda p: loss_fn(p, inputs, targets)),
    params,
    radius(lr, rho_max=rho_max, rho_min=rho_min, lr_max=lr_max, lr_min=lr_min),
    alpha,
    eps=eps,
    adaptive_perturbation=adaptive_perturbation,
    minimize_fp=minimize_fp,
  )
  return first, gradient


def two_gradients(
  value_and_grad: Callable[[Params], tuple[Any, Params]],
  params: Params,
  rho: Any,
  alpha: float,
  eps: float = 1e-12,
  adaptive_perturbation: bool = False,
  minimize_fp: bool = True,
) -> tuple[Any, Params, Any]:
  """Does `gsam_gradient` for any function that computes value and gradient.

  Args:
    value_and_grad: `params -> (value, gradient)`; the value is any tree.
    params: tree of arrays.
    rho: radius of the perturbation.
    alpha, eps, adaptive_perturbation, minimize_fp: as in `gsam_gradient`.

  Returns:
    (value at `params`, gradient of GSAM, value at the perturbed parameters).
  """
  value, g = value_and_grad(params)
  _, norm = dual_vector(g)

  def perturb(w, g):
    step = rho * g / (norm + eps)
    return w + (jnp.abs(w) * step if adaptive_perturbation else step)

  perturbed_value, g_perturbed = value_and_grad(
    jax.tree.map(perturb, params, g)
  )
  if minimize_fp:
    # Ascend along the part of the loss's gradient that leaves the perturbed
    # loss as it is: this reduces the surrogate gap.
    rest = _orthogonal(g, g_perturbed)
    out = jax.tree.map(lambda a, b: a - alpha * b, g_perturbed, rest)
  else:
    rest = _orthogonal(g_perturbed, g)
    out = jax.tree.map(lambda a, b: a + alpha * b, g, rest)
  return value, out, perturbed_value


def _orthogonal(x, y):
  """Returns the part of a tree that is orthogonal to another one."""
  unit, _ = dual_vector(y)
  along = sum(
    jnp.sum(a * b)
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(unit), strict=True)
  )
  return jax.tree.map(lambda a, u: a - along * u, x, unit)
