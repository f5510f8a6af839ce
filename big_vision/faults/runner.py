"""Runs a training through a schedule of faults, restarting it until it ends."""

import contextlib
import dataclasses
import glob
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from big_vision.faults import compare, config, schedule
from big_vision.launching import local

_CHECKPOINT = re.compile(r"checkpoint\.bv-(\d{9,})(-tmp)?")
# How long a moment lasts, as part of the time from a start to the first step: within
# this span faults happen at random.
_SPANS = {
  schedule.START: 1.0,
  schedule.EVALUATION: 0.1,
  schedule.COMPILE: 0.1,
  schedule.STEP: 0.01,
  schedule.SAVE: 0.005,
  schedule.FINAL: 0.1,
}
_POLL = 0.005  # Seconds.
# Collectives of the CPU give up after 30 seconds, which a busy machine may need.
_XLA_FLAGS = (
  "--xla_cpu_collective_timeout_seconds=1800",
  "--xla_cpu_collective_call_terminate_timeout_seconds=1800",
)
# Lines that say nothing about why a process ends.
_NOISE = re.compile(r"^\s|^$|.*\[Gloo\]|.*Traceback|\*\*\* |.*stack trace")


@dataclasses.dataclass
class Record:
  """The course of one life; times in seconds.

  Attributes:
    hosts, devices: of the life.
    faults: those that have happened, "kind@moment:step".
    missed: those whose moment did not come.
    statuses: exit status of each process.
    first_step: the first one after the start, by the metrics file; 0: none.
    last_step: the last one in the metrics file when the life had ended.
    lost_steps: steps that are computed again because of the end before.
    to_first_step: from the start to the row of the first step.
    to_end: from the fault that ends the life until all processes have ended.
    says: the last words of a process that was not killed.
    hung: whether processes had to be killed because nothing happened.
    damage: what was done to which file afterwards.
  """

  hosts: int
  devices: int
  faults: list[str] = dataclasses.field(default_factory=list)
  missed: list[str] = dataclasses.field(default_factory=list)
  statuses: list[int] = dataclasses.field(default_factory=list)
  first_step: int = 0
  last_step: int = 0
  lost_steps: int = 0
  to_first_step: float | None = None
  to_end: float | None = None
  says: str = ""
  hung: bool = False
  damage: str = ""

  @property
  def finished(self) -> bool:
    """Whether the run came to its end."""
    return bool(self.statuses) and not any(self.statuses)


class Run:
  """A training that is started again and again in one workdir."""

  def __init__(
    self,
    trainer: str,
    workdir: str,
    *,
    shared: str,
    changes: Sequence[str] = (),
    patience: float = 300.0,
    pace: float = 20.0,
    popen: Callable[..., Any] = subprocess.Popen,
    log: Callable[[str], Any] = lambda line: None,
  ) -> None:
    """Prepares the command.

    Args:
      trainer: key of `config.METHODS`.
      workdir: of the run.
      shared: folder for what runs may share: data, compiled programs.
      changes: `--config.key=value` arguments.
      patience: seconds without a step or the end after which a life counts as
        hanging.
      pace: seconds from a start to its first step, as measured without faults.
      popen: starts a process.
      log: called with each line of the processes.
    """
    self.workdir, self.patience, self.pace = workdir, patience, pace
    self._log, self._popen = log, popen
    path = os.path.abspath(config.__file__)
    self._command = [
      sys.executable, "-m", config.METHODS[trainer][0],
      f"--config={path}:{trainer}", *changes, f"--workdir={workdir}",
    ]  # fmt: skip
    self._env = environment(shared)
    self._metrics = os.path.join(workdir, compare.FILES[0])

  def live(self, life: schedule.Life) -> Record:
    """Starts all processes, does what the life says, waits for their end.

    Args:
      life: the Life.

    Returns:
      The Record.
    """
    record = Record(life.hosts, life.devices)
    before, saved = self._last_step(), last_saved(self.workdir)
    old_size = _whole_lines(self._metrics)
    lines = _Lines(self._log)
    start = time.monotonic()
    with local.start(
      self._command,
      hosts=life.hosts,
      devices=life.devices,
      env=self._env,
      write=lines.add,
      grace=1.0,
      popen=self._popen,
    ) as group:
      watch = _Watch(self, group, lines, record, start, old_size)
      ended_at = None
      for fault in life.faults:
        if not watch.until(fault):
          record.missed.append(_name(fault))
          continue
        said = len(lines.all)
        ended_at = self._do(fault, group, record)
        record.faults.append(_name(fault, self._last_step()))
        if ended_at is not None:
          lines.since = said
      if not watch.end():
        record.hung = True
        group.send(signal.SIGKILL)
        group.wait(timeout=60)
      if ended_at is not None:
        record.to_end = round(time.monotonic() - ended_at, 2)
      record.statuses = [p.returncode for p in group.processes]
    watch.look()
    record.says = lines.last_words(record.statuses)
    record.last_step = self._last_step()
    record.lost_steps = _lost(before, saved, record.first_step)
    if life.damage and not record.finished:
      record.damage = damage(self.workdir, life.damage)
    return record

  def _do(
    self, fault: schedule.Fault, group: local.Group, record: Record
  ) -> float | None:
    """Does what the fault is; returns when, if it is to end the life."""
    process = group.processes[fault.host % len(group.processes)]
    now = time.monotonic()
    if fault.kind == schedule.KILL_ALL:
      group.send(signal.SIGKILL)
    elif fault.kind == schedule.DISK:
      for each in group.processes:
        with contextlib.suppress(ProcessLookupError):
          hard = resource.prlimit(each.pid, resource.RLIMIT_FSIZE)[1]
          resource.prlimit(each.pid, resource.RLIMIT_FSIZE, (0, hard))
    elif fault.kind in (schedule.PAUSE, schedule.LATE):
      process.send_signal(signal.SIGSTOP)
      time.sleep(fault.seconds)
      process.send_signal(signal.SIGCONT)
      return None
    else:
      process.send_signal(
        {
          schedule.KILL_ONE: signal.SIGKILL,
          schedule.TERM: signal.SIGTERM,
          schedule.HANG: signal.SIGSTOP,
        }[fault.kind]
      )
    if fault.kind == schedule.HANG:  # It cannot end by itself.
      others = [p for p in group.processes if p is not process]
      limit = now + self.patience
      while (left := any(p.poll() is None for p in others)) and (
        time.monotonic() < limit
      ):
        time.sleep(_POLL)
      record.hung = left
      process.kill()
    return now

  def _last_step(self) -> int:
    """Returns the step of the last whole row of metrics, 0 without.

    Earlier rows may be of later steps, which are repeated.
    """
    size = _whole_lines(self._metrics)
    if not size:
      return 0
    with open(self._metrics, "rb") as f:
      lines = f.read(size).splitlines()
    found = re.search(rb'"step": (\d+)', lines[-1])
    return int(found[1]) if found else 0


