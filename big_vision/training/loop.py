"""The training loop: step, log, checkpoint, evaluate, in this order.

`run` reads from top to bottom. Every stage that it calls takes what it needs and
returns what it made. Whoever researches the loop itself copies `run` and calls
the same stages.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from big_vision import checkpoints, devices, lookup, profiler
from big_vision.evaluators import build as eval_build
from big_vision.evaluators import common as eval_common
from big_vision.schedules import itstime
from big_vision.training import (
  adapters,
  console,
  preemption,
  reductions,
  resuming,
  shape_check,
  throughput,
)
from big_vision.training import best as best_lib
from big_vision.training import params as params_lib
from big_vision.training import state as state_lib
from big_vision.training import step as step_lib
from big_vision.training.preemption import Preempted as Preempted
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup
from big_vision.types import Evaluator, Measurements, Params, TrainState


def run(setup: Setup, recipe: Recipe) -> TrainState:
  """Trains a recipe to the end of its config.

  Args:
    setup: the Setup.
    recipe: the Recipe.

  Returns:
    The final state, a dict of trees of global arrays.

  Raises:
    ValueError: an evaluator asks for a function that the recipe does not have.
    RuntimeError: a loss or a norm is not finite. Raised on every host.
    Preempted: SIGTERM or SIGUSR1 came; the state is in a checkpoint, if any is.
  """
  config, writer, chrono = setup.config, setup.writer, setup.chrono
  total_steps = setup.total_steps
  recipe = reductions.adapt(adapters.adapt(recipe, setup), config, setup.mesh)
  plan = state_lib.plan(recipe, setup)
  evaluators = _Evaluators(setup, recipe, plan.frozen)
  _, rng_loop = state_lib.seed_keys(config.get("seed", 0))
  rng_loop = devices.reshard(rng_loop, plan.replicated)
  update = step_lib.make_update(
    recipe, plan.tx, config, plan.shardings, plan.replicated
  )
  update = shape_check.check(
    setup, recipe, plan.shapes, plan.shardings, plan.frozen, update, rng_loop
  )
  state, first_step, batches = state_lib.start(setup, recipe, plan)
  schedules = [devices.jit_cpu()(fn) for fn in plan.schedules]
  manager = checkpoints.CheckpointManager() if setup.workdir else None
  best = best_lib.start(config, setup.workdir, first_step)
  progress = console.Progress(total_steps)
  measured, prof, utilization = {}, None, None

  def save(step: int, keep: bool = False, as_best: bool = False) -> None:
    if manager:
      chrono.pause(wait_for=state)
      # Nothing that is broken may replace the last good checkpoint.
      _check_finite(jax.device_get(measured), step, log_every)
      if best and as_best:
        best.save(manager, state, step, setup)
      else:
        stop.saving(step)
        writer.secure()
        resuming.save(manager, state, setup, step, keep)
      chrono.resume()

  stop = preemption.Preemption(save)
  with contextlib.ExitStack() as stack:
    stack.enter_context(setup.context())
    stack.enter_context(jax.transfer_guard("disallow"))
    for resource in (progress, stop, manager, batches):
      if resource is not None:
        stack.callback(resource.close)
    writer.step_start(first_step)
    for name, tree in _models(recipe, plan):
      writer.measure(name, params_lib.count(tree))
    if first_step in (0, total_steps):
      console.note("Initial evaluation" if first_step == 0 else "Evaluation")
      for name, evaluator, _, prefix in evaluators.get():
        skip = config.evals[name].get("skip_first")
        if not skip or first_step == total_steps:
          evaluators.measure(name, evaluator, prefix, state)
    made_up = resuming.complete_last_row(setup, first_step)
    if first_step < total_steps:
      # Rows of training start at step 1; what came before has its own file.
      writer.step_end(initial=True)
      made_up = resuming.evaluate_again(setup, evaluators, state, first_step)
    if made_up and best and manager and best.improves(writer):
      best.save(manager, state, first_step, setup)
    if made_up or first_step == total_steps:
      writer.step_end()

    if first_step < total_steps:
      console.note("First step compilations...")
    for step in range(first_step + 1, total_steps + 1):
      assert batches is not None  # There are steps left.
      with progress.waiting_for_data():
        batch = stop.next(batches, step)
      writer.step_start(step)
      with jax.profiler.StepTraceAnnotation("train_step", step_num=step):
        later = step > first_step + 1
        with (
          chrono.log_timing("z/secs/update0", noop=later),
          progress.busy("compiling the train step", noop=later),
        ):
          static = recipe.static_args(step) if recipe.static_args else ()
          stop.computing(step, static)
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
        if not later:
          resuming.begin(setup, first_step)  # It compiles, fits and computes.
          again = functools.partial(update, static=static)
          utilization = throughput.utilization(
            setup, again, state, batch, plan.frozen, rng_loop
          )
        for name, value in sorted(measured.items()):
          writer.measure(name, value)
        chrono.tick(step)
        _check_finite(measured, step, log_every)
        if manager:
          manager.check()
        progress.update(step, throughput.of_step(setup, measured, utilization))

      stopping, keep = stop.reached(step), _keep(setup, step)
      if stopping or _checkpoint(setup, step, keep):
        save(step, keep)
      if stopping:
        raise stop.leave(step)

      evaluated = False
      for name, evaluator, log_steps, prefix in evaluators.get():
        if itstime(step, log_steps, total_steps, first=False, last=True):
          evaluated = True
          chrono.pause(wait_for=state)
          chrono.tick(step)
          with stop.evaluating(step, chrono.resume):
            evaluators.measure(name, evaluator, prefix, state)
      if evaluated and best and best.improves(writer):
        save(step, as_best=True)
      writer.step_end()

    profiler.startstop_prof(prof)
    if first_step == total_steps:
      resuming.begin(setup, first_step)
  done = f"Done! {chrono.note.replace(chr(10), '  ')}  Evaluation: "
  console.note(done + chrono.share("z/secs/eval/"))
  return state


def _models(recipe: Recipe, plan: state_lib.Plan) -> Iterator[tuple[str, Any]]:
  """Yields the name of the metric of its size and a tree of parameters."""
  suffix = f"_{recipe.params_name}" if recipe.params_name else ""
  yield f"num_params{suffix}", plan.shapes["params"]
  for name, tree in plan.frozen.items():
    yield f"num_params_{name}", tree


class _Evaluators:
  """Builds the evaluators on first use, runs and records them."""

  def __init__(self, setup: Setup, recipe: Recipe, frozen: dict[str, Params]):
    self._setup, self._recipe, self._frozen = setup, recipe, frozen
    self._list: list[tuple[str, Evaluator, Any, str]] | None = None
    for name, cfg in eval_build.entries(setup.config).items():
      pred = cfg.get("pred", "predict")
      if pred not in recipe.predict_fns:
        raise lookup.unknown(
          "predict function", pred, recipe.predict_fns, f"evals.{name}.pred"
        )

  def get(self) -> list[tuple[str, Evaluator, Any, str]]:
    """Returns (name, evaluator, log_steps, prefix) of each, built once."""
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

  def measure(
    self, name: str, evaluator: Evaluator, prefix: str, state: TrainState
  ) -> None:
    """Runs one evaluator and writes what it yields."""
    writer, chrono = self._setup.writer, self._setup.chrono
    state = step_lib.with_frozen(state, self._frozen)
    results = {}
    with chrono.log_timing(f"z/secs/eval/{name}"):
      for key, value in evaluator.run(state):
        results[key] = writer.measure(f"{prefix}{key}", jax.device_get(value))
    writer.measure("z/secs/eval_total", chrono.seconds("z/secs/eval/"))
    console.results(name, results)


def _keep(setup: Setup, step: int) -> bool:
  """Tells whether the checkpoint after `step`, if any, is permanent."""
  every = setup.get_steps("keep_ckpt", None) or setup.total_steps
  return bool(itstime(step, every, setup.total_steps, first=False))


def _checkpoint(setup: Setup, step: int, keep: bool) -> bool:
  """Tells whether to write a checkpoint after `step`."""
  every = setup.get_steps("ckpt", None)
  return keep or bool(itstime(step, every, setup.total_steps, first=True))


def _check_finite(
  measured: Measurements, step: int, log_every: int | None
) -> None:
  """Raises RuntimeError if training has diverged."""
  for name in ("training_loss", "l2_grads", "l2_updates", "l2_params"):
    if not math.isfinite(measured[name]):
      raise RuntimeError(
        f"{name} is {float(measured[name])} at step {step}: training diverged "
        f"within steps [{max(step - (log_every or 0), 0)}, {step}]. The last "
        "checkpoint is kept. A lower config.lr, a longer warm-up or "
        "config.grad_clip_norm usually help."
      )
