"""Recipe: everything that a training method supplies to the loop.

A recipe is plain functions in a frozen dataclass. The loop owns what must not
drift between methods: logging, checkpoints, resuming, evaluation, the NaN
guard; the recipe owns what a paper changes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax


def value_and_grad(loss_fn, params, batch, rng, state, *static):
  """The default `grad_fn`: one forward, one backward pass.

  Args:
    loss_fn: `(params, batch, rng, state, *static) -> (loss [], measurements)`.
    params: parameters to differentiate with respect to.
    batch: dict of arrays with a leading example axis.
    rng: random key for this (micro-)batch.
    state: the training state, with `frozen` if the recipe has any.
    *static: hashable values of `Recipe.static_args`.

  Returns:
    `((loss, measurements), gradients)`.
  """
  return jax.value_and_grad(loss_fn, has_aux=True)(
    params, batch, rng, state, *static
  )


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What a training method computes.

  Attributes:
    init: `(rng, batch) -> params`; `batch` holds zeros of the right shapes.
      Traced under jit, so it must be pure. May hold several sub-models.
    loss_fn: `(params, batch, rng, state, *static) -> (loss [], measurements)`,
      a mean over examples. Measurements are scalars by name, averaged over
      micro-batches and logged. The key `collections` is special: mutable Flax
      state, which replaces `state["collections"]` and is not logged.
    predict_fns: name -> `(train_state, batch, **kw) -> anything`; what
      evaluators call. Not jitted here. `train_state` has `frozen` if set.
    load: `params -> params`. Gets a tree of `jax.ShapeDtypeStruct`, returns it
      with arrays where a checkpoint has them; what is left is initialised.
    augment: `(batch, rng) -> (batch, rng)`, once per step and on device, before
      the batch is cut into micro-batches. Returns the advanced key.
    frozen: trees that the step needs but does not train (teachers, tokenizer
      weights). Sharded by the same rules under the prefix `frozen/`, given to
      `loss_fn` and `predict_fns` as `state["frozen"]`, never in a checkpoint.
    params_name: what is trained, where models have names: the metric of its size
      is `num_params_<name>`, next to those of the frozen trees.
    grad_fn: see `value_and_grad`; sharpness-aware and other two-pass gradients.
    accumulate: `(params, batch, rng, state, *static, steps, constrain) ->
      ((loss, measurements), gradients)`, the gradient of the whole batch on
      `steps` micro-batches, for losses that are no means over examples;
      `constrain` is to be applied to sums of gradients.
    extra_state: `params -> dict`, further entries of the state and of the
      checkpoint: averages of parameters, a carried random key, `collections`.
      Traced under jit.
    post_update: `(old_state, new_state) -> new_state`, after the optimizer.
    static_args: `step -> tuple` of hashable values drawn on the host (1-based
      step) that are static under jit; each distinct tuple compiles once.
  """

  init: Callable[..., Any]
  loss_fn: Callable[..., Any]
  predict_fns: Mapping[str, Callable[..., Any]] = dataclasses.field(
    default_factory=dict
  )
  load: Callable[..., Any] | None = None
  augment: Callable[..., Any] | None = None
  frozen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  params_name: str | None = None
  grad_fn: Callable[..., Any] = value_and_grad
  accumulate: Callable[..., Any] | None = None
  extra_state: Callable[..., Any] | None = None
  post_update: Callable[..., Any] | None = None
  static_args: Callable[[int], tuple] | None = None
