"""Runs the commands of a sweep, several at a time, each in its own folder.

`<folder>/sweep.json` says how the last attempt ended and with which config. Only a
process that has ended with status 0 has finished: what was interrupted in any
other way is started again, and continues from its checkpoint.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from big_vision import fs

RECORD = "sweep.json"
LOG = "sweep.log"
_SECONDS_TO_STOP = 60  # Time for a checkpoint.
_LOG_BYTES = 20_000


@dataclasses.dataclass(frozen=True)
class Job:
  """Holds one run.

  Attributes:
    name: of the run.
    folder: its workdir.
    command: arguments of the process.
    values: config key -> text of its value.
    fingerprint: what stands for its config; a run with another one is another.
  """

  name: str
  folder: str
  command: tuple[str, ...]
  values: Mapping[str, str]
  fingerprint: str

  def record(self) -> dict | None:
    """Returns what `sweep.json` says of this config; None if nothing."""
    path = fs.join(self.folder, RECORD)
    if not fs.exists(path):
      return None
    with fs.open(path) as f:
      try:
        record = json.load(f)
      except ValueError:  # Torn by a crash.
        return None
    same = record.get("fingerprint") == self.fingerprint
    return record if same else None

  def is_finished(self) -> bool:
    """Tells whether the run with this config has ended successfully."""
    return (self.record() or {}).get("status") == "finished"


@dataclasses.dataclass
class _Running:
  """Holds a process, and where its output goes."""

  job: Job
  process: subprocess.Popen
  slot: int
  start: float
  log: IO[bytes]
  log_path: str


def run(
  jobs: Sequence[Job],
  num: int,
  gpus: Sequence[str] = (),
  on_start: Callable[[Job], None] = lambda job: None,
  on_end: Callable[[Job, dict], None] = lambda job, record: None,
) -> None:
  """Runs jobs until all have ended; stops them if it is interrupted.

  Args:
    jobs: those to run.
    num: how many at a time.
    gpus: if given, each job sees one of these, by CUDA_VISIBLE_DEVICES; at least
      `num`.
    on_start: called when a job starts.
    on_end: called with what is in the `sweep.json` of a job that has ended.

  Raises:
    KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; nothing is left running.
  """
  waiting, running = list(jobs), []
  interrupted = []

  def interrupt(number, frame):
    # Once it only notes it: an exception that is raised in a callback of the
    # garbage collector, as jax has one, is lost.
    if interrupted:
      raise KeyboardInterrupt
    interrupted.append(number)

  signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
  old = {number: signal.signal(number, interrupt) for number in signals}
  try:
    while waiting or running:
      if interrupted:
        raise KeyboardInterrupt
      while waiting and len(running) < num:
        slot = min(set(range(num)) - {r.slot for r in running})
        job = waiting.pop(0)
        on_start(job)
        running.append(_start(job, slot, gpus))
      time.sleep(0.1)
      for r in [r for r in running if r.process.poll() is not None]:
        running.remove(r)
        on_end(r.job, _finish(r))
  finally:
    _stop(running)
    for number, handler in old.items():
      signal.signal(number, handler)


def _start(job: Job, slot: int, gpus: Sequence[str]) -> _Running:
  """Starts the process of a job."""
  fs.makedirs(job.folder)
  path = fs.join(job.folder, LOG)
  if not fs.is_local(path):
    path = fs.join(tempfile.mkdtemp(), LOG)
  log = open(path, "ab")
  env = {**os.environ}
  if gpus:
    env["CUDA_VISIBLE_DEVICES"] = gpus[slot]
  process = subprocess.Popen(
    job.command,
    stdin=subprocess.DEVNULL,
    stdout=log,
    stderr=subprocess.STDOUT,
    env=env,
    # Ctrl-C reaches this process alone, which passes it on.
    start_new_session=True,
  )
  return _Running(job, process, slot, time.time(), log, path)


def _finish(running: _Running) -> dict:
  """Writes and returns the record of a job whose process has ended."""
  running.log.close()
  job, code = running.job, running.process.returncode
  record = {
    "status": "failed" if code else "finished",
    "why": _why(code, running.log_path) if code else "",
    "seconds": round(time.time() - running.start, 1),
    "values": dict(job.values),
    "command": list(job.command),
    "fingerprint": job.fingerprint,
  }
  _write(fs.join(job.folder, RECORD), json.dumps(record, indent=2))
  if os.path.dirname(running.log_path) != job.folder:  # A remote folder.
    with open(running.log_path, encoding="utf-8", errors="replace") as f:
      _write(fs.join(job.folder, LOG), f.read())
  return record


def _write(path: str, text: str) -> None:
  """Writes a file as a whole or not at all."""
  fs.makedirs(fs.dirname(path))  # A failing start may have removed it.
  with fs.open(f"{path}-tmp", "w") as f:
    f.write(text)
  fs.rename(f"{path}-tmp", path)


def _why(code: int, log_path: str) -> str:
  """Finds the line of a log that says why a process failed."""
  if code < 0:
    name = signal.Signals(-code).name
    hint = ": out of memory?" if -code == signal.SIGKILL else ""
    return f"Ended by {name}{hint}"
  with open(log_path, "rb") as f:
    f.seek(max(f.seek(0, os.SEEK_END) - _LOG_BYTES, 0))
    lines = f.read().decode(errors="replace").splitlines()
  lines = [line.strip() for line in lines if line.strip()]
  said = re.compile(
    r"(Error|FATAL|[\w.]*(Error|Exception|Exit|Interrupt))\b:? "
  )
  errors = [line for line in lines if said.match(line)]
  last = (errors or lines or [""])[-1]
  return last or f"Exit status {code}"


def _stop(running: Sequence[_Running]) -> None:
  """Ends processes: asks for a checkpoint, then insists."""
  try:
    for r in running:
      _signal(r, signal.SIGTERM)
    deadline = time.time() + _SECONDS_TO_STOP
    while any(r.process.poll() is None for r in running):
      if time.time() > deadline:
        break
      time.sleep(0.05)
  finally:  # Also if interrupted once more.
    for r in running:
      _signal(r, signal.SIGKILL)
      r.process.wait()
      r.log.close()


def _signal(running: _Running, number: int) -> None:
  """Sends a signal to a process that still runs, and to its children."""
  if running.process.poll() is None:
    os.killpg(running.process.pid, number)
