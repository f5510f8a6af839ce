"""Trials: a schedule of faults, the undisturbed run, and what differs."""

import collections
import dataclasses
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from big_vision import lookup
from big_vision.faults import compare, config, runner, schedule

# Without an order of sums that is the same for any number of devices.
TOLERANCE = 1e-5
RESULTS = "results.jsonl"
# So that undisturbed runs are made once, and lines of results stay whole.
_busy: collections.defaultdict[str, threading.Lock]
_busy = collections.defaultdict(threading.Lock)


@dataclasses.dataclass
class Trial:
  """The result of one schedule.

  Attributes:
    trainer: key of `config.METHODS`.
    seed: of the schedule.
    layout: see `schedule.Schedule`.
    devices: numbers of devices in all that lives had.
    lives: Records of all lives.
    difference: from the undisturbed run; None if the run has no end.
    problems: what should not have happened; none is a success.
  """

  trainer: str
  seed: int
  layout: str
  devices: tuple[int, ...]
  lives: list[runner.Record]
  difference: compare.Difference | None
  problems: list[str]

  @property
  def row(self) -> dict[str, Any]:
    """The trial as plain values, for a line of JSON."""
    row = dataclasses.asdict(self)
    if self.difference:
      d = self.difference
      row["difference"] |= {
        "leaves": len(d.leaves),
        "metrics": len(d.metrics),
        "missing": len(d.missing),
        "examples": [*d.leaves[:3], *map(str, d.metrics[:3])],
      }
    return row


class Trials:
  """Runs trials of one trainer below one folder."""

  def __init__(
    self,
    trainer: str,
    workdir: str,
    *,
    changes: Sequence[str] = (),
    patience: float = 300.0,
    popen: Callable[..., Any] = subprocess.Popen,
    say: Callable[[str], Any] = print,
  ) -> None:
    """Prepares the folder.

    Args:
      trainer: key of `config.METHODS`.
      workdir: the folder; undisturbed runs and compiled programs that are there
        are used.
      changes: `--config.key=value` arguments.
      patience: seconds without any sign of life that count as hanging.
      popen: starts a process.
      say: called with lines about the progress.
    """
    self.trainer, self.workdir = trainer, os.path.abspath(workdir)
    self._changes, self._patience = tuple(changes), patience
    self._popen, self._say = popen, say
    self._pace: dict[str, float] = {}

  def reference(self, hosts: int, devices: int) -> str:
    """Trains without faults, unless that has been done before.

    Args:
      hosts: number of processes.
      devices: number of devices of each.

    Returns:
      The workdir.

    Raises:
      lookup.ConfigError: the run fails.
    """
    name = f"{self.trainer}-{hosts}x{devices}"
    folder = os.path.join(self.workdir, "undisturbed", name)
    done = f"{folder}.json"
    with _busy[folder]:
      if not os.path.exists(done):
        runner.clear(folder)
        self._say(f"{name}: undisturbed run")
        record = self.make_run(folder).live(schedule.Life(hosts, devices))
        if not record.finished:
          raise lookup.ConfigError(
            f"The undisturbed run {name} has failed with {record.statuses}: "
            f"{record.says} See {folder}.log."
          )
        with open(done, "w", encoding="utf-8") as f:
          json.dump(dataclasses.asdict(record), f)
      with open(done, encoding="utf-8") as f:
        self._pace[name] = json.load(f)["to_first_step"]
    return folder

  def run(self, plan: schedule.Schedule) -> Trial:
    """Runs one schedule, and compares.

    Args:
      plan: the Schedule.

    Returns:
      The Trial.
    """
    first = plan.lives[0]
    self.reference(first.hosts, first.devices)  # For its pace.
    folder = os.path.join(self.workdir, f"{self.trainer}-{plan.seed:04d}")
    runner.clear(folder)
    pace = self._pace[f"{self.trainer}-{first.hosts}x{first.devices}"]
    run = self.make_run(folder, pace=pace)
    lives = []
    for life in plan.lives:
      lives.append(run.live(life))
      self._say(f"{self.trainer} {plan.seed}: {describe(lives[-1])}")
      if lives[-1].finished:
        break
    found = problems(lives)
    difference = None
    if lives[-1].finished:
      first = plan.lives[beginning(lives)]
      reference = self.reference(first.hosts, first.devices)
      difference = compare.runs(folder, reference)
      found += differences(difference, plan.layout)
    if not found:
      runner.clear(folder)
    return Trial(
      self.trainer, plan.seed, plan.layout, plan.num_devices, lives,
      difference, found,
    )  # fmt: skip

  def make_run(self, folder: str, **kw: Any) -> runner.Run:
    """Makes a run whose output goes to a file beside its folder.

    Args:
      folder: workdir of the run.
      **kw: further arguments of `runner.Run`.

    Returns:
      The Run.
    """
    os.makedirs(os.path.dirname(folder), exist_ok=True)

    def log(line):
      with open(f"{folder}.log", "a", encoding="utf-8") as f:
        f.write(line)

    return runner.Run(
      self.trainer, folder, shared=self.workdir, changes=self._changes,
      patience=self._patience, popen=self._popen, log=log, **kw,
    )  # fmt: skip


def beginning(lives: Sequence[runner.Record]) -> int:
  """Finds the life in which the run began: the last one that had no checkpoint.

  Args:
    lives: the Records.

  Returns:
    Its index.
  """
  fresh = (i for i, life in enumerate(lives) if life.first_step == 1)
  return max(fresh, default=0)


