"""The training loop: step, log, checkpoint, evaluate, in this order.

Reads top to bottom; every stage it calls takes what it needs and returns what
it made. Whoever researches the loop itself copies `run` and calls the same
stages.
"""

import contextlib
import math

import jax
import numpy as np

from big_vision import checkpoints, devices, profiler
from big_vision import optax as bv_optax
from big_vision.evaluators import common as eval_common
from big_vision.schedules import itstime
from big_vision.training import console, preemption
from big_vision.training import state as state_lib
from big_vision.training import step as step_lib


class Preempted(SystemExit):
  """The run stopped early on request, with its state in a checkpoint."""


def run(setup, recipe):
  """Trains a recipe to the end of its config.

  Args:
    setup: the Setup.
    recipe: the Recipe.

  Returns:
    The final state, a dict of trees of global arrays.

  Raises:
    RuntimeError: a loss or a norm is not finite. Raised on every host.
    Preempted: SIGTERM came; the state is in a checkpoint if the run has any.
  """
  config, writer, chrono = setup.config, setup.writer, setup.chrono
  total_steps = setup.total_steps
  plan = state_lib.plan(recipe, setup)

  # Where to start: own checkpoint, someone else's, loaded weights, or nothing.
  path = state_lib.resume_path(setup)
  if path:
    console.note(f"Resuming from {path}")
    state = state_lib.restore(path, plan, chrono)
    batches = None  # The position in the data follows from the step.
  else:
    batches = setup.batches(0) if total_steps else None
    state = state_lib.initialise(recipe, setup, plan)
    state_lib.log_parameters(state["params"], "Parameters")
  first_step = bv_optax.get_count(state["opt"])
  chrono.inform(first_step=first_step)
  if batches is None and first_step < total_steps:
    batches = setup.batches(first_step)

  _, rng_loop = state_lib.seed_keys(config.get("seed", 0))
  rng_loop = devices.reshard(rng_loop, plan.replicated)
  update = step_lib.make_update(
    recipe, plan.tx, config, plan.shardings, plan.replicated
  )
  schedules = [devices.jit_cpu()(fn) for fn in plan.schedules]
  evaluators = _Evaluators(setup, recipe)
  seen = lambda state: (
    {**state, "frozen": plan.frozen} if plan.frozen else state
  )
  manager = checkpoints.CheckpointManager() if setup.workdir else None
  progress = console.Progress(total_steps)
  stop = preemption.Preemption()
  prof = None

  with contextlib.ExitStack() as stack:
    stack.enter_context(setup.context())
    stack.enter_context(jax.transfer_guard("disallow"))
    for resource in (progress, stop, manager, batches):
      if resource is not None:
        stack.callback(resource.close)
    if manager:
      checkpoints.collect_orphans(setup.checkpoint_prefix)

    writer.step_start(first_step)
    for name, tree in _models(recipe, plan):
      writer.measure(name, state_lib.num_params(tree))
    if first_step in (0, total_steps):
      console.note("Initial evaluation" if first_step == 0 else "Evaluation")
      for name, evaluator, _, prefix in evaluators.get():
        skip = config.evals[name].get("skip_first")
        if not skip or first_step == total_steps:
          evaluators.measure(name, evaluator, prefix, seen(state))
    # Rows of training start at step 1; what came before has its own file.
    writer.step_end(initial=first_step < total_steps)

    console.note(f"First step compilations...\n{chrono.note}")
    for step in range(first_step + 1, total_steps + 1):
      batch = next(batches)
      writer.step_start(step)
      with jax.profiler.StepTraceAnnotation("train_step", step_num=step):
        with chrono.log_timing("z/secs/update0", noop=step > first_step + 1):
          static = recipe.static_args(step) if recipe.static_args else ()
          state, measured = update(state, batch, plan.frozen, rng_loop, static)

      log_every = setup.get_steps("log_training")
      if jax.process_index() == 0:
        prof = profiler.startstop_prof(prof, step, first_step, log_every)

      # Every host looks at the numbers, so that every host stops if one must.
      if itstime(step, log_every, total_steps) or chrono.warmup:
        at = devices.put_cpu(np.asarray(step - 1))
        for i, fn in enumerate(schedules):
          writer.measure(f"global_schedule{i or ''}", fn(at))
        measured = jax.device_get(measured)
        for name, value in sorted(measured.items()):
          writer.measure(name, value)
        chrono.tick(step)
        _check_finite(measured, step, log_every)
        progress.update(step, _speed(chrono, writer, setup, measured))

      preempted = stop.reached(step)
      keep = _keep(setup, step)
      if manager and (_checkpoint(setup, step, keep) or preempted):
        chrono.pause(wait_for=state)
        # Nothing that is broken may replace the last good checkpoint.
        _check_finite(jax.device_get(measured), step, log_every)
        state_lib.save(manager, state, setup, step, chrono, keep)
        chrono.resume()
      if preempted:
        writer.step_end()
        console.note(f"Stopped on request (SIGTERM) after step {step}.")
        raise Preempted(128 + 15)

      for name, evaluator, log_steps, prefix in evaluators.get():
        if itstime(step, log_steps, total_steps, first=False, last=True):
          chrono.pause(wait_for=state)
          chrono.tick(step)
          evaluators.measure(name, evaluator, prefix, seen(state))
          chrono.resume()
      writer.step_end()

    profiler.startstop_prof(prof)
  console.note(f"Done!\n{chrono.note}")
  return state