class _Lines:
  """Collects the output of all processes."""

  def __init__(self, log: Callable[[str], Any]) -> None:
    self.all: list[str] = []
    self.since = 0
    self._log, self._lock = log, threading.Lock()

  def add(self, line: str) -> None:
    """Takes a line, "[number] text\\n"; called by other threads."""
    with self._lock:
      self.all.append(line.rstrip("\n"))
    self._log(line)

  def have(self, *texts: str) -> bool:
    """Tells whether a line has one of the texts."""
    return any(text in line for line in self.all for text in texts)

  def last_words(self, statuses: Sequence[int]) -> str:
    """Returns the last line that says why a process has failed."""
    killed = [f"[{i}] " for i, s in enumerate(statuses) if s in (0, -9)]
    for line in reversed(self.all[self.since :]):
      if not line.startswith(tuple(killed)) and not _NOISE.match(line[4:]):
        return line[:300]
    return ""


class _Watch:
  """Waits for the moments of a life."""

  def __init__(
    self,
    run: Run,
    group: local.Group,
    lines: _Lines,
    record: Record,
    start: float,
    old_size: int,
  ) -> None:
    self._run, self._group, self._lines = run, group, lines
    self._record, self._start, self._old_size = record, start, old_size
    self._size, self._heard = old_size, 0
    self._changed = time.monotonic()

  def until(self, fault: schedule.Fault) -> bool:
    """Waits for the moment of a fault; False if it does not come."""
    delay = fault.delay * _SPANS[fault.moment] * self._run.pace
    while not self._is_time(fault):
      if not self._group.running() or self._is_stuck():
        return False
      time.sleep(_POLL)
      self.look()
    until = time.monotonic() + delay
    while (left := until - time.monotonic()) > 0:
      if not self._group.running():
        return False
      time.sleep(min(_POLL, left))
      self.look()
    return bool(self._group.running())

  def end(self) -> bool:
    """Waits for the end of all processes; False if nothing happens any more."""
    while self._group.running():
      if self._is_stuck():
        return False
      time.sleep(_POLL)
      self.look()
    return True

  def look(self) -> None:
    """Notes the first step, and that something happens."""
    size, heard = _size(self._run._metrics), len(self._lines.all)
    if (size, heard) != (self._size, self._heard):
      self._size, self._heard = size, heard
      self._changed = time.monotonic()
    if not self._record.first_step and size > self._old_size:
      first = _first_step(self._run._metrics, self._old_size)
      if first:
        self._record.first_step = first
        seconds = time.monotonic() - self._start
        self._record.to_first_step = round(seconds, 2)

  def _is_stuck(self) -> bool:
    return time.monotonic() - self._changed > self._run.patience

  def _is_time(self, fault: schedule.Fault) -> bool:
    if fault.moment == schedule.START:
      return True
    if fault.moment == schedule.EVALUATION:
      return self._lines.have("nitial evaluation", "First step compilations")
    if fault.moment == schedule.COMPILE:
      return self._lines.have("First step compilations")
    step = self._run._last_step()
    if not self._record.first_step:
      return False
    if fault.moment == schedule.FINAL:
      return step >= config.TOTAL_STEPS
    if fault.moment == schedule.SAVE and not glob.glob(
      f"{self._run.workdir}/*.partial*"
    ):
      # The last checkpoint may be over already.
      return step >= config.TOTAL_STEPS
    return step >= fault.step


