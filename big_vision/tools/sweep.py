"""Trains a config with many settings, several at a time, and compares them.

  python -m big_vision.tools.sweep --config configs/quickstart.py \\
      --grid lr=1e-3,3e-3 --grid seed=0,1,2 --workdir workdirs/sweep --jobs 2

  python -m big_vision.tools.sweep --config configs/quickstart.py \\
      --random "lr=log(1e-4,1e-2)" --trials 20 --workdir workdirs/random \\
      --config.total_epochs 20

Each run has a folder below the workdir, with the values in its name. The same
command again repeats no finished run and continues the others; more values or
trials add runs. `sweep.csv` and `sweep.html` compare all of them.
`--config.key=value` changes all runs.
"""

import argparse
import sys
from collections.abc import Sequence

from big_vision import command_line


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a sweep.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status: 0 if all runs have finished, 1 if some failed, 130 if it was
    interrupted.
  """
  argv, changes = command_line.split_changes(argv)
  args = _parser().parse_args(argv)
  # Here, since these need jax, which takes seconds.
  from big_vision import lookup
  from big_vision.sweeps import runs

  try:
    return runs.sweep(args, changes)
  except lookup.ConfigError as e:
    if args.debug:
      raise
    raise SystemExit(f"Error: {e}") from e


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser("big_vision.tools.sweep", __doc__)
  add = parser.add_argument
  add("--config", required=True, help="As for training: path.py[:argument].")
  add("--workdir", required=True, help="Folder of the sweep.")
  add(
    "--grid", action="append", metavar="KEY=A,B",
    help="Values of a key of the config; several grids are combined.",
  )  # fmt: skip
  add(
    "--random", action="append", metavar="KEY=KIND(LOW,HIGH)",
    help="Random values: uniform(LOW,HIGH), log(LOW,HIGH), int(LOW,HIGH), "
    "choice(A,B,C).",
  )  # fmt: skip
  add("--trials", type=int, help="Number of random draws.")
  add("--seed", type=int, default=0, help="Of the draws.")
  add("--jobs", type=int, default=1, help="Runs at a time.")
  add(
    "--gpus",
    help="Numbers of GPUs, for example 0,1,2,3: each run has one of them, and "
    "as many run at a time.",
  )
  add(
    "--metric",
    help="Ranks the runs (default: the first accuracy, else a loss).",
  )
  add("--trainer", default="big_vision.train", help="Module that trains.")
  add(
    "--dry_run", action="store_true", default=None,
    help="Check, and print the commands.",
  )  # fmt: skip
  return parser


if __name__ == "__main__":
  sys.exit(main())
