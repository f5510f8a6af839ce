"""A lock where the system has none: a small file that its owner renews.

It holds who the owner is and when it was last heard of. Whoever finds it

  - of a process of this machine that has ended, or not renewed for `STALE` seconds,
    takes it over;
  - renewed since then, waits until one of the two is certain: a program that was
    killed and starts again elsewhere waits for `STALE` seconds at most.

Two that begin at the same time both write, wait for a moment and look whose file
it is: stores of objects keep the later one. An owner that was stopped for so long
that another has taken over finds out when it wants to renew, and ends at once.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from absl import logging

from big_vision import fs

# Seconds: between renewals; without one until others may take over; until what
# two have written at the same time is settled.
RENEW, STALE, SETTLE = 20.0, 90.0, 2.0
# Exit status of an owner that has lost its lease: the run may be started again.
LOST = 75

_held: set[str] = set()  # Leases of this process, by id.


class Taken(Exception):
  """Somebody else holds the lease; the text says who."""


class Lease:
  """A lease on a path; renewed by a thread until `release`."""

  def __init__(
    self, path: str, lost: Callable[[str], Any] | None = None
  ) -> None:
    """Describes the owner, this process; call `acquire` next.

    Args:
      path: the file, local or remote.
      lost: `lost(owner)` is called when another has taken over; default: the
        process ends with status `LOST`.
    """
    self._path, self._lost = path, lost or self._end
    self._own = {
      "id": uuid.uuid4().hex,
      "host": socket.gethostname(),
      "processes": _process_namespace(),
      "pid": os.getpid(),
      "started": time.time(),
    }
    self._stop = threading.Event()
    self._thread: threading.Thread | None = None

  def acquire(self) -> None:
    """Takes the lease, over from a stale owner if need be.

    Raises:
      Taken: another process holds it.
    """
    owner = self._read()
    if owner is not None:
      self._wait(owner)
    self._write()
    time.sleep(SETTLE)
    found = self._read()
    if found is None or found["id"] != self._own["id"]:
      raise Taken(describe(found) if found else "a run that has just ended")
    _held.add(self._own["id"])
    self._thread = threading.Thread(
      target=self._renew, name="lease", daemon=True
    )
    self._thread.start()

  def _wait(self, owner):
    """Returns when an owner is gone; raises Taken if it is alive."""
    if _has_ended(owner):
      logging.warning("Taking over %s from %s.", self._path, describe(owner))
      return
    # Clocks differ: what is of the future is of this moment.
    age = max(time.time() - owner["renewed"], 0)
    if age < STALE:
      logging.warning(
        "%s is held by %s, heard of %.0f s ago: waiting until it has not been "
        "for %.0f s.", self._path, describe(owner), age, STALE,
      )  # fmt: skip
    until = time.monotonic() + STALE - age
    while time.monotonic() < until:
      time.sleep(min(RENEW / 4, max(until - time.monotonic(), 0)))
      found = self._read()
      if found is None:
        return  # It has ended in the meantime.
      if found != owner:
        raise Taken(describe(found))
    logging.warning(
      "Taking over %s from %s, which was not heard of for %.0f s.",
      self._path, describe(owner), max(age, STALE),
    )  # fmt: skip

  def _renew(self):
    while not self._stop.wait(RENEW):
      try:
        found = self._read()
        if found is not None and found["id"] != self._own["id"]:
          self._lost(describe(found))
          return
        self._write()
      except Exception as e:  # Of the store. The next time may succeed.
        logging.warning("%s cannot be renewed: %s", self._path, e)

  def _end(self, owner):
    print(
      f"Error: {owner} has taken over {self._path} from this run, which had not "
      "renewed it for long. This run stops.",
      file=sys.stderr,
      flush=True,
    )
    os._exit(LOST)  # Nothing may be written any more, not by other threads.

  def _read(self):
    """Returns what the file says; None if there is none, or of nobody."""
    if not fs.exists(self._path):
      return None
    try:
      with fs.open(self._path) as f:
        found = json.loads(f.read())
      return {
        **found,
        "id": str(found["id"]),
        "renewed": found["renewed"] + 0.0,
      }
    except (FileNotFoundError, ValueError, KeyError, TypeError):
      return None

  def _write(self):
    text = json.dumps({**self._own, "renewed": time.time()})
    fs.replace(self._path, text)

  def release(self) -> None:
    """Removes the file; may be called twice."""
    if self._thread is None:
      return
    self._stop.set()
    self._thread.join()
    self._thread = None
    _held.discard(self._own["id"])
    found = self._read()
    if found is not None and found["id"] == self._own["id"]:
      fs.remove(self._path)


def describe(owner: dict[str, Any]) -> str:
  """Names an owner.

  Args:
    owner: content of the file of a lease.

  Returns:
    For example "process 12 on host a since 2026-11-30 10:00:00 UTC".
  """
  return named(owner.get("pid"), owner.get("host"), owner.get("started", 0))


def named(pid: Any, host: Any, started: float) -> str:
  """Names a process.

  Args:
    pid: number of the process.
    host: name of the machine.
    started: when it took the lock, in seconds since 1970.

  Returns:
    For example "process 12 on a since 2026-11-30 10:00:00 UTC".
  """
  since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(started))
  return f"process {pid} on {host} since {since}"


def _process_namespace() -> str:
  """Tells containers apart, in which numbers of processes mean others."""
  try:
    return os.readlink("/proc/self/ns/pid")
  except OSError:  # Not Linux.
    return ""


def _has_ended(owner):
  """Tells whether an owner was a process of this machine that has ended."""
  here = (socket.gethostname(), _process_namespace())
  if (owner.get("host"), owner.get("processes")) != here:
    return False
  if owner["id"] in _held:
    return False
  pid = owner.get("pid")
  if not isinstance(pid, int) or pid == os.getpid():
    return True  # This process has the number of an earlier one.
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except PermissionError:  # Of another user.
    return False
  return False
