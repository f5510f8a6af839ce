"""Kills, stops and damages runs on purpose, and compares them with undisturbed ones.

  python -m big_vision.tools.faults --schedules 5 --seed 0 --trainer train \\
      --workdir workdirs/faults

A schedule is drawn from its seed: which processes are killed or stopped when, whether
a file of a checkpoint is damaged, with how many processes the run goes on. 1 to 4
processes with 2 simulated devices each train a tiny model; they are started again
until the run ends. Then its state and metrics have to be those of the undisturbed
run, to the bit where the number of devices has not changed. `results.jsonl` has all
results; the same command again goes on after the last schedule, and
`--config.key=value` changes all runs. See docs/reliability.md.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent import futures

from big_vision import command_line

TRAINERS = (
  "train",
  "siglip",
  "distill",
  "flexi",
  "gsam",
  "cappa",
  "paligemma",
  "uvim",
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs schedules.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status: 0 if nothing went wrong, else 1.
  """
  argv, changes = command_line.split_changes(argv)
  args = _parser().parse_args(argv)
  # Here, since these need jax, which takes seconds.
  from big_vision.training import user_errors

  args.changes = changes
  return user_errors.exit_status(_run, args)


def _run(args: argparse.Namespace) -> int:
  """Runs the schedules that have no result yet; prints the table."""
  from big_vision import lookup
  from big_vision.faults import config, runner, schedule, trial, warm

  trainers = TRAINERS if args.trainer == "all" else (args.trainer,)
  done = {(row["trainer"], row["seed"]) for row in trial.read(args.workdir)}
  plans = {}
  for seed in range(args.seed, args.seed + args.schedules):
    plans[seed] = schedule.draw(
      seed,
      total_steps=config.TOTAL_STEPS,
      kinds=args.kinds.split(",") if args.kinds else tuple(schedule.KINDS),
      max_hosts=args.hosts,
      max_endings=args.endings,
    )
  if args.dry_run:
    for plan in plans.values():
      print(plan)
    return 0
  todo = [(s, t) for s in plans for t in trainers if (t, s) not in done]
  with contextlib.ExitStack() as stack:
    # Stopped, it ends all that it has started.
    stop = lambda *_: sys.exit(128 + signal.SIGTERM)
    old = signal.signal(signal.SIGTERM, stop)
    stack.callback(signal.signal, signal.SIGTERM, old)
    pool = stack.enter_context(futures.ThreadPoolExecutor(args.jobs))
    popen = subprocess.Popen
    if todo and not args.cold:
      env = runner.environment(args.workdir)
      popen = stack.enter_context(warm.Server(env)).popen
    say = lambda line: print(line, flush=True)

    def run(job):
      seed, trainer = job
      trials = trial.Trials(
        trainer,
        args.workdir,
        changes=args.changes,
        patience=args.patience,
        popen=popen,
        say=say,
      )
      try:
        result = trials.run(plans[seed])
      except lookup.ConfigError as e:  # The others go on.
        say(f"{trainer} {seed}: {e}")
        return False
      trial.write(result, args.workdir)
      say(f"{trainer} {seed}: {'; '.join(result.problems) or 'equal'}")
      return True

    complete = all(list(pool.map(run, todo)))
  rows = trial.read(args.workdir)
  print(f"\n{trial.table(rows)}")
  asked = [r for r in rows if r["trainer"] in trainers and r["seed"] in plans]
  return int(not complete or any(row["problems"] for row in asked))


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser("big_vision.tools.faults", __doc__)
  add = parser.add_argument
  add("--workdir", required=True, help="Folder of all runs and results.")
  add("--schedules", type=int, default=5, help="How many to draw.")
  add("--seed", type=int, default=0, help="Of the first one.")
  add(
    "--trainer", default="train", choices=(*TRAINERS, "all"),
    help="Which method trains.",
  )  # fmt: skip
  add("--hosts", type=int, default=4, help="Largest number of processes.")
  add(
    "--endings", type=int, default=3,
    help="Largest number of times that a run is ended.",
  )  # fmt: skip
  add(
    "--kinds",
    help="What may happen, separated by commas (default: everything): "
    "kill_one, kill_all, term, hang, disk, pause, late, damage, hosts.",
  )
  add("--jobs", type=int, default=1, help="Schedules at a time.")
  add(
    "--cold", action="store_true", default=None,
    help="Let each process import its modules, 10 seconds of CPU time, instead of "
    "forking it from one that has.",
  )  # fmt: skip
  add(
    "--patience", type=float, default=300.0,
    help="Seconds without a sign of life that count as hanging.",
  )  # fmt: skip
  add(
    "--dry_run", action="store_true", default=None,
    help="Print the schedules.",
  )  # fmt: skip
  return parser


if __name__ == "__main__":
  sys.exit(main())
