"""Fits logistic regressions by L-BFGS, on all examples at once.

The objective is that of scikit-learn's LogisticRegression with the penalty
"l2": sum of the cross entropies times `cost` (its C) plus half of the squared
norm of the weights; biases are not penalized.

Shapes: N training examples, D features, C classes.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision.types import AnyArray, Devices


def fit(
  x: AnyArray,
  y: AnyArray,
  num_classes: int,
  costs: Sequence[float],
  devices: Devices,
  *,
  max_iter: int = 1000,
  tol: float = 1e-5,
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Fits a classifier for each cost, each from the one before.

  Gradients are computed in float32 on the devices, among which the examples are
  split; L-BFGS runs on the host in float64.

  Args:
    x: [N, D] features.
    y: [N] int labels.
    num_classes: C.
    costs: factors of the cross entropy; small ones regularize strongly. They are
      fitted in increasing order, which is fastest.
    devices: those to use.
    max_iter: most iterations of L-BFGS for one cost.
    tol: it stops when no derivative of the objective, divided by cost and N, is
      larger.

  Returns:
    (weights [D, C], biases [C]) float64 for each of `costs`, in their order.
  """
  # With mean 0 and variance 1 over all features, float32 is precise enough; biases
  # and penalty make up for it.
  x = np.asarray(x, np.float32)
  mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
  x = x - mean[None]
  scale = float(np.sqrt(np.mean(np.square(x), dtype=np.float64))) or 1.0
  mesh = Mesh(np.asarray(devices), ("devices",))
  split = NamedSharding(mesh, PartitionSpec("devices"))
  everywhere = NamedSharding(mesh, PartitionSpec())
  pad = -len(x) % len(mesh.devices)
  weight = np.pad(np.full(len(x), 1 / len(x), np.float32), (0, pad))
  data = bv_devices.reshard(
    (
      np.pad(x / np.float32(scale), ((0, pad), (0, 0))),
      np.pad(np.asarray(y, np.int32), (0, pad)),
      weight,
    ),
    split,
  )
  shape = (x.shape[1] + 1, num_classes)  # The last row are biases.
  value_and_grad = _value_and_grad_fn(everywhere)
  # Two classes are one vector of weights there, here the difference of two,
  # whose penalty is half of it.
  share = 2 if num_classes == 2 else 1

  def objective(flat, penalty):
    w = flat.reshape(shape)
    arg = bv_devices.reshard(w.astype(np.float32), everywhere)
    value, grad = jax.device_get(value_and_grad(arg, *data))
    grad = np.asarray(grad, np.float64)
    grad[:-1] += penalty * w[:-1]
    total = float(value) + penalty / 2 * np.sum(np.square(w[:-1]))
    return total, grad.ravel()

  found, start = {}, np.zeros(shape).ravel()
  for cost in sorted(costs):
    result = scipy.optimize.minimize(
      objective,
      start,
      args=(share / (cost * len(x) * scale**2),),
      jac=True,
      method="L-BFGS-B",
      options=dict(maxiter=max_iter, gtol=tol, ftol=1e-12, maxls=50),
    )
    if result.nit >= max_iter:
      logging.info("L-BFGS has not converged with cost %g.", cost)
    start = result.x
    weights, bias = start.reshape(shape)[:-1] / scale, start[-num_classes:]
    found[cost] = weights, bias - mean @ weights
  return [found[cost] for cost in costs]


@functools.cache
def _value_and_grad_fn(everywhere):
  """Compiles the weighted sum of cross entropies and its gradient."""

  def loss(w, x, y, weight):
    logits = jnp.matmul(x, w[:-1], precision="highest") + w[-1][None]
    xent = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.sum(xent * weight)

  return jax.jit(jax.value_and_grad(loss), out_shardings=everywhere)
