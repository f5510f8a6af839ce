"""The state of a run in checkpoints: which to continue from, reading, writing.

A checkpoint of the loop holds the state and, under `chrono`, the clock.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from big_vision import (
  checkpoint_checksums,
  checkpoint_npz,
  checkpoints,
  fs,
  lookup,
)
from big_vision.checkpoints import AVERAGE
from big_vision.chrono import Chrono
from big_vision.schedules import itstime
from big_vision.training import console, ema, hosts
from big_vision.training.setup import Setup
from big_vision.types import TrainState

# Each evaluation that has ended has its time in the metrics.
_EVALUATION = "z/secs/eval/"
# In the workdir: the number of devices of the first start of the run.
_DEVICES = "num_devices.txt"


def find(setup: Setup) -> str | None:
  """Finds a checkpoint of the workdir, else `config.resume`, else None.

  Args:
    setup: the Setup.

  Returns:
    The path, the same on all hosts.

  Raises:
    lookup.ConfigError: `config.resume` is not a path.
  """
  prefix = setup.checkpoint_prefix
  found = (
    hosts.from_first(lambda: checkpoints.latest(prefix) or "") if prefix else ""
  )
  resume = setup.config.get("resume") or None
  if not isinstance(resume, str | os.PathLike | None):
    raise lookup.ConfigError(
      f"config.resume={resume!r} should be the path of a checkpoint."
    )
  return found or (os.fspath(resume) if resume else None)


def started_on(setup: Setup) -> int:
  """Reads on how many devices the run was started that is to be continued.

  Args:
    setup: the Setup.

  Returns:
    The number; 0 if there is no run, or one of an earlier version.
  """
  path = find(setup)

  def read() -> str:
    assert path
    file = fs.join(fs.dirname(path) or ".", _DEVICES)
    if not fs.exists(file):
      return "0"
    with fs.open(file, "rb") as f:
      text = f.read(20)
    return text.decode() if text.isdigit() else "0"

  return int(hosts.from_first(read)) if path else 0


def resume(
  path: str,
  shapes: dict[str, Any],
  shardings: dict[str, Any],
  setup: Setup,
) -> TrainState:
  """Restores the state of a run; of a damaged checkpoint, that of an earlier one.

  Args:
    path: result of `find`.
    shapes, shardings: as for `restore`.
    setup: the Setup. Its clock continues.

  Returns:
    The state, in its target sharding.

  Raises:
    checkpoint_checksums.Damaged: this one and all others are.
    lookup.ConfigError: see `restore`.
  """
  path = checkpoints.latest(path) or path
  problems: list[str] = []
  left = [path]
  while left:
    folder = left.pop(0)
    state, problem = None, ""
    try:
      state = restore(folder, shapes, shardings, setup.chrono)
    except checkpoint_checksums.Damaged as e:
      problem = e.problem
    # Each process reads its part only.
    problem = hosts.first_problem(problem)
    if not problem and state is not None:
      if problems:
        _go_back(folder, problems, setup)
      return state
    if not problems:
      left = json.loads(hosts.from_first(lambda: _others(path, setup)))
    problems.append(problem)
  raise checkpoint_checksums.Damaged(
    f"{' '.join(problems)} There is no other complete checkpoint beside it."
  )


def _go_back(folder: str, problems: list[str], setup: Setup) -> None:
  """Says what is lost, and lets the run continue from an earlier checkpoint."""
  console.note(
    f"{' '.join(problems)} Continuing from {folder} instead: what came after "
    "that step is trained again."
  )
  prefix = setup.checkpoint_prefix
  if jax.process_index() == 0 and prefix and folder.startswith(f"{prefix}-"):
    checkpoints.point_to(prefix, folder)


def _others(path: str, setup: Setup) -> str:
  """Lists the other checkpoints of a run, the newest first, as JSON."""
  given = setup.config.get("resume")
  if given and os.fspath(given) == path:
    return "[]"  # This one and no other was asked for.
  found: list[tuple[int, str]] = []
  for prefix in ("best.bv", "checkpoint.bv"):
    prefix = fs.join(fs.dirname(path) or ".", prefix)
    found += checkpoints.of_steps(prefix).items()
  newest = sorted(found, reverse=True)  # Of the same step the own one first.
  return json.dumps([folder for _, folder in newest if folder != path])


def restore(
  path: str,
  shapes: dict[str, Any],
  shardings: dict[str, Any],
  chrono: Chrono,
) -> TrainState:
  """Reads a whole state (and the clock) from a checkpoint of the loop.

  An average of parameters that the checkpoint lacks begins with its parameters; one
  that the run does not have is left out.

  Args:
    path: checkpoint prefix or a concrete checkpoint folder.
    shapes: tree of ShapeDtypeStruct of the state.
    shardings: tree of NamedSharding, same structure.
    chrono: the Chrono that continues from the stored values.

  Returns:
    The state, in its target sharding.

  Raises:
    checkpoint_checksums.Damaged: a file is damaged or missing.
    lookup.ConfigError: the checkpoint has other leaves or other shapes than the
      state.
  """
  clock = {k: jax.ShapeDtypeStruct((), np.float64) for k in chrono.save()}
  tree = {**shapes, "chrono": clock}
  path = checkpoints.latest(path) or path
  stored = checkpoints.leaf_names(path)
  if not stored:
    raise checkpoint_checksums.Damaged(f"Checkpoint {path!r} is empty.")
  leaves, _ = checkpoint_npz.named_leaves(tree)
  names = [name for name, _ in leaves]
  checkpoint_checksums.check_all_there(path, stored, names)
  in_checkpoint = any(name.startswith(f"{AVERAGE}/") for name in stored)
  begins = AVERAGE in tree and not in_checkpoint
  if begins:
    console.note(
      f"{path} has no average of the parameters: that of config.ema_decay "
      "begins with its parameters."
    )
    del tree[AVERAGE]
  elif in_checkpoint and AVERAGE not in tree:
    console.note(
      f"{path} has an average of the parameters ({AVERAGE}), which is left out: "
      "this run has no config.ema_decay."
    )
  _check_no_surplus(path, tree, stored)
  try:
    loaded = checkpoints.load_checkpoint_ts(
      path,
      tree=tree,
      shardings={k: {**shardings, "chrono": "host"}[k] for k in tree},
    )
  except checkpoint_npz.MisfitError as e:
    raise lookup.ConfigError(f"{e} {_remedy(path)}") from e
  chrono.load(loaded.pop("chrono"))
  if begins:
    loaded[AVERAGE] = ema.begin(loaded["params"], shardings[AVERAGE])
  return loaded


def begin(setup: Setup, first_step: int) -> None:
  """Writes to the workdir for the first time, as the run has started.

  Args:
    setup: the Setup.
    first_step: number of finished steps.
  """
  if setup.checkpoint_prefix:  # First: it may make room on a full disk.
    checkpoints.collect_orphans(setup.checkpoint_prefix)
  if setup.workdir and jax.process_index() == 0:
    file = fs.join(setup.workdir, _DEVICES)
    # A start that has left no checkpoint does not count.
    if first_step == 0 or not fs.exists(file):
      with fs.open(file, "w") as f:
        f.write(str(setup.started_on or setup.devices.size))
  setup.writer.begin(first_step)
  if setup.log:
    setup.log.begin()


def complete_last_row(setup: Setup, first_step: int) -> bool:
  """Adds to the evaluations of a run that was at its end what its last step measured.

  The last line of a step has all of its values.

  Args:
    setup: the Setup.
    first_step: number of finished steps.

  Returns:
    Whether an interruption had cut off any of the evaluations; the same on all
    hosts.
  """
  if not 0 < first_step == setup.total_steps:
    return False
  before, row = _row_of(setup, first_step), setup.writer.step_metrics
  if before is None:
    return False
  # Sizes of models stand where a run begins.
  row = {k: v for k, v in row.items() if not k.startswith("num_params")}
  setup.writer.step_metrics = before | row
  new = any(k.startswith(_EVALUATION) and k not in before for k in row)
  return hosts.from_first(lambda: str(new)) == "True"


def _row_of(setup: Setup, step: int) -> dict[str, Any] | None:
  """Reads the last row of a step; None if the run began in another workdir."""
  return json.loads(
    hosts.from_first(lambda: json.dumps(setup.writer.row_of(step)))
  )


def evaluate_again(
  setup: Setup, evaluators: Any, state: TrainState, first_step: int
) -> bool:
  """Runs the evaluations that an interruption has cut off.

  The checkpoint of a step is complete before the evaluations of that step are.

  Args:
    setup: the Setup.
    evaluators: object with `get` and `measure` as in `loop.py`.
    state: the state.
    first_step: number of finished steps.

  Returns:
    Whether there were any; the same on all hosts.
  """
  if not 0 < first_step < setup.total_steps:
    return False
  row = _row_of(setup, first_step)
  if row is None:
    return False
  again = False
  for name, evaluator, every, prefix in evaluators.get():
    due = itstime(first_step, every, setup.total_steps, first=False)
    if due and f"{_EVALUATION}{name}" not in row:
      evaluators.measure(name, evaluator, prefix, state)
      again = True
  if again:  # The last line of a step has all of its values.
    setup.writer.step_metrics = row | setup.writer.step_metrics
  return again


def _check_no_surplus(
  path: str, tree: TrainState, stored: Sequence[str]
) -> None:
  """Refuses a checkpoint of a state that has more than the run's."""
  leaves, _ = checkpoint_npz.named_leaves(tree)
  known = {name for name, _ in leaves}
  surplus = [
    name
    for name in stored
    if name not in known and not name.startswith(("chrono/", f"{AVERAGE}/"))
  ]
  if surplus:
    shown = ", ".join(map(repr, surplus[:5]))
    more = f" and {len(surplus) - 5} more" if len(surplus) > 5 else ""
    raise lookup.ConfigError(
      f"Checkpoint {path!r} is of a run with another model or optimizer, it has "
      f"{shown}{more}, which this config would drop. {_remedy(path)}"
    )


def _remedy(path):
  return (
    "Continue it with its own config, or choose another --workdir and start "
    f"from its parameters by config.model_init={path!r}."
  )


def save(
  manager: checkpoints.CheckpointManager,
  state: TrainState,
  setup: Setup,
  step: int,
  keep: bool,
) -> None:
  """Starts writing a checkpoint; returns once the state is safe on the host.

  Args:
    manager: writes in the background.
    state: the state.
    setup: the Setup, with a workdir.
    step: number of finished steps.
    keep: whether the checkpoint is permanent.
  """
  assert setup.checkpoint_prefix
  tree = with_clock(state, setup)
  checkpoints.save_checkpoint_ts(
    manager, tree, setup.checkpoint_prefix, step, keep
  )


def with_clock(state: TrainState, setup: Setup) -> TrainState:
  """Makes the tree that a checkpoint holds.

  Args:
    state: the state.
    setup: the Setup.

  Returns:
    The state and, under `chrono`, the clock.
  """
  # Host-side in 64 bits: more than 2³¹ examples, sub-second times.
  clock = {
    k: np.int64(v) if isinstance(v, int) else np.float64(v)
    for k, v in setup.chrono.save().items()
  }
  return {**state, "chrono": clock}
