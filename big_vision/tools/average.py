"""Averages the parameters of several checkpoints of a run.

  python -m big_vision.tools.average --workdir WORKDIR --last 5
  python -m big_vision.tools.average --workdir WORKDIR --steps 8000 9000 10000

The uniform average of the last checkpoints, or of those after the given steps. Runs
keep several with `config.keep_ckpt_steps`. The result has parameters only:
`config.model_init`, `pretrained.load(WORKDIR, init=FILE)` and `tools.predict --init
FILE` read it. Each checkpoint is read alone and summed up in 64 bits.

Reference: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from big_vision import command_line, fs, lookup


def parser() -> argparse.ArgumentParser:
  """Makes the parser of the command line."""
  out = command_line.make_parser("big_vision.tools.average", __doc__)
  add = out.add_argument
  add("--workdir", required=True, help="of the run")
  which = out.add_mutually_exclusive_group(required=True)
  which.add_argument(
    "--last", type=int, metavar="N", help="how many to average"
  )
  which.add_argument(
    "--steps", type=int, nargs="+", metavar="STEP", help="which to average"
  )
  add(
    "--to",
    metavar="PATH",
    help="a file .npz (default: average.npz in the workdir), or a new folder for "
    "a checkpoint",
  )
  add(
    "--params",
    choices=("params", "ema"),
    default="params",
    help="ema: average the averages of a run with config.ema_decay",
  )
  return out


def choose(
  workdir: str, last: int | None = None, steps: Sequence[int] | None = None
) -> list[str]:
  """Finds the checkpoints to average.

  Args:
    workdir: folder of the run.
    last: how many of the newest ones; or
    steps: the steps after which they were written.

  Returns:
    Their folders, in the order of their steps.

  Raises:
    lookup.ConfigError: there are not as many, or not of these steps.
  """
  from big_vision import checkpoints

  if not fs.isdir(workdir):
    raise lookup.ConfigError(f"--workdir={workdir} does not exist.")
  folders = checkpoints.of_steps(fs.join(workdir, "checkpoint.bv"))
  there = ", ".join(map(str, folders)) or "none"
  if steps is None:
    if last is None or last < 1:
      raise lookup.ConfigError(f"--last={last} should be at least 1.")
    if last > len(folders):
      raise lookup.ConfigError(
        f"--last={last}: {workdir} has only {len(folders)} complete checkpoints, "
        f"of the steps {there}. A run keeps more with config.keep_ckpt_steps."
      )
    return list(folders.values())[-last:]
  missing = sorted(set(steps) - set(folders))
  if missing:
    raise lookup.ConfigError(
      f"--steps: {workdir} has no checkpoint of {', '.join(map(str, missing))}; "
      f"there are those of the steps {there}."
    )
  return [folders[step] for step in sorted(set(steps))]


def average(folders: Sequence[str], params: str = "params") -> dict[str, Any]:
  """Averages the parameters of checkpoints.

  Args:
    folders: the checkpoints, at least one.
    params: "params", or "ema" for the averages that they hold.

  Returns:
    Nested dict of float32 NumPy arrays.

  Raises:
    lookup.ConfigError: the checkpoints are of different models, or have no
      averages.
  """
  import jax
  import numpy as np

  from big_vision import checkpoints, models

  total: Any = None
  for folder in folders:
    path = checkpoints.averaged(folder) if params == "ema" else folder
    found = models.load_params(path, shardings="host")
    if total is None:
      total = jax.tree.map(lambda x: x.astype(np.float64), found)
      continue
    _check_same(folders[0], total, folder, found)
    jax.tree.map(lambda t, x: np.add(t, x, out=t), total, found)
  return jax.tree.map(lambda t: (t / len(folders)).astype(np.float32), total)


def _check_same(first, total, folder, found):
  """Raises ConfigError unless two checkpoints have the same parameters."""
  from big_vision import trees

  a, b = (
    {f"{name} {x.shape}" for name, x in trees.tree_flatten_with_names(tree)[0]}
    for tree in (total, found)
  )
  if a != b:
    raise lookup.ConfigError(
      f"{first} and {folder} are of different models: only one of them has "
      f"{min(a ^ b)}."
    )


def save(params: dict[str, Any], path: str) -> None:
  """Writes parameters.

  Args:
    params: nested dict of arrays.
    path: a file ".npz", or the folder of a new checkpoint.

  Raises:
    lookup.ConfigError: the folder exists.
  """
  from big_vision import checkpoints

  if path.endswith(".npz"):
    checkpoints.save_checkpoint(params, path)
    return
  manager = checkpoints.CheckpointManager()
  checkpoints.tssave(manager, {"params": params}, path)
  manager.close()


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  args = parser().parse_args(argv)
  target = args.to or fs.join(args.workdir, "average.npz")
  try:
    if not target.endswith(".npz") and fs.exists(target):
      raise lookup.ConfigError(
        f"--to={target} exists: name a new folder, or a file .npz."
      )
    folders = choose(args.workdir, args.last, args.steps)
    for folder in folders:
      print(folder)
    save(average(folders, args.params), target)
  except (ValueError, KeyError, OSError) as e:
    from big_vision.training import user_errors

    if args.debug:
      raise
    print(f"Error: {user_errors.message(e)}", file=sys.stderr)
    return 1
  print(f"Wrote {target}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