def problems(lives: Sequence[runner.Record]) -> list[str]:
  """Lists what is wrong with how lives went, apart from their results.

  Args:
    lives: the Records.

  Returns:
    List of sentences.
  """
  found = []
  before = None
  damaged = False  # Since steps were last computed.
  for number, life in enumerate(lives, 1):
    ending = next((f for f in life.faults if _ends(f)), "")
    if life.hung:
      found.append(f"Life {number} hung.")
    elif not ending and not life.finished:
      found.append(
        f"Life {number} ended by itself, {life.statuses}: {life.says}"
      )
    if before is not None:
      damaged = bool(before.damage) or (damaged and not before.first_step)
    if before is not None and not damaged:
      # The next one may be on its way to the disk.
      allowed = 2 * config.CKPT_STEPS - 1
      if any(f.startswith(schedule.TERM) for f in before.faults):
        # Told in time, it loses nothing once it trains.
        allowed = 0 if before.first_step else allowed
      if life.lost_steps > allowed:
        found.append(f"Life {number} lost {life.lost_steps} steps.")
    before = life
  if not lives[-1].finished:
    found.append("The run has no end.")
  return found


def differences(found: compare.Difference, layout: str) -> list[str]:
  """Lists what is wrong with the results.

  Args:
    found: the Difference from the undisturbed run.
    layout: see `schedule.Schedule`. With the same number of devices each bit has
      to be the same, however many processes they belong to.

  Returns:
    List of sentences.
  """
  out = []
  if found.missing:
    out.append(f"Rows are missing: {found.missing[:3]}.")
  if found.torn:
    out.append(f"{found.torn} lines of metrics files are torn.")
  if layout != "devices" and (found.leaves or found.metrics):
    out.append(
      f"{found.values} numbers of the state and {len(found.metrics)} metrics "
      f"differ, by up to {found.largest:.1e} and {found.largest_metric:.1e}."
    )
  elif not found.within(TOLERANCE) and not out:
    out.append(
      f"The state differs by {found.largest:.1e}, metrics by "
      f"{found.largest_metric:.1e}."
    )
  return out


def describe(life: runner.Record) -> str:
  """Describes a life in a line.

  Args:
    life: the Record.

  Returns:
    The line.
  """
  what = ", ".join(life.faults) or "no fault"
  missed = f" (too late for {', '.join(life.missed)})" if life.missed else ""
  seconds = lambda s: "-" if s is None else f"{s:.1f} s"
  line = (
    f"{life.hosts}x{life.devices} steps {life.first_step}-{life.last_step}, "
    f"{what}{missed}; statuses {life.statuses}; first step after "
    f"{seconds(life.to_first_step)}; end {seconds(life.to_end)} after the "
    f"fault; {life.lost_steps} steps lost"
  )
  if life.damage:
    line += f"; then {life.damage}"
  return line + (f"; {life.says}" if life.says else "")


def write(trial: Trial, workdir: str) -> None:
  """Appends a trial to the results, a line of JSON.

  Args:
    trial: the Trial.
    workdir: folder of the results.
  """
  path = os.path.join(workdir, RESULTS)
  with _busy[path], open(path, "a", encoding="utf-8") as f:
    f.write(json.dumps(trial.row) + "\n")


def read(workdir: str) -> list[dict[str, Any]]:
  """Reads the results of a folder.

  Args:
    workdir: folder of the results.

  Returns:
    The rows, of which the last one of a trainer and seed counts.
  """
  path, rows = os.path.join(workdir, RESULTS), {}
  if os.path.exists(path):
    with open(path, encoding="utf-8") as f:
      for line in f:
        row = json.loads(line)
        rows[row["trainer"], row["seed"]] = row
  return list(rows.values())


def table(rows: Iterable[dict[str, Any]]) -> str:
  """Formats results, one line for each trainer and one for all.

  Args:
    rows: lines of the results.

  Returns:
    A table of Markdown. Times are medians and, in brackets, the largest.
  """
  rows = list(rows)
  names = list(dict.fromkeys(row["trainer"] for row in rows))
  parts = [(n, [r for r in rows if r["trainer"] == n]) for n in names]
  if len(parts) > 1:
    parts.append(("all", rows))
  head = (
    "trainer", "schedules", "faults", "failed", "kill to end, s",
    "start to first step, s", "steps lost", "bit-equal",
  )  # fmt: skip
  lines = [head, ("---",) * len(head)]
  lines += [(name, *_cells(part)) for name, part in parts]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
  lives = [life for row in rows for life in row["lives"]]
  faults = sum(len(life["faults"]) + bool(life["damage"]) for life in lives)
  ends = [
    life["to_end"]
    for life in lives
    if any(f.startswith(schedule.KILL_ONE) for f in life["faults"])
    and life["hosts"] > 1
  ]
  starts = [x["to_first_step"] for x in lives if x["to_first_step"]]
  same = [r for r in rows if r["difference"] and len(r["devices"]) == 1]
  equal = [r for r in same if not r["difference"]["values"]]
  return (
    str(len(rows)),
    str(faults),
    str(sum(bool(row["problems"]) for row in rows)),
    _spread(ends),
    _spread(starts),
    _spread([life["lost_steps"] for life in lives[1:]]),
    f"{len(equal)} of {len(same)}",
  )


def _spread(values: Sequence[float]) -> str:
  """Formats the median and the largest."""
  values = sorted(v for v in values if v is not None)
  if not values:
    return "-"
  return f"{values[len(values) // 2]:.3g} ({values[-1]:.3g})"


def _ends(name: str) -> bool:
  return name.partition("@")[0] in schedule.ENDINGS
