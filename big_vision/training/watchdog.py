"""Stops a run of several hosts with one line when one of them is gone or hangs.

Every host tells the coordination service of JAX what it is doing. Host 0 reads
this, decides, and tells all hosts in turn: which host is lost, or after which step
all of them stop on request. All of that happens in threads, whatever the main
threads wait for.
"""

import atexit
import dataclasses
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from absl import logging

from big_vision.training import signals
from big_vision.training.keep_going import PEER_LOST

STARTING, DATA, STEP, BUSY, DONE = (
  "starting",
  "waiting for data",
  "in a step",
  "evaluating or saving",
  "done",
)
# Seconds of silence after which a host counts as dead once a collective has failed.
_SILENT = 10.0
# What collectives say when another host is gone.
_OF_OTHERS = (
  "(?i)gloo|nccl|unavailable|deadline|cancelled|connection|coordination"
)
# Seconds that a host lives on after its last words, so that others hear them.
_LINGER = 3.0
# Seconds that host 0 waits for the others to end, when all stop on request.
_FAREWELL = 8.0


class Store(Protocol):
  """The part of JAX' distributed client that is used here."""

  def key_value_set(
    self, key: str, value: str, allow_overwrite: bool = False
  ) -> None: ...

  def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...


def timeout() -> float:
  """Returns BV_HOST_TIMEOUT in seconds, 120 by default."""
  return signals.seconds("BV_HOST_TIMEOUT", 120)


@dataclasses.dataclass
class Report:
  """Holds what a host says of itself.

  Attributes:
    beat: number of the report.
    name: of the machine, and the id of the process.
    step: the step that it is at, or has ended last.
    phase: one of the constants above.
    seconds: how long it has been there.
    longest: of its steps so far, in seconds.
    suspects: whether a collective has failed here.
    asked: name of the signal that asks it to stop, or "".
    passed: the step after which it waits for what all agree on, or None.
    error: why it ends, or "".
  """

  beat: int = 0
  name: str = ""
  step: int = 0
  phase: str = STARTING
  seconds: float = 0.0
  longest: float = 0.0
  suspects: bool = False
  asked: str = ""
  passed: int | None = None
  error: str = ""

  def place(self) -> str:
    """Says where the host is."""
    return f"at step {self.step} ({self.phase})"


@dataclasses.dataclass
class Verdict:
  """Holds what host 0 tells all hosts.

  Attributes:
    beat: its number.
    leader: report of host 0.
    asked: name of the signal that asks some host to stop, or "".
    last_step: the step after which all stop, once all have agreed.
    lost: why all have to end, or "".
  """

  beat: int = 0
  leader: Report = dataclasses.field(default_factory=Report)
  asked: str = ""
  last_step: int | None = None
  lost: str = ""


