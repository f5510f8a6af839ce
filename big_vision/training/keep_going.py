"""Restarts a run in place: `--keep_going N`.

The command becomes a small supervisor, and the run its child. Imports no jax.
"""

import os
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging

# Exit status of the child after an exception that only a mistake in code, a full
# disk or a broken machine explains. Python's own is 1, that of wrong input, too.
CRASHED = 70
# As sysexits.h has it: a host is gone, the same command may well succeed.
PEER_LOST = 75

_CHILD = "BV_KEEP_GOING_CHILD"
_HOPELESS = 3  # Ends in a row without a new checkpoint.
_FORWARDED = (
  signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP,
)  # fmt: skip


def supervise() -> None:
  """Runs the command of this process in a child, if `--keep_going` asks for it.

  Returns without the flag, and in the child.

  Raises:
    SystemExit: the run has ended, in the supervisor.
  """
  if os.environ.pop(_CHILD, None):
    sys.excepthook = _crash
    return
  times, argv = take(sys.orig_argv)
  if times:
    command = [sys.executable, *argv[1:]]
    raise SystemExit(run(command, times, lambda: newest(argv)))


def take(argv: Sequence[str]) -> tuple[int, list[str]]:
  """Takes the flag out of a command line.

  Args:
    argv: the command line.

  Returns:
    (how often to restart, 0 without the flag; the rest). A value that is not a
    number stays, for the flags of the trainer to refuse.
  """
  times, rest, i = 0, [], 0
  argv = list(argv)
  while i < len(argv):
    text, used = argv[i], 1
    if re.fullmatch("--?keep_going", text) and i + 1 < len(argv):
      text, used = f"{text}={argv[i + 1]}", 2
    if match := re.fullmatch(r"--?keep_going=(\d+)", text):
      times = int(match[1])
    else:
      rest += argv[i : i + used]
    i += used
  return times, rest


def newest(argv: Sequence[str]) -> object:
  """Reads which checkpoint a run would go on from.

  Args:
    argv: its command line, with `--workdir`.

  Returns:
    Text, the same while there is none newer. Of a remote workdir, which cannot be
    read without much time, an object that equals no other.
  """
  given = None
  for text, following in zip(argv, [*argv[1:], ""], strict=True):
    if match := re.fullmatch("--?workdir(?:=(.*))?", text):
      given = match[1] or following
  if given and "://" in given:
    return object()
  try:
    with open(f"{given}/checkpoint.bv-LAST", encoding="utf-8") as f:
      return f.read()
  except OSError:
    return ""


def run(
  command: Sequence[str],
  times: int,
  progress: Callable[[], object],
  pause: float = 1.0,
) -> int:
  """Runs a command until it succeeds, or fails in a way that will not change.

  Args:
    command: program and arguments.
    times: how often to run it again.
    progress: returns what changes when the run gets further.
    pause: seconds before each restart.

  Returns:
    Exit status of the last run; 128 + n if signal n ended it.
  """
  child = _Child(command)
  in_vain = restarts = 0
  while True:
    before = progress()
    code = child.run()
    status = code if code >= 0 else 128 - code
    if not is_worth_another(code) or child.told:
      return status
    in_vain = in_vain + 1 if progress() == before else 0
    why = reason(code)
    if restarts == times:
      _say(f"{why}. Not restarted: that was restart {times} of {times}.")
      return status
    if in_vain == _HOPELESS:
      _say(f"{why}. Not restarted: {in_vain} times without a new checkpoint.")
      return status
    restarts += 1
    _say(f"{why}. Restart {restarts} of {times}.")
    time.sleep(pause)
    if child.told:
      return 128 + child.told


def is_worth_another(code: int) -> bool:
  """Tells whether a run that ended like this is restarted.

  Args:
    code: `returncode` of `subprocess`.

  Returns:
    True after a crash, a lost host, or a signal other than those that ask a
    program to stop.
  """
  return code in (CRASHED, PEER_LOST) or (code < 0 and -code not in _FORWARDED)


def reason(code: int) -> str:
  """Says how a run has ended.

  Args:
    code: `returncode` of `subprocess`.

  Returns:
    The beginning of a sentence.
  """
  if code < 0:
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"The run was ended by {signal.Signals(-code).name}{hint}"
  what = "has lost a host" if code == PEER_LOST else "has crashed"
  return f"The run {what} (exit status {code})"


def _say(text: str) -> None:
  logging.warning("--keep_going: %s", text)


class _Child:
  """Runs a command, again and again, and hands signals on to it."""

  def __init__(self, command: Sequence[str]):
    self.told = 0  # The last signal.
    self._command = command
    self._process: subprocess.Popen | None = None
    for number in _FORWARDED:
      signal.signal(number, self._hand_on)

  def run(self) -> int:
    """Runs the command once; returns its `returncode`."""
    self._process = subprocess.Popen(
      self._command,
      env={**os.environ, _CHILD: "1"},
      process_group=0,  # So that Ctrl-C comes once, from here.
      preexec_fn=_end_with_parent,
    )
    return self._process.wait()

  def _hand_on(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    self.told = number
    if self._process is not None and self._process.poll() is None:
      self._process.send_signal(number)


def _end_with_parent() -> None:
  """Makes Linux stop the child when its supervisor is killed."""
  if sys.platform == "linux":
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGTERM))


def _crash(kind: type[BaseException], error: BaseException, trace: Any) -> None:
  """Shows an exception as ever; its exit status tells it from wrong input."""
  sys.__excepthook__(kind, error, trace)
  sys.stderr.flush()
  if not issubclass(kind, KeyboardInterrupt):
    os._exit(CRASHED)
