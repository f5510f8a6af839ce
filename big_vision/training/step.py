"""The update step: augment, gradient, optimizer, measurements.

One pure function from state and batch to state and measurements; `make_update`
turns it into the one program that the loop runs.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from big_vision import optax as bv_optax
from big_vision import sharding, xla_flags
from big_vision.grads import accumulate
from big_vision.training import ema
from big_vision.training.recipe import Recipe
from big_vision.types import (
  Array,
  Batch,
  ConfigLike,
  Key,
  Measurements,
  Params,
  PyTree,
  TrainState,
)


def with_frozen(
  state: TrainState, frozen: Mapping[str, Params] | None
) -> TrainState:
  """Adds the frozen trees, if any, for functions of the recipe to read."""
  return {**state, "frozen": frozen} if frozen else state


def l2(tree: PyTree) -> Array:
  """Computes √Σ x² over all leaves of a tree. Returns a float32 scalar []."""
  return jnp.sqrt(
    sum(
      (
        jnp.sum(jnp.square(jnp.asarray(x, jnp.float32)))
        for x in jax.tree.leaves(tree)
      ),
      start=jnp.float32(0.0),
    )
  )


def loss_and_grad(
  recipe: Recipe,
  params: Params,
  batch: Batch,
  rng: Key,
  state: TrainState,
  static: tuple[Any, ...],
  accum_steps: int,
  shardings: PyTree | None = None,
) -> tuple[tuple[Array, Measurements], Params]:
  """Computes loss, measurements and gradient, averaged over micro-batches.

  Args:
    recipe: the Recipe.
    params: parameters.
    batch: dict of arrays [B, ...].
    rng: random key; micro-batch i gets it folded with i.
    state: the training state, passed on to the loss.
    static: tuple, passed on to the loss.
    accum_steps: number of micro-batches. For losses that are means over
      examples, and recipes with their own `accumulate`, any number gives the loss
      and gradient of the whole batch.
    shardings: tree of NamedSharding of the parameters, which sums of gradients
      keep; without, XLA may hold them whole on every device.

  Returns:
    `((loss, measurements), gradients)`; gradients have the parameters' dtypes.
  """
  if accum_steps == 1:
    return recipe.grad_fn(recipe.loss_fn, params, batch, rng, state, *static)

  def constrain(grads):
    if shardings is None:
      return grads
    return jax.lax.with_sharding_constraint(grads, shardings)

  def one(micro, i):
    key = jax.random.fold_in(rng, i)
    out, grads = recipe.grad_fn(
      recipe.loss_fn, params, micro, key, state, *static
    )
    return out, constrain(grads)

  if recipe.accumulate:
    (loss, measurements), grads = recipe.accumulate(
      params, batch, rng, state, *static, steps=accum_steps, constrain=constrain
    )
  else:
    (loss, measurements), grads = accumulate(one, batch, accum_steps)
  # Means are in float32; what belongs to the state keeps its dtype.
  cast = lambda x, like: x.astype(like.dtype)
  if old := state.get("collections"):
    new = jax.tree.map(cast, measurements["collections"], old)
    measurements["collections"] = new
  return (loss, measurements), jax.tree.map(cast, grads, params)


def update(
  state: TrainState,
  batch: Batch,
  frozen: Mapping[str, Params],
  rng_loop: Key,
  *,
  recipe: Recipe,
  tx: optax.GradientTransformation,
  schedule: Any,
  accum_steps: int,
  shardings: PyTree,
  static: tuple[Any, ...],
  average: ema.Average | None = None,
) -> tuple[TrainState, Measurements]:
  """Does one step of training: gradient, clipping, optimizer, measurements.

  Args:
    state: dict with `params`, `opt` and what the recipe added.
    batch: dict of global arrays [B, ...].
    frozen: the recipe's frozen trees.
    rng_loop: random key of the whole run; the step's key is this one folded
      with the schedule counter, so it does not depend on restarts.
    recipe: the Recipe.
    tx: the optimizer, with clipping and decay.
    schedule: `config.schedule`; tells which parameters are frozen.
    accum_steps: number of micro-batches.
    shardings: tree of NamedSharding of the state.
    static: tuple of the recipe's static arguments.
    average: rule of the state's `params_ema`; None without.

  Returns:
    `(state, measurements)`; measurements are scalars by name.
  """
  params, opt = state["params"], state["opt"]
  rng = jax.random.fold_in(rng_loop, bv_optax.get_count(opt, jittable=True))
  if recipe.augment:
    batch, rng = recipe.augment(batch, rng)
  _, rng_model = jax.random.split(rng)

  (loss, measurements), grads = loss_and_grad(
    recipe,
    params,
    batch,
    rng_model,
    with_frozen(state, frozen),
    static,
    accum_steps,
    shardings["params"],
  )
  updates, opt = tx.update(grads, opt, params)
  params = optax.apply_updates(params, updates)

  measurements = dict(measurements)
  new = {**state, "params": params, "opt": opt}
  if "collections" in measurements:
    new["collections"] = measurements.pop("collections")
  if recipe.post_update:
    new = recipe.post_update(state, new)
    measurements |= new.pop("measurements", {})
  if average:
    new |= average.of_step(state, new["params"])

  grads = bv_optax.replace_frozen(schedule, grads, 0.0)
  measurements["training_loss"] = loss
  measurements["l2_grads"] = l2(grads)
  measurements["l2_params"] = l2(params)
  measurements["l2_updates"] = l2(updates)
  return new, measurements


def make_update(
  recipe: Recipe,
  tx: optax.GradientTransformation,
  config: ConfigLike,
  shardings: PyTree,
  replicated: jax.sharding.NamedSharding,
) -> Callable[..., tuple[TrainState, Measurements]]:
  """Makes the jitted update; the state given to it is donated.

  Args:
    recipe: the Recipe.
    tx: the optimizer.
    config: the run's config.
    shardings: tree of NamedSharding for the state.
    replicated: NamedSharding of the measurements.

  Returns:
    `fn(state, batch, frozen, rng_loop, static=()) -> (state, measurements)`.
  """
  fn = functools.partial(
    update,
    recipe=recipe,
    tx=tx,
    schedule=config.get("schedule", {}),
    accum_steps=config.get("grad_accum_steps") or 1,
    shardings=shardings,
    average=ema.settings(config),
  )

  split = sharding.batch_splitter(config, replicated.mesh)

  def step(state, batch, frozen, rng_loop, static=()):
    return fn(state, split(batch), frozen, rng_loop, static=static)

  return jax.jit(
    step,
    static_argnums=(4,),
    donate_argnums=(0,),
    out_shardings=(shardings, replicated),
    compiler_options=xla_flags.options(config, replicated.mesh),
  )