class Watchdog:
  """Reports what this host does, and ends the process when a host is lost."""

  def __init__(
    self,
    store: Store,
    index: int,
    count: int,
    *,
    limit: float | None = None,
    link_lost: Callable[[], bool] = lambda: False,
    leave: Callable[[str, int], None] = signals.leave,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Makes one that does nothing before `start`.

    Args:
      store: keys and values that all hosts share.
      index: of this host.
      count: number of hosts.
      limit: seconds without a sign of life, or without progress while others
        wait, after which a host counts as lost; None is `timeout()`.
      link_lost: whether the connection to host 0 has ended.
      leave: ends the process: (text, exit status).
      clock: seconds.
    """
    self.index, self.count = index, count
    self.limit = timeout() if limit is None else limit
    self._store, self._leave, self._clock = store, leave, clock
    self._link_lost = link_lost
    self._me = Report(name=f"{socket.gethostname()}, process {os.getpid()}")
    self._since = clock()
    self._verdict = Verdict()
    self._answered = clock()  # When host 0 last was heard of.
    self._ended = 0  # The last step after which this host went on.
    self._link_lost_at: float | None = None
    # Of each host, on host 0: its last report, and when that came.
    self._heard: dict[int, tuple[Report, float]] = {}
    self._changed = threading.Condition()
    self._stopped = threading.Event()
    # Reading all hosts costs host 0 the more, the more there are.
    self.interval = min(max(1.0, count / 64), self.limit / 4)

  def start(self) -> None:
    """Starts the threads: one talks to the service, which may hang, one judges."""
    for target in (self._talk, self._judge):
      threading.Thread(target=target, name="watchdog", daemon=True).start()

  # For the main thread.

  def enter(self, phase: str, step: int) -> None:
    """Takes note of what the main thread does now."""
    with self._changed:
      now = self._clock()
      if self._me.phase == STEP:
        self._me.longest = max(self._me.longest, now - self._since)
      self._me.phase, self._me.step, self._since = phase, step, now

  def last_step(self, step: int) -> bool:
    """Tells whether all hosts stop after `step`, which this host has ended.

    Once a host is asked to stop, this waits until all of them agree, which takes
    their threads seconds.
    """
    with self._changed:
      if self._me.passed is None:
        self._ended = step
        return False
      self._changed.wait_for(lambda: self._verdict.last_step is not None)
      assert self._verdict.last_step is not None
      return step >= self._verdict.last_step

  def blame(self, error: BaseException) -> None:
    """Ends the process in place of an error, if a lost host explains that.

    Args:
      error: what a collective has raised, for example. If it is an error of this
        host, the others are told that it fails, and this returns.
    """
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
      is_text = isinstance(error.code, str)
      text = str(error.code) if is_text else f"exit status {error.code}"
    if re.search(_OF_OTHERS, text):
      self._me.suspects = True
      # If it is so, a thread of this object ends the process.
      self._stopped.wait(2 * _SILENT)
    self.fail(text)

  def fail(self, why: str) -> None:
    """Tells the other hosts, whose next collective would hang, that this one ends.

    Args:
      why: shown by them.
    """
    with self._changed:
      self._me.error = " ".join(why.split())[:300] or "an error"
    self._last_words()
    if self.index == 0:
      time.sleep(_LINGER)  # The service dies with this process.

  def stop(self) -> None:
    """Says that this host has done its part; silence means nothing from now on."""
    if not self._stopped.is_set():
      self.enter(DONE, self._me.step)
      end = time.monotonic() + _FAREWELL
      # What all stop after is known from host 0, which may be the first to stop.
      while self.index == 0 and self._verdict.asked and time.monotonic() < end:
        if all(report.phase == DONE for report, _ in self._heard.values()):
          break
        time.sleep(0.1)
      self._stopped.set()
      self._last_words()

  def _last_words(self) -> None:
    """Reports once more; not for long, as the service may be gone."""
    talk = threading.Thread(target=self._exchange_safely, daemon=True)
    talk.start()
    talk.join(_LINGER)

  # In threads.

  def _talk(self) -> None:
    while not self._stopped.is_set():
      self._exchange_safely()
      hurry = 4 if self._verdict.asked else 1
      self._stopped.wait(self.interval / hurry)

  def _exchange_safely(self) -> None:
    try:
      self.exchange()
    except Exception as e:  # The service may be gone: see `_answered`.
      logging.debug("The coordination service does not answer: %s", e)

  def exchange(self) -> None:
    """Reports to the service and hears what host 0 has decided."""
    listener = signals.active()
    with self._changed:
      self._me.beat += 1
      self._me.seconds = self._clock() - self._since
      if listener and not self._me.asked:
        self._me.asked = listener.noticed
      if self._verdict.asked and self._me.passed is None:
        # From here on `last_step` waits: no step may begin that is not agreed.
        self._me.passed = self._ended
      report = json.dumps(dataclasses.asdict(self._me))
    key = f"bv/host/{self.index}"
    self._store.key_value_set(key, report, allow_overwrite=True)
    if self.index == 0:
      now = self._clock()
      for name, text in self._store.key_value_dir_get("bv/host/"):
        host, found = int(name.rpartition("/")[2]), Report(**json.loads(text))
        known = self._heard.get(host)
        if known is None or known[0].beat != found.beat:
          self._heard[host] = (found, now)
      self._hear(self._decide(now))
      text = json.dumps(dataclasses.asdict(self._verdict))
      self._store.key_value_set("bv/verdict/0", text, allow_overwrite=True)
      return
    for _, text in self._store.key_value_dir_get("bv/verdict/"):
      values = json.loads(text)
      self._hear(Verdict(**{**values, "leader": Report(**values["leader"])}))

  def _hear(self, verdict: Verdict) -> None:
    """Takes over what host 0 says."""
    with self._changed:
      if verdict.beat != self._verdict.beat:
        self._answered = self._clock()
      self._verdict = verdict
      self._changed.notify_all()
    listener = signals.active()
    if verdict.asked and listener:
      listener.ask(verdict.asked)

  def _decide(self, now: float) -> Verdict:
    """Decides for all, on host 0."""
    reports = {host: report for host, (report, _) in self._heard.items()}
    asked = [r.asked for r in reports.values() if r.asked]
    last = self._verdict.last_step
    running = [r for r in reports.values() if r.phase != DONE]
    passed = [r.passed for r in running if r.passed is not None]
    if last is None and len(passed) == len(running) == self.count:
      last = max(passed) + 1
    lost = self._verdict.lost or self._lost(reports, now, bool(asked))
    return Verdict(
      beat=self._verdict.beat + 1,
      leader=dataclasses.replace(self._me),
      asked=self._verdict.asked or (asked[0] if asked else ""),
      last_step=last,
      lost=lost,
    )

  def _lost(
    self, reports: Mapping[int, Report], now: float, asked: bool
  ) -> str:
    """Says which host is lost, if one is.

    Hosts that end on request are not; but who is still there after the time for
    that waits for them, to save.
    """
    for host, report in reports.items():
      if report.error and report.phase != DONE and not asked:
        where = f"stopped {report.place()}: {report.error}"
        return f"Host {host} of {self.count} ({report.name}) {where}"
    suspicious = any(r.suspects for r in reports.values())
    limit = _SILENT if suspicious and not asked else self.limit
    for host, (report, at) in self._heard.items():
      limit_here = max(limit, 3 * self.interval)
      if now - at > limit_here and report.phase != DONE:
        return silent(host, self.count, report, now - at)
    return "" if asked else stuck(reports, self.count, self.limit)

  def _judge(self) -> None:
    while not self._stopped.wait(0.2):
      if text := self.verdict():
        self._end(text)

  def verdict(self) -> str:
    """Says why this process has to end, or ""."""
    now = self._clock()
    asked = bool(self._verdict.asked)
    if self._verdict.lost:
      return self._verdict.lost
    if self.index == 0 or self._verdict.leader.phase == DONE:
      return ""
    quiet = now - self._answered
    if self._link_lost() and not asked:
      # It may have ended as all do, and this process is about to.
      self._link_lost_at = self._link_lost_at or now
      if now - self._link_lost_at > _LINGER:
        return silent(0, self.count, self._verdict.leader, quiet)
    limit = _SILENT if self._me.suspects and not asked else self.limit
    if quiet > max(limit, 3 * self.interval):
      return silent(0, self.count, self._verdict.leader, quiet)
    return ""

  def _end(self, text: str) -> None:
    """Ends the process with one line, once other hosts could hear of it."""
    if self.index == 0:
      time.sleep(max(_LINGER, 2 * self.interval))
    if self._me.error:
      return  # It is this host that is lost, and it says why itself.
    self._leave(
      f"Error: {text.rstrip('.')}. All hosts stop with exit status {PEER_LOST}; "
      "the same command on all of them goes on from the last checkpoint.",
      PEER_LOST,
    )


def silent(host: int, count: int, report: Report, seconds: float) -> str:
  """Names a host that has not been heard of.

  Args:
    host: its index.
    count: number of hosts.
    report: its last.
    seconds: since then.

  Returns:
    A sentence.
  """
  name = f" ({report.name})" if report.name else ""
  return (
    f"Host {host} of {count}{name} is dead or hangs: last heard of "
    f"{seconds:.0f} s ago, {report.place()}."
  )


def stuck(reports: Mapping[int, Report], count: int, limit: float) -> str:
  """Names the host that all others wait for in their steps, if it takes too long.

  A compilation, an evaluation and a checkpoint may take any time. A step may take
  `limit`, or ten times the longest one so far.

  Args:
    reports: of all hosts.
    count: number of hosts.
    limit: in seconds.

  Returns:
    A sentence; "" while there is progress.
  """
  if len(reports) < count:
    return ""
  if any(r.phase not in (DATA, STEP) for r in reports.values()):
    return ""
  limit = max(limit, 10 * max(r.longest for r in reports.values()))
  if any(r.seconds < limit for r in reports.values()):
    return ""
  slowest = lambda item: (item[1].step, item[1].phase != DATA)
  host, report = min(reports.items(), key=slowest)
  return (
    f"Host {host} of {count} ({report.name}) hangs: it has been {report.place()} "
    f"for {report.seconds:.0f} s, and the others wait for it."
  )


_active: Watchdog | None = None


def active() -> Watchdog | None:
  """Returns the Watchdog of the process, if it is one of several."""
  return _active


def watch(store: Any, index: int, count: int, **kw: Any) -> None:
  """Starts the Watchdog of this process; see its arguments."""
  global _active
  _active = Watchdog(store, index, count, **kw)
  _active.start()
  atexit.register(_active.stop)  # Before JAX waits for all hosts to end.
  listener = signals.active()
  if listener:
    listener.farewell = _active.fail
