"""A sweep from its flags to its tables: checks, then trains what is missing."""

import argparse
import hashlib
import importlib.util
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from big_vision import fs, lookup, metrics, workdir
from big_vision.sweeps import jobs, results, trials
from big_vision.training import config_check, config_flag, flat_config


def sweep(args: argparse.Namespace, changes: Sequence[str]) -> int:
  """Checks all runs, trains those that are missing, shows the results.

  Args:
    args: the flags, see `--help`.
    changes: `--config.key=value` of all runs.

  Returns:
    Exit status, see `main`.

  Raises:
    lookup.ConfigError: flags or the config of a run are wrong; nothing has been
      started.
  """
  gpus = args.gpus.split(",") if args.gpus else []
  num = len(gpus) or args.jobs
  if num < 1:
    raise lookup.ConfigError(f"--jobs {num}: must be 1 or more.")
  every = [_job(args, changes, values) for values in _values(args)]
  if args.dry_run:
    for job in every:
      print(shlex.join(job.command))
    return 0
  with workdir.lock(args.workdir):
    return _train(every, num, gpus, args)


def _values(args: argparse.Namespace) -> list[trials.Values]:
  """Lists what each run changes."""
  grid, randoms = (
    trials.read_grid(args.grid or ()),
    trials.read_random(args.random or ()),
  )
  if not grid and not randoms:
    raise lookup.ConfigError(
      "Nothing to sweep: give for example --grid lr=1e-3,3e-4."
    )
  if bool(randoms) != bool(args.trials) or (args.trials or 1) < 1:
    raise lookup.ConfigError(
      "--random and --trials belong together: give for example --random "
      '"lr=log(1e-4,1e-2)" --trials 20.'
    )
  return trials.make(grid, randoms, args.trials or 0, args.seed)


def _job(
  args: argparse.Namespace, changes: Sequence[str], values: trials.Values
) -> jobs.Job:
  """Makes a run of a checked config."""
  given = {re.split(r"config\.|=", change)[1] for change in changes}
  if twice := given & set(values):
    raise lookup.ConfigError(
      f"config.{min(twice)} is given by --grid or --random, and as "
      f"--config.{min(twice)}."
    )
  arguments = [f"--config={args.config}", *changes]
  arguments += [f"--config.{key}={value}" for key, value in values.items()]
  config = read_config(arguments)
  check(config, args.trainer)
  name = trials.name(values)
  folder = fs.join(args.workdir, name)
  return jobs.Job(
    name=name,
    folder=folder,
    command=(
      sys.executable, "-m", args.trainer, *arguments, f"--workdir={folder}"
    ),
    values=values,
    fingerprint=fingerprint(config, args.trainer),
  )  # fmt: skip


def read_config(arguments: Sequence[str]) -> Any:
  """Reads a config as the command line of a training does.

  Args:
    arguments: `--config=...` and `--config.key=value`.

  Returns:
    The ConfigDict.

  Raises:
    SystemExit: it cannot be read; says why in one line.
  """
  values, argv = flags.FlagValues(), sys.argv
  config_flag.define("config", "", values)
  sys.argv = ["sweep", *arguments]  # Where that looks for keys.
  try:
    values(sys.argv)
  except flags.Error as e:
    raise SystemExit(f"Error: {e}") from e
  finally:
    sys.argv = argv
  return values.config


def check(config: Any, trainer: str) -> None:
  """Checks what concerns neither data nor evaluators.

  Args:
    config: ConfigDict of a run.
    trainer: module that is to train it.

  Raises:
    lookup.ConfigError: names what is wrong.
  """
  # The accelerators are for the runs.
  jax.config.update("jax_platforms", "cpu")
  try:
    found = importlib.util.find_spec(trainer)
  except ModuleNotFoundError:
    found = None
  if found is None:
    raise lookup.ConfigError(f"--trainer {trainer}: there is no such module.")
  config = flat_config.modern(config)
  model = "student" if "student_name" in config else "model"
  try:
    config_check.check_training(config, model)
  except ValueError as e:
    raise lookup.ConfigError(str(e)) from e


def fingerprint(config: Any, trainer: str) -> str:
  """Makes a text that is the same for the same config.

  Args:
    config: ConfigDict of a run.
    trainer: module that is to train it.

  Returns:
    Hexadecimal digits.
  """
  text = re.sub(r" at 0x[0-9a-f]+", "", metrics.to_json(config))
  return hashlib.sha256(f"{trainer} {text}".encode()).hexdigest()


def _train(
  every: Sequence[jobs.Job], num: int, gpus: Sequence[str], args: Any
) -> int:
  """Trains what has not finished, and shows the results."""
  missing = [job for job in every if not job.is_finished()]
  if done := len(every) - len(missing):
    print(f"{done} of {len(every)} runs have finished before.", flush=True)

  def on_start(job):
    print(f"{job.name}: started, log in {job.folder}/{jobs.LOG}", flush=True)

  def on_end(job, record):
    status = f"{record['status']} after {record['seconds']:.0f} s"
    why = f": {record['why']}" if record["why"] else ""
    print(f"{job.name}: {status}{why}", flush=True)
    _report(every, args)

  status = 0
  try:
    jobs.run(missing, num, gpus, on_start, on_end)
  except KeyboardInterrupt:
    print("Interrupted. The same command again continues.", flush=True)
    status = 130
  rows, metric = _report(every, args)
  if args.metric is None and metric:
    print(f"Ranked by {metric}; --metric NAME takes another one.")
  print(f"\n{results.text(rows, metric)}\n")
  for name in ("sweep.csv", "sweep.html"):
    print(f"Wrote {fs.join(args.workdir, name)}")
  failed = any(row.status == "failed" for row in rows)
  return status or int(failed)


def _report(
  every: Sequence[jobs.Job], args: Any
) -> tuple[list[results.Row], str | None]:
  """Writes the results so far; returns the rows, the best first."""
  rows = [results.read(job) for job in every]
  metric = results.choose_metric(rows, args.metric)
  rows = results.rank(rows, metric)
  results.write(rows, metric, args.workdir)
  return rows, metric
