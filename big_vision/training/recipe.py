"""Recipe: everything that a training method supplies to the loop.

A recipe consists of plain functions in a frozen dataclass. The recipe owns what
a paper changes. The loop owns what must not drift between methods: logging,
checkpoints, resuming, evaluation, the NaN guard.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from big_vision.types import (
  Array,
  Batch,
  Key,
  LoadFn,
  LossFn,
  Measurements,
  Params,
  PredictFns,
  TrainState,
)


def value_and_grad(
  loss_fn: LossFn,
  params: Params,
  batch: Batch,
  rng: Key,
  state: TrainState,
  *static: Any,
) -> tuple[tuple[Array, Measurements], Params]:
  """Computes loss and gradient in one pass each: the default `grad_fn`.

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
  """Holds what a training method computes.

  Attributes:
    init: `(rng, batch) -> params`; `batch` holds zeros of the right shapes.
      Traced under jit, so it must be pure. May hold several sub-models.
    loss_fn: `(params, batch, rng, state, *static) -> (loss [], measurements)`,
      a mean over examples. Measurements are scalars by name, averaged over
      micro-batches and logged. The key `collections` is special: mutable Flax
      state, which replaces `state["collections"]` and is not logged;
      `post_update` may make other entries of it.
    predict_fns: name -> `(train_state, batch, **kw) -> anything`; what
      evaluators call. Not jitted here. `train_state` has `frozen` if set.
    load: `params -> params`. Gets a tree of `jax.ShapeDtypeStruct`, returns it
      with arrays where a checkpoint has them; what is left is initialized.
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
      `steps` micro-batches, for losses that are not means over examples;
      `constrain` is to be applied to sums of gradients.
    extra_state: `params -> dict`, further entries of the state and of the
      checkpoint: averages of parameters, a carried random key, `collections`.
      Traced under jit.
    load_extra: `state -> state`, reads into these entries what a checkpoint has
      of them, when a run begins; not when it resumes.
    post_update: `(old_state, new_state) -> new_state`, after the optimizer. What
      it puts under `measurements` is logged.
    static_args: `step -> tuple` of hashable values drawn on the host (1-based
      step) that are static under jit; each distinct tuple compiles once.
    check_checkpoint: `path -> None`, raises if a run cannot continue from the
      checkpoint of a path, for reasons besides names and shapes of its leaves.
  """

  init: Callable[[Key, Batch], Params]
  loss_fn: LossFn
  predict_fns: PredictFns = dataclasses.field(default_factory=dict)
  load: LoadFn | None = None
  augment: Callable[[Batch, Key], tuple[Batch, Key]] | None = None
  frozen: Mapping[str, Params] = dataclasses.field(default_factory=dict)
  params_name: str | None = None
  grad_fn: Callable[..., tuple[tuple[Array, Measurements], Params]] = (
    value_and_grad
  )
  accumulate: (
    Callable[..., tuple[tuple[Array, Measurements], Params]] | None
  ) = None
  extra_state: Callable[[Params], TrainState] | None = None
  load_extra: Callable[[TrainState], TrainState] | None = None
  post_update: Callable[[TrainState, TrainState], TrainState] | None = None
  static_args: Callable[[int], tuple[Any, ...]] | None = None
  check_checkpoint: Callable[[str], None] = lambda path: None
