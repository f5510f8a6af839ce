"""The state of a run: its shapes and shardings, initialized or restored.

The state is a dict of trees: `params`, `opt`, and what a recipe adds. Nothing
is ever materialized on one device: what a checkpoint has is read into its
target sharding, what is missing is initialized in place on the mesh.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from big_vision import guards, lookup, precision, sharding, trees
from big_vision import optax as bv_optax
from big_vision.devices import place_shapes, reshard
from big_vision.training import console, ema, resuming, shape_check
from big_vision.training import params as params_lib
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup
from big_vision.types import Batches, Key, Params, Schedule, TrainState


@dataclasses.dataclass(frozen=True)
class Plan:
  """Holds shapes, shardings and functions of a run, before it has a state.

  Attributes:
    shapes: tree of ShapeDtypeStruct of the state.
    shardings: tree of NamedSharding, same structure.
    replicated: NamedSharding of keys and measurements.
    tx: the optimizer.
    schedules: functions step (0-based) -> multiplier, in config order.
    make: `state name -> function` that computes that part of the state:
      `params(rng)`, `opt(params)` and, if the recipe has it, `extra(params)`.
    frozen: the recipe's frozen trees, on the mesh.
  """

  shapes: dict[str, Any]
  shardings: dict[str, Any]
  replicated: NamedSharding
  tx: optax.GradientTransformation
  schedules: list[Schedule]
  make: dict[str, Callable[[Any], Any]]
  frozen: dict[str, Params]


@guards.transfers
def seed_keys(seed: int) -> tuple[Key, Key]:
  """Makes the two keys of a run, (rng_init, rng_loop), from its seed."""
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    rng, rng_init = jax.random.split(jax.random.PRNGKey(seed))
    _, rng_loop = jax.random.split(rng)
  return rng_init, rng_loop


def plan(recipe: Recipe, setup: Setup) -> Plan:
  """Infers shapes and shardings of the state; moves frozen trees to devices.

  Args:
    recipe: the Recipe.
    setup: the Setup.

  Returns:
    The Plan.
  """
  config, mesh = setup.config, setup.mesh
  rng_init, _ = seed_keys(config.get("seed", 0))

  def make_params(rng):
    batch = jax.tree.map(jnp.zeros_like, setup.batch_shapes)
    return precision.parameters(recipe.init(rng, batch), config)

  with shape_check.explained(setup):
    boxed = {"params": jax.eval_shape(make_params, rng_init)}
  tx, schedules = bv_optax.make(
    config,
    nn.unbox(boxed["params"]),
    sched_kw=setup.sched_kw,
  )
  make = {"params": make_params, "opt": tx.init}
  boxed["opt"] = jax.eval_shape(tx.init, boxed["params"])
  if recipe.extra_state:
    make["extra"] = recipe.extra_state
    boxed |= jax.eval_shape(recipe.extra_state, nn.unbox(boxed["params"]))

  strategy = config.get("sharding_strategy", [(".*", "replicate")])
  with setup.context():
    frozen = dict(recipe.frozen)
    every = {**nn.unbox(boxed), "frozen": frozen}
    names = [name for name, _ in trees.tree_flatten_with_names(every)[0]]
    sharding.check_strategy(strategy, names)
    shardings = sharding.infer_sharding(boxed, strategy=strategy, mesh=mesh)
    if frozen:
      named = {"frozen": frozen}
      where = sharding.infer_sharding(named, strategy=strategy, mesh=mesh)
      put = place_shapes if setup.abstract else reshard
      frozen = put(named, where)["frozen"]
  shapes = nn.unbox(boxed)
  ema.plan(config, shapes, shardings)
  return Plan(
    shapes=shapes,
    shardings=shardings,
    replicated=NamedSharding(mesh, PartitionSpec()),
    tx=tx,
    schedules=schedules,
    make=make,
    frozen=frozen,
  )


def start(
  setup: Setup, recipe: Recipe, plan: Plan
) -> tuple[TrainState, int, Batches | None]:
  """Restores or initializes the state; opens the data where it continues.

  A run continues from the newest checkpoint of its workdir, else from the one
  that `config.resume` names. Without either, it starts with the parameters that
  `recipe.load` reads, and initializes the others.

  Args:
    setup: the Setup.
    recipe: the Recipe.
    plan: the Plan.

  Returns:
    (state, first_step, batches): the state after `first_step` steps, and an
    iterator of the batches that follow, None if there are no more steps.

  Raises:
    lookup.ConfigError: the checkpoint is of a later step than the last one of
      the config, or of another state.
  """
  path, batches = resuming.find(setup), None
  if path:
    console.note(f"Resuming from {path}")
    recipe.check_checkpoint(path)
    try:
      state = resuming.resume(path, plan.shapes, plan.shardings, setup)
    except FileNotFoundError as e:
      raise FileNotFoundError(f"config.resume={path!r}: {e}") from e
  else:
    if setup.total_steps:  # Reading starts while the state is initialized.
      batches = setup.batches(0)
    state = initialize(recipe, setup, plan)
    params_lib.log(state["params"], "Parameters")
  first_step = int(bv_optax.get_count(state["opt"]))
  if first_step > setup.total_steps:
    raise lookup.ConfigError(
      f"The run is {setup.total_steps} steps long (config.total_*), but its "
      f"checkpoint {path} is of step {first_step} already. Give more steps, or "
      "choose another --workdir."
    )
  setup.chrono.inform(first_step=first_step)
  if batches is None and first_step < setup.total_steps:
    # The position in the data follows from the step.
    batches = setup.batches(first_step)
  return state, first_step, batches


def initialize(recipe: Recipe, setup: Setup, plan: Plan) -> TrainState:
  """Makes the state at step 0: loaded parameters, the rest from the seed.

  Args:
    recipe: the Recipe.
    setup: the Setup.
    plan: the Plan.

  Returns:
    The state, a dict of trees of global arrays in their target sharding.

  Raises:
    ValueError: a loaded parameter has another shape than the model's.
  """
  rng_init, _ = seed_keys(setup.config.get("seed", 0))
  rng_init = reshard(rng_init, plan.replicated)
  with setup.context():
    loaded = recipe.load(plan.shapes["params"]) if recipe.load else {}
    params = params_lib.complete(
      loaded,
      lambda rng: nn.unbox(plan.make["params"](rng)),
      rng_init,
      plan.shapes["params"],
      plan.shardings["params"],
      key=recipe.params_name or "model",
    )
    opt = jax.jit(
      lambda p: nn.unbox(plan.make["opt"](p)),
      out_shardings=plan.shardings["opt"],
    )(params)
    state = {"params": params, "opt": opt}
    state |= ema.start(params, plan.shardings)
    if "extra" in plan.make:
      where = {k: v for k, v in plan.shardings.items() if k not in state}
      state |= jax.jit(plan.make["extra"], out_shardings=where)(params)
    return recipe.load_extra(state) if recipe.load_extra else state
