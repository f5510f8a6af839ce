"""The state of a run: its shapes and shardings, initialised or restored.

The state is a dict of trees: `params`, `opt`, and what a recipe adds. Nothing
is ever materialised on one device: what a checkpoint has is read into its
target sharding, what is missing is initialised in place on the mesh.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

from big_vision import checkpoints, fs, sharding, trees
from big_vision import optax as bv_optax
from big_vision.devices import reshard


@dataclasses.dataclass(frozen=True)
class Plan:
  """Shapes, shardings and functions of a run, before anything is allocated.

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

  shapes: dict
  shardings: dict
  replicated: NamedSharding
  tx: Any
  schedules: list
  make: dict
  frozen: dict


def seed_keys(seed):
  """The keys of a run: (rng_init, rng_loop) of an integer seed."""
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    rng, rng_init = jax.random.split(jax.random.PRNGKey(seed))
    _, rng_loop = jax.random.split(rng)
  return rng_init, rng_loop


def plan(recipe, setup):
  """Infers shapes and shardings of the state; allocates frozen trees only.

  Args:
    recipe: the Recipe.
    setup: the Setup.

  Returns:
    The Plan.
  """
  config, mesh = setup.config, setup.mesh
  rng_init, _ = seed_keys(config.get("seed", 0))

  def make_params(rng):
    zeros = lambda s: jnp.zeros(s.shape, s.dtype)
    return recipe.init(rng, jax.tree.map(zeros, setup.batch_shapes))

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
    shardings = sharding.infer_sharding(boxed, strategy=strategy, mesh=mesh)
    frozen = dict(recipe.frozen)
    if frozen:
      named = {"frozen": frozen}
      where = sharding.infer_sharding(named, strategy=strategy, mesh=mesh)
      frozen = reshard(named, where)["frozen"]
  return Plan(
    shapes=nn.unbox(boxed),
    shardings=shardings,
    replicated=NamedSharding(mesh, PartitionSpec()),
    tx=tx,
    schedules=schedules,
    make=make,
    frozen=frozen,
  )


def initialise(recipe, setup, plan):
  """The state at step 0: parameters of `recipe.load`, the rest from the seed.

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
    params = _params(recipe, plan, rng_init)
    opt = jax.jit(
      lambda p: nn.unbox(plan.make["opt"](p)),
      out_shardings=plan.shardings["opt"],
    )(params)
    state = {"params": params, "opt": opt}
    if "extra" in plan.make:
      where = {k: v for k, v in plan.shardings.items() if k not in state}
      state |= jax.jit(plan.make["extra"], out_shardings=where)(params)
  return state


def _params(recipe, plan, rng):
  """Loaded parameters where there are any, initialised ones elsewhere."""
  shapes, where = plan.shapes["params"], plan.shardings["params"]
  loaded = recipe.load(shapes) if recipe.load else shapes
  flat, treedef = trees.tree_flatten_with_names(shapes)
  names = [name for name, _ in flat]
  have = dict(trees.tree_flatten_with_names(loaded)[0])
  have = {
    name: x
    for name, x in have.items()
    if not isinstance(x, jax.ShapeDtypeStruct)
  }
  _check_shapes(have, dict(flat))
  where = dict(zip(names, jax.tree.leaves(where), strict=True))

  missing = [name for name in names if name not in have]
  if have:
    logging.info(
      "Loaded %d of %d parameter arrays; initialising: %s",
      len(have),
      len(names),
      ", ".join(missing) or "none",
    )

  def init(rng):  # What is not needed is not computed.
    params = nn.unbox(plan.make["params"](rng))
    every = dict(trees.tree_flatten_with_names(params)[0])
    return {name: every[name] for name in missing}

  fresh = {}
  if missing:
    fresh = jax.jit(init, out_shardings={n: where[n] for n in missing})(rng)
  kept = reshard(
    {n: _as_array(x, dict(flat)[n].dtype) for n, x in have.items()},
    {n: where[n] for n in have},
  )
  return treedef.unflatten([(fresh | kept)[name] for name in names])


def _as_array(x, dtype):
  """`x` in the dtype of the model; what is on devices stays there."""
  return x.astype(dtype) if isinstance(x, jax.Array) else np.asarray(x, dtype)


def _check_shapes(have, shapes):
  """Raises ValueError if a loaded array does not fit the model."""
  bad = [
    f"  {name}: {tuple(np.shape(x))} in the checkpoint, {shapes[name].shape} "
    "in the model"
    for name, x in have.items()
    if tuple(np.shape(x)) != tuple(shapes[name].shape)
  ]
  if bad:
    raise ValueError(
      "config.model_init does not fit config.model:\n"
      + "\n".join(bad)
      + "\nChange config.model, or list these names in "
      "config.model_load.dont_load to initialise them."
    )


def restore(path, plan, chrono):
  """Reads a whole state (and the clock) from a checkpoint of the loop.

  Args:
    path: checkpoint prefix or a concrete checkpoint folder.
    plan: the Plan.
    chrono: the Chrono that continues from the stored values.

  Returns:
    The state, in its target sharding.

  Raises:
    ValueError: a leaf is missing or has another shape.
  """
  clock = {k: jax.ShapeDtypeStruct((), np.float64) for k in chrono.save()}
  loaded = checkpoints.load_checkpoint_ts(
    path,
    tree={**plan.shapes, "chrono": clock},
    shardings={**plan.shardings, "chrono": "host"},
  )
  chrono.load(loaded.pop("chrono"))
  return loaded


def resume_path(setup):
  """Where to resume from: the workdir, else `config.resume`, else None."""
  if setup.workdir and fs.exists(setup.checkpoint_prefix + "-LAST"):
    return setup.checkpoint_prefix
  return setup.config.get("resume") or None


def save(manager, state, setup, step, chrono, keep):
  """Starts writing a checkpoint; returns once the state is safe on the host.

  Args:
    manager: checkpoints.CheckpointManager.
    state: the state.
    setup: the Setup.
    step: int, number of finished steps.
    chrono: the Chrono.
    keep: bool, whether the checkpoint is permanent.
  """
  # Host-side in 64 bits: more than 2³¹ examples, sub-second times.
  clock = {
    k: np.int64(v) if isinstance(v, int) else np.float64(v)
    for k, v in chrono.save().items()
  }
  checkpoints.save_checkpoint_ts(
    manager,
    {**state, "chrono": clock},
    setup.checkpoint_prefix,
    step,
    keep,
  )


def log_parameters(params, message):
  """Logs names, shapes and size of all parameters (process 0)."""
  if jax.process_index():
    return
  named = trees.tree_flatten_with_names(params)[0]
  width = max([len(n) for n, _ in named], default=0)
  rows = [f"  {n:<{width}}  {str(x.dtype):>8}  {x.shape}" for n, x in named]
  logging.info(
    "%s: %d parameters in %d arrays\n%s",
    message,
    num_params(params),
    len(named),
    "\n".join(rows),
  )


def num_params(params):
  """Total number of parameters of a tree of arrays or shapes."""
  return int(
    sum(np.prod(x.shape, dtype=np.int64) for x in jax.tree.leaves(params))
  )
