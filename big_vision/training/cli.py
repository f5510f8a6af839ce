"""From a command line to a finished run: flags, checks, set-up, loop, shutdown.

`run_flags` defines the flags of every trainer; `main_for` turns a method's `build` into
the `main` of its module. `train` is a whole run, from top to bottom.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags, logging

from big_vision import (
  checkpoint_io,
  compat,
  devices,
  fs,
  guards,
  malloc,
  metrics,
  profiler,
  schedules,
)
from big_vision import optax as bv_optax
from big_vision import workdir as workdir_lib
from big_vision.chrono import chrono
from big_vision.evaluators import build as eval_build
from big_vision.training import (
  agreement,
  config_changes,
  config_check,
  config_flag,
  console,
  data_file,
  flat_config,
  hosts,
  logs,
  loop,
  peers,
  resuming,
  run_help,
  summary,
)
from big_vision.training.recipe import Recipe
from big_vision.training.setup import Setup
from big_vision.types import Batches, ConfigLike, TrainState

run_help.define()
jax.config.parse_flags_with_absl()


def main_for(
  build: Callable[[Setup], Recipe], model: str = "model"
) -> Callable[[Sequence[str]], None]:
  """Makes the `main(argv)` of a trainer module.

  Args:
    build: returns the Recipe, what the method computes.
    model: what configs call the model that is trained: `<model>_name` and so on.

  Returns:
    Function for `absl.app.run`.
  """

  def main(argv: Sequence[str]) -> None:
    config_flag.check_arguments(argv)
    args: Any = flags.FLAGS
    if args.config is None:
      raise SystemExit(
        "--config is required, for example configs/quickstart.py"
      )
    with peers.running(args.workdir):
      config_flag.check_method(args["config"].override_values, build)
      start_jax()
      kw = {k: args[k].value for k in ("cleanup", "profile", "config_changed")}
      train(build, args.config, args.workdir, model=model, **kw)

  return main


def start_jax() -> None:
  """Sets up memory, logging and the compilation cache, joins the other hosts."""
  malloc.keep_if_asked()
  logs.set_up()
  compat.use_compilation_cache("~/.cache/big_vision/jax")
  hosts.join()  # It compiles, so after that.


@guards.transfers  # But for the loop, which disallows them.
def train(
  build: Callable[[Setup], Recipe],
  config: ConfigLike,
  workdir: str | None = None,
  *,
  cleanup: bool = False,
  profile: bool = False,
  model: str = "model",
  config_changed: str = "refuse",
) -> TrainState:
  """Runs a training from its config.

  Args:
    build: returns the Recipe.
    config: ConfigDict of the run.
    workdir: output folder; None writes nothing.
    cleanup: delete the workdir after success.
    profile: trace a few steps.
    model: what the config calls the model that is trained.
    config_changed: "continue" goes on although the workdir holds a run with
      another config, see `config_changes`.

  Returns:
    The final state.

  Raises:
    ValueError: the config is wrong, another than that of the workdir, or not the
      same on all hosts; raised before data is read.
  """
  with logs.File(workdir) as log:
    console.note(hosts.hello(workdir))
    agreement.check(config, workdir)
    logs.detail(str(config))

    config = flat_config.modern(config)
    if chrono.prev_step is not None:  # Not the first run of this process.
      chrono.reset()
    from big_vision.datasets import core as sources  # The TensorFlow wing.

    opened: dict[str, Any] = {}
    with sources.shared(opened):
      labels = config_check.check(config, model)
    mesh = devices.mesh_of(config)
    peers.connect(mesh)
    checkpoint_io.check_place(workdir or "")
    config_changes.check(config, workdir, config_changed)
    with contextlib.ExitStack() as stack:
      lock = stack.enter_context(hosts.lock(workdir))
      writer = metrics.BigVisionMetricWriter(
        workdir=workdir,
        config=config,
        hold=True,
        files=data_file.files(config, labels),
      )
      # A start that fails leaves no trace.
      stack.callback(lambda: None if writer.has_begun else lock.undo())
      stack.callback(writer.close)
      with sources.shared(opened):
        setup = _set_up(config, workdir, mesh, writer, log)
      data = agreement.facts_of_data(opened)
      opened.clear()
      note = config_changes.batch_size_note(config, workdir, setup.num_examples)
      if note:
        console.note(note)
      if profile and workdir:
        profiler.configure(fs.join(workdir, "profile"))
      recipe = build(setup)
      agreement.check_opened(data)
      state = loop.run(setup, recipe)
    devices.sync()
    if jax.process_index() == 0:
      prefixes = [*eval_build.prefixes(config).values()]
      summary.show(writer.latest, workdir, prefixes)
    workdir_lib.maybe_cleanup_workdir(workdir, cleanup, logging.info)
    return state


def _set_up(
  config: ConfigLike,
  workdir: str | None,
  mesh: jax.sharding.Mesh,
  writer: metrics.BigVisionMetricWriter,
  log: logs.File,
) -> Setup:
  """Opens the data, resolves the length of the run, starts the clock."""
  from big_vision import input_pipeline  # The TensorFlow wing.
  from big_vision.pipeline import to_devices

  seed, batch_size = config.get("seed", 0), config.input.batch_size
  dataset, num_examples = input_pipeline.training(config.input, seed=seed)
  steps: Any = schedules.steps("total", config, num_examples, batch_size)
  total_steps = int(steps)
  if total_steps != steps:
    raise ValueError(f"config.total_steps={steps} is not a whole number.")
  if total_steps:
    to_devices.check(dataset.element_spec, "input.pp")
  bv_optax.check_lengths(
    config,
    dict(
      total_steps=total_steps, batch_size=batch_size, data_size=num_examples
    ),
  )
  chrono.inform(
    total_steps=total_steps,
    global_bs=batch_size,
    steps_per_epoch=num_examples / batch_size,
    measure=writer.measure,
    write_note=console.clock_note,
  )

  def batches(first_step: int) -> Batches:
    """Iterates over global batches from the (0-based) step `first_step` on."""
    ds = dataset
    if first_step:
      ds, _ = input_pipeline.training(
        config.input, seed=seed, start_step=first_step
      )
    ahead = config.get("prefetch_to_device", 1)
    flat = mesh.devices.flatten()
    it: Any = input_pipeline.start_global(ds, flat, ahead, warmup=True)
    return it

  setup = Setup(
    config=config,
    workdir=workdir,
    mesh=mesh,
    writer=writer,
    batch_shapes=input_pipeline.shapes(dataset.element_spec),
    batches=batches,
    num_examples=num_examples,
    total_steps=total_steps,
    chrono=chrono,
    log=log,
  )
  return dataclasses.replace(setup, started_on=resuming.started_on(setup))
