"""Gradient accumulation: a large batch as a scan over small ones."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import guards, lookup
from big_vision.types import (
  Array,
  Batch,
  Key,
  Measurements,
  Params,
  PyTree,
  TrainState,
)


@guards.transfers
def accumulate_gradient(
  loss_and_grad_fn: Callable[..., PyTree],
  params: PyTree,
  images: PyTree,
  labels: PyTree,
  accum_steps: int | None,
) -> PyTree:
  """Computes loss and gradient of a large batch on one slice at a time.

  For a loss that is a mean over examples this is the loss and the gradient of
  the whole batch, up to rounding. Micro-batches are consecutive slices.

  Args:
    loss_and_grad_fn: `fn(params, images, labels)` -> pytree of means over the
      examples, usually of `jax.value_and_grad(loss_fn)`, with or without aux.
    params: pytree, the first argument of `loss_and_grad_fn`.
    images: array or pytree of arrays [B, ...] of any rank.
    labels: array or pytree of arrays [B, ...] of any rank, may be None.
    accum_steps: number of micro-batches; None, 0 and 1 mean all at once.

  Returns:
    Pytree like the one of `loss_and_grad_fn`, in the same dtypes. Sums are in
    float32.

  Raises:
    lookup.ConfigError: B is not divisible by `accum_steps`.
  """
  if not accum_steps or accum_steps == 1:
    return loss_and_grad_fn(params, images, labels)

  def split(x):  # [B, ...] -> [accum_steps, B / accum_steps, ...]
    return x.reshape(accum_steps, _micro_size(x, accum_steps), *x.shape[1:])

  micro = jax.tree.map(lambda x: split(jnp.asarray(x)), (images, labels))
  mean, shapes = _scan_mean(
    lambda batch, i: loss_and_grad_fn(params, *batch), micro, accum_steps
  )

  def cast(x, like):  # The mean of integers (an aux output) stays float.
    inexact = jnp.issubdtype(like.dtype, jnp.inexact)
    return x.astype(like.dtype) if inexact else x

  return jax.tree.map(cast, mean, shapes)


def accumulate(
  fn: Callable[[PyTree, Array], PyTree], batch: PyTree, steps: int | None
) -> PyTree:
  """Averages the results of `fn` over micro-batches.

  Micro-batch i holds every `steps`-th example, starting with the i-th. So with
  the batch split over devices each device keeps working on its own examples,
  without moving any, if B / steps is divisible by the number of devices.

  Args:
    fn: `fn(micro_batch, i)` -> pytree of arrays; `i` is the int32 index of the
      micro-batch, for example to be folded into a random key.
    batch: pytree of arrays [B, ...].
    steps: number of micro-batches; None, 0 and 1 mean all at once.

  Returns:
    Pytree like the one of `fn`, the mean over micro-batches, float32 (float64
    and complex numbers stay what they are).

  Raises:
    lookup.ConfigError: a leading dimension is not divisible by `steps`.
  """
  if not steps or steps == 1:
    return jax.tree.map(_to_float, fn(batch, jnp.int32(0)))

  def split(x):  # [B, ...] -> [steps, B / steps, ...]
    x = x.reshape(_micro_size(x, steps), steps, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1)

  micro = jax.tree.map(lambda x: split(jnp.asarray(x)), batch)
  return _scan_mean(fn, micro, steps)[0]


def _micro_size(x, steps):
  """Counts the examples of `x` in each micro-batch."""
  shape = np.shape(x)
  if not shape or shape[0] % steps:
    raise lookup.ConfigError(
      f"The batch size of an array of shape {shape} is not divisible by the "
      f"number of gradient accumulation steps, {steps}."
    )
  return shape[0] // steps


def _to_float(x):
  """Casts to at least float32; a sum of many bfloat16 numbers stops growing."""
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _scan_mean(fn, micro, steps):
  """Averages `fn(micro[i], i)` over i; also returns the shapes of one `fn`."""
  first = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), micro
  )
  shapes = jax.eval_shape(fn, first, jax.ShapeDtypeStruct((), jnp.int32))

  def body(total, xs):
    out = jax.tree.map(_to_float, fn(*xs))
    return jax.tree.map(jnp.add, total, out), None

  zeros = jax.tree.map(
    lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)),
    shapes,
  )
  indices = jnp.arange(steps, dtype=jnp.int32)
  total, _ = jax.lax.scan(body, zeros, (micro, indices))
  return jax.tree.map(lambda x: x / steps, total), shapes


def through_embeddings(
  embed: Callable[..., tuple[PyTree, PyTree]],
  loss: Callable[[PyTree, PyTree], tuple[Array, Any]],
  params: PyTree,
  batch: PyTree,
  steps: int,
  constrain: Callable[[PyTree], PyTree] = lambda grads: grads,
) -> tuple[tuple[Array, Any], PyTree]:
  """Computes the gradient of a loss of all embeddings on one slice at a time.

  A contrastive loss compares each example with all others, so that it cannot be
  averaged over micro-batches. This function embeds all examples without keeping
  activations and takes the gradient of the loss with respect to the embeddings.
  It then embeds each micro-batch again to propagate this gradient to the
  parameters. The two forward passes give exactly the gradient of the whole
  batch (Gao et al. 2021, https://arxiv.org/abs/2101.06983).

  Args:
    embed: `(params, micro_batch, i) -> (embeddings, shared)`: a tree of arrays
      [b, ...], and a tree of values that all examples share, such as a
      temperature.
    loss: `(embeddings of all examples, shared) -> (loss [], aux)`.
    params: parameters.
    batch: pytree of arrays [B, ...].
    steps: number of micro-batches, cut as by `accumulate`.
    constrain: function of the gradients, called on each sum of them.

  Returns:
    `((loss, aux), gradients)`, gradients in float32.

  Raises:
    lookup.ConfigError: a leading dimension is not divisible by `steps`.
  """

  def split(x):  # [B, ...] -> [steps, B / steps, ...]
    x = x.reshape(_micro_size(x, steps), steps, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1)

  def join(x):
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])

  micro = jax.tree.map(lambda x: split(jnp.asarray(x)), batch)
  indices = jnp.arange(steps, dtype=jnp.int32)
  first = jax.tree.map(lambda x: x[0], (micro, indices))
  _, shared = embed(params, *first)

  _, z = jax.lax.scan(
    lambda carry, xs: (carry, embed(params, *xs)[0]), None, (micro, indices)
  )
  z = jax.tree.map(join, z)
  out, (dz, dshared) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
    z, shared
  )
  dshared = jax.tree.map(lambda g: g / steps, dshared)

  def body(total, xs):
    one, i, dz = xs
    _, backward = jax.vjp(lambda p: embed(p, one, i), params)
    (grads,) = backward((dz, dshared))
    return constrain(
      jax.tree.map(lambda a, g: a + _to_float(g), total, grads)
    ), None

  zeros = jax.tree.map(
    lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)),
    params,
  )
  grads, _ = jax.lax.scan(
    body, constrain(zeros), (micro, indices, jax.tree.map(split, dz))
  )
  return out, grads


@dataclasses.dataclass(frozen=True)
class EmbeddingLoss:
  """A loss that compares the embeddings of a whole batch, in two stages.

  It is called as `Recipe.loss_fn`; its method `accumulate` is the recipe's.

  Attributes:
    embed: `(params, batch, rng, state, *static) -> (z, shared, out)`. `z` is a
      tree of arrays [b, ...] of the examples of a micro-batch. `shared` is a
      tree of values for all examples, such as a temperature. `out` has all
      outputs of the model; `compare` does not get it, but losses that are added
      from outside can use it.
    compare: `(z, shared, state) -> (loss [], measurements)`; `z` is of the whole
      batch, [B, ...].
  """

  embed: Callable[..., tuple[PyTree, PyTree, PyTree]]
  compare: Callable[..., tuple[Array, Measurements]]

  def __call__(
    self,
    params: Params,
    batch: Batch,
    rng: Key,
    state: TrainState,
    *static: Any,
  ) -> tuple[Array, Measurements]:
    """Computes the loss of a batch at once.

    Args:
      params: parameters.
      batch: dict of arrays [B, ...].
      rng: random key.
      state: the training state.
      *static: hashable values of `Recipe.static_args`.

    Returns:
      (loss [], measurements).
    """
    z, shared, _ = self.embed(params, batch, rng, state, *static)
    return self.compare(z, shared, state)

  def accumulate(
    self,
    params: Params,
    batch: Batch,
    rng: Key,
    state: TrainState,
    *static: Any,
    steps: int,
    constrain: Callable[[Params], Params],
  ) -> tuple[tuple[Array, Measurements], Params]:
    """Computes loss and gradient on micro-batches, see `through_embeddings`.

    Args:
      params: parameters.
      batch: dict of arrays [B, ...].
      rng: random key; micro-batch i gets it folded with i.
      state: the training state.
      *static: hashable values of `Recipe.static_args`.
      steps: number of micro-batches.
      constrain: function of the gradients, called on each sum of them.

    Returns:
      `((loss, measurements), gradients)`, gradients in float32.
    """

    def embed(params, micro, i):
      key = jax.random.fold_in(rng, i)
      return self.embed(params, micro, key, state, *static)[:2]

    compare = functools.partial(self.compare, state=state)
    return through_embeddings(embed, compare, params, batch, steps, constrain)