def _models(recipe, plan):
  """Pairs of the name of the metric of its size and a tree of parameters."""
  suffix = f"_{recipe.params_name}" if recipe.params_name else ""
  yield f"num_params{suffix}", plan.shapes["params"]
  for name, tree in plan.frozen.items():
    yield f"num_params_{name}", tree


class _Evaluators:
  """Builds the evaluators on first use, runs and records them."""

  def __init__(self, setup, recipe):
    self._setup, self._recipe = setup, recipe
    self._list = None

  def get(self):
    """List of (name, evaluator, log_steps, prefix), built once."""
    if self._list is None:
      setup = self._setup
      # Building moves host data to devices as it likes, running does not.
      with jax.transfer_guard("allow"):
        self._list = eval_common.from_config(
          setup.config,
          self._recipe.predict_fns,
          lambda name: console.note(f"Initializing evaluator: {name}..."),
          lambda key, cfg: setup.get_steps(key, default=None, cfg=cfg),
          setup.devices,
          workdir=setup.workdir or "",
          get_step=lambda: setup.chrono.prev_step,
        )
    return self._list

  def measure(self, name, evaluator, prefix, state):
    """Runs one evaluator and writes what it yields."""
    writer, chrono = self._setup.writer, self._setup.chrono
    results = {}
    with chrono.log_timing(f"z/secs/eval/{name}"):
      for key, value in evaluator.run(state):
        value = jax.device_get(value)
        results[key] = writer.measure(f"{prefix}{key}", value)
    if jax.process_index() == 0:
      numbers = {k: v for k, v in results.items() if isinstance(v, float)}
      text = "  ".join(f"{k} {v:.4g}" for k, v in numbers.items())
      console.note(f"{name}: {text}")


def _keep(setup, step):
  """Whether the checkpoint after `step`, if any, is permanent."""
  every = setup.get_steps("keep_ckpt", None)
  if not every and setup.get_steps("ckpt", None):
    every = setup.total_steps
  return bool(itstime(step, every, setup.total_steps, first=False))


def _checkpoint(setup, step, keep):
  """Whether to write a checkpoint after `step`."""
  every = setup.get_steps("ckpt", None)
  return keep or bool(itstime(step, every, setup.total_steps, first=True))


def _check_finite(measured, step, log_every):
  """Raises RuntimeError if training has diverged."""
  for name in ("training_loss", "l2_grads", "l2_updates", "l2_params"):
    if not math.isfinite(measured[name]):
      raise RuntimeError(
        f"{name} is {float(measured[name])} at step {step}: training diverged "
        f"within steps [{max(step - (log_every or 0), 0)}, {step}]. The last "
        "checkpoint is kept. A lower config.lr, a longer warm-up or "
        "config.grad_clip_norm usually help."
      )


def _speed(chrono, writer, setup, measured):
  """What the progress line shows: loss, images per second, time to go."""
  shown = {"training_loss": float(measured["training_loss"])}
  per_core = writer.latest.get("img/sec/core")
  if per_core:
    shown["img/sec"] = per_core * jax.device_count()
    left = setup.total_steps - chrono.prev_step
    shown["eta"] = left * setup.batch_size / shown["img/sec"]
  return shown
