"""Adapts a model to the 19 tasks of VTAB-1k, and makes a table of the results.

  python -m big_vision.tools.vtab --model vit-i21k-augreg-b/32 --workdir workdirs/vtab

Each task is a run of `configs/vtab.py` in a folder below the workdir. The same
command again repeats no finished task and continues the others. Tasks whose dataset
is not prepared are rows that say how to prepare it. `vtab.csv` has the table.
`--config.key=value` changes all runs.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from big_vision import command_line

CONFIG = "big_vision/configs/vtab.py"
TRAINER = "big_vision.train"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the tasks.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status: 0 if all tasks with data have finished, 1 if some failed or
    none has data, 130 if it was interrupted.
  """
  argv, changes = command_line.split_changes(argv)
  args = _parser().parse_args(argv)
  # Here, since these need jax and TensorFlow, which take seconds.
  from big_vision import lookup

  try:
    return _run(args, changes)
  except lookup.ConfigError as e:
    if args.debug:
      raise
    raise SystemExit(f"Error: {e}") from e


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser("big_vision.tools.vtab", __doc__)
  add = parser.add_argument
  add(
    "--model", required=True,
    help="A name of configs/transfer.py, or the workdir of a run.",
  )  # fmt: skip
  add("--workdir", required=True, help="Folder of all tasks.")
  add("--mode", choices=("full", "linear"), default="full",
      help="Trains all parameters, or fits linear probes.")  # fmt: skip
  add("--tasks", help="Names, separated by commas (default: all 19).")
  add("--res", type=int, default=0, help="Side of pictures in pixels.")
  add("--jobs", type=int, default=1, help="Tasks at a time.")
  add("--gpus", help="Numbers of GPUs, for example 0,1: a task on each.")
  add("--demo", action="store_true", default=None,
      help="A tiny model and generated data in place of all tasks'.")  # fmt: skip
  add("--dry_run", action="store_true", default=None,
      help="Check, and print the commands.")  # fmt: skip
  return parser


def _run(args: argparse.Namespace, changes: Sequence[str]) -> int:
  """Runs what has not finished, and shows the results."""
  from big_vision import lookup, workdir
  from big_vision.configs import vtab_tasks
  from big_vision.sweeps import jobs

  names = args.tasks.split(",") if args.tasks else list(vtab_tasks.TASKS)
  for name in names:
    vtab_tasks.find(name)
  gpus = args.gpus.split(",") if args.gpus else []
  num = len(gpus) or args.jobs
  if num < 1:
    raise lookup.ConfigError(f"--jobs {num}: must be 1 or more.")
  missing = {} if args.demo else _missing(names)
  every = {
    name: _job(args, changes, name) for name in names if name not in missing
  }
  if args.dry_run:
    for job in every.values():
      print(shlex.join(job.command))
    for name, why in missing.items():
      print(f"# {name}: {why}")
    return 0
  with workdir.lock(args.workdir):
    todo = [job for job in every.values() if not job.is_finished()]
    if done := len(every) - len(todo):
      print(f"{done} of {len(every)} tasks have finished before.", flush=True)

    def on_start(job):
      print(f"{job.name}: started, log in {job.folder}/{jobs.LOG}", flush=True)

    def on_end(job, record):
      why = f": {record['why']}" if record["why"] else ""
      seconds = record["seconds"]
      print(
        f"{job.name}: {record['status']} after {seconds:.0f} s{why}", flush=True
      )

    status = 0
    try:
      jobs.run(todo, num, gpus, on_start, on_end)
    except KeyboardInterrupt:
      print("Interrupted. The same command again continues.", flush=True)
      status = 130
    bad = _report(args.workdir, names, every, missing)
  return status or int(bad or not every)


def _missing(names: Sequence[str]) -> dict[str, str]:
  """Finds tasks whose dataset is not prepared, and says what to do."""
  from big_vision.configs import vtab_tasks
  from big_vision.datasets import embedded, tfds

  missing = {}
  for name in names:
    task = vtab_tasks.TASKS[name]
    try:
      builder = tfds.get_builder(task.dataset, embedded.default_data_dir())
    except ValueError:
      missing[name] = (
        "not prepared: python -m big_vision.tools.download_tfds_datasets "
        f"{task.dataset}"
      )
      continue
    try:
      for split in (task.train, task.val, task.test):
        tfds.check_split(builder, split)
    except ValueError as e:  # Of another version of the dataset.
      missing[name] = str(e)
  return missing


def _job(args: argparse.Namespace, changes: Sequence[str], name: str) -> Any:
  """Makes the run of a task, with a checked config."""
  from big_vision import fs
  from big_vision.sweeps import jobs, runs

  words = [f"task={name}", f"model={args.model}", f"mode={args.mode}"]
  words += [f"res={args.res}"] if args.res else []
  words += ["demo"] if args.demo else []
  arguments = [f"--config={CONFIG}:{','.join(words)}", *changes]
  config = runs.read_config(arguments)
  runs.check(config, TRAINER)
  folder = fs.join(args.workdir, name)
  return jobs.Job(
    name=name,
    folder=folder,
    command=(
      sys.executable, "-m", TRAINER, *arguments, f"--workdir={folder}"
    ),
    values={"task": name},
    fingerprint=runs.fingerprint(config, TRAINER),
  )  # fmt: skip


def _report(
  workdir: str,
  names: Sequence[str],
  every: dict[str, Any],
  missing: dict[str, str],
) -> bool:
  """Prints and writes the table; returns whether a task has failed."""
  from big_vision import fs
  from big_vision.configs import vtab, vtab_tasks
  from big_vision.evaluators import files
  from big_vision.probes import table
  from big_vision.sweeps import results

  header = ("group", "task", "accuracy", "status")
  rows, by_group, failed = [], {}, False
  for name in sorted(
    names, key=lambda n: vtab_tasks.GROUPS.index(vtab_tasks.TASKS[n].group)
  ):
    group = vtab_tasks.TASKS[name].group
    accuracy, status = None, missing.get(name, "")
    if name in every:
      row = results.read(every[name])
      status = f"{row.status}{': ' * bool(row.why)}{row.why}"
      failed |= row.status == "failed"
      if row.status == "finished":
        accuracy = row.metrics.get(vtab.METRIC)
    by_group.setdefault(group, []).append(accuracy)
    rows.append((group, name, accuracy, status))
  all_tasks = [a for group in by_group.values() for a in group]
  for group, accuracies in {**by_group, "All tasks": all_tasks}.items():
    found = [a for a in accuracies if a is not None]
    mean = sum(found) / len(found) if found else None
    rows.append((group, "mean", mean, f"of {len(found)} of {len(accuracies)}"))
  print(f"\n{table.text(header, rows)}\n")
  path = fs.join(workdir, "vtab.csv")
  files.write_csv(path, header, rows)
  print(f"Wrote {path}")
  return failed


if __name__ == "__main__":
  sys.exit(main())