def _name(fault: schedule.Fault, step: int | None = None) -> str:
  """Describes a fault in a word."""
  at = "" if step is None else f":{step}"
  return f"{fault.kind}@{fault.moment}{at}"


def environment(shared: str) -> dict[str, str]:
  """Returns what all runs have in common, so that starts take less time.

  Args:
    shared: folder for data and compiled programs.

  Returns:
    Environment variables.
  """
  shared = os.path.abspath(shared)
  env = {
    "TFDS_DATA_DIR": os.path.join(shared, "data"),
    "JAX_COMPILATION_CACHE_DIR": os.path.join(shared, "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
  }
  env = {k: os.environ.get(k, v) for k, v in env.items()}
  given = os.environ.get("XLA_FLAGS", "").split()
  env["XLA_FLAGS"] = " ".join([*_XLA_FLAGS, *given])
  if sys.dont_write_bytecode:  # Else each start compiles all of its modules.
    env["PYTHONDONTWRITEBYTECODE"] = ""
    env["PYTHONPYCACHEPREFIX"] = os.path.join(shared, "bytecode")
  os.makedirs(env["TFDS_DATA_DIR"], exist_ok=True)
  return env


def _lost(before: int, saved: int, first: int) -> int:
  """Counts steps that are computed again.

  Args:
    before: the last step of the life before.
    saved: that of its last checkpoint.
    first: of the first row of this life; 0: there is none.

  Returns:
    The number.
  """
  if not before or not first:
    return 0
  if first == saved:  # It is evaluated again, not computed.
    first += 1
  return max(before - first + 1, 0)


def _size(path: str) -> int:
  return os.path.getsize(path) if os.path.exists(path) else 0


def _whole_lines(path: str) -> int:
  """Returns the size of a file without the half line that a kill may leave."""
  if not os.path.exists(path):
    return 0
  with open(path, "rb") as f:
    return f.read().rfind(b"\n") + 1


def _first_step(path: str, offset: int) -> int:
  """Reads the step of the first row that is complete after `offset`."""
  with open(path, "rb") as f:
    f.seek(offset)
    line = f.readline().decode("utf-8", "replace")
  found = re.search(r'"step": (\d+).*\n', line)
  return int(found[1]) if found else 0


def newest(workdir: str) -> str | None:
  """Finds the newest checkpoint of a run, whether complete or not.

  Args:
    workdir: of the run.

  Returns:
    The folder; None without.
  """
  last = max(_checkpoints(workdir), key=lambda m: int(m[1]), default=None)
  return os.path.join(workdir, last[0]) if last else None


def last_saved(workdir: str) -> int:
  """Finds the step of the last checkpoint that is complete.

  Args:
    workdir: of the run.

  Returns:
    The step; 0 without.
  """
  return max((int(m[1]) for m in _checkpoints(workdir)), default=0)


def _checkpoints(workdir):
  names = os.listdir(workdir) if os.path.isdir(workdir) else []
  return [m for name in names if (m := _CHECKPOINT.fullmatch(name))]


def damage(workdir: str, how: schedule.Damage) -> str:
  """Damages a file of the newest checkpoint, if an earlier one was kept.

  Without, a run cannot go on and says so: there is nothing to compare.

  Args:
    workdir: of the run.
    how: the Damage.

  Returns:
    What was done, "flip: <file>"; empty if nothing was.
  """
  folder = newest(workdir)
  kept = {m[0] for m in _checkpoints(workdir) if not m[2]}
  if folder is None or not kept - {os.path.basename(folder)}:
    return ""
  files = sorted(
    os.path.join(at, name)
    for at, _, names in os.walk(folder)
    for name in names
    if os.path.getsize(os.path.join(at, name))
  )
  path = files[int(how.place[0] * len(files))]
  if how.kind == "remove":
    os.remove(path)
  else:
    at = int(how.place[1] * os.path.getsize(path))
    with open(path, "r+b") as f:
      if how.kind == "truncate":
        f.truncate(at)
      else:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ (1 << int(how.place[1] * 8))]))
  return f"{how.kind}: {os.path.relpath(path, workdir)}"


def clear(workdir: str) -> None:
  """Removes the workdir of an earlier run.

  Args:
    workdir: may be missing.
  """
  shutil.rmtree(workdir, ignore_errors=True)
