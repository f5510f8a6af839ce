"""Hears the signals by which machines are taken away, whatever a run is doing.

Python runs the handler of a signal between two instructions of its main thread. A
compilation, a collective or a read that hangs keeps it from getting there, so a
thread of this module hears signals, too. Imports no jax: it listens from the start.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

# Of schedulers and clouds; SLURM can send the second ahead of a time limit.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# Exit status of a run that stopped on request. See docs/interruptions.md.
PREEMPTED = 128 + signal.SIGTERM

_POKE = (
  signal.SIGURG
)  # To the main thread; harmless to whoever does not know it.
_REPEATED = 1.0  # Seconds in which launchers may deliver one signal twice.
_AGAIN = 3.0  # Seconds after which an interruption was without effect.
_ENDING = (
  10.0  # Seconds for closing files and for the exit functions of Python.
)


class Interrupted(BaseException):
  """The main thread waits for what may never come, and the run has to stop."""


def seconds(variable: str, default: float) -> float:
  """Reads a time limit.

  Args:
    variable: name of the environment variable.
    default: if that is unset or empty.

  Returns:
    Seconds.

  Raises:
    SystemExit: the value is something else than a positive number.
  """
  text = os.environ.get(variable) or str(default)
  try:
    value = float(text)
  except ValueError:
    value = 0.0
  if not 0 < value < float("inf"):
    raise SystemExit(
      f"Error: {variable}={text!r} should be a positive number of seconds, such as "
      f"{default:g}."
    )
  return value


def leave(text: str, status: int) -> None:
  """Ends the process at once, without what libraries do at exit.

  Args:
    text: a line for stderr; empty for none.
    status: exit status.
  """
  if text:
    with contextlib.suppress(OSError):  # Nobody reads stderr any more.
      os.write(2, f"{text}\n".encode())
  os._exit(status)


class Listener:
  """Hears SIGTERM, SIGUSR1 and repeated Ctrl-C until `close`.

  Before `begin` the first signal ends the process: there is nothing to save. After
  it the main thread has BV_STOP_TIMEOUT seconds (default 20) to see `noticed` and to
  call `saving`; then the process ends without. A second signal ends it at once.

  Attributes:
    noticed: name of the signal that asks the run to stop, or "".
    farewell: called before the process ends early, with the reason.
  """

  def __init__(self, leave: Callable[[str, int], None] = leave):
    """Starts to listen; only the main thread may.

    Args:
      leave: ends the process: (text, exit status).
    """
    self.noticed = ""
    self.farewell: Callable[[str], None] | None = None
    self._leave = leave
    self._patience = seconds("BV_STOP_TIMEOUT", 20)
    self._begun = self._saves = self._ending = False
    self._heard_at = 0.0
    self._deadline = 0.0  # Counts once there is a notice.
    self._after: float | None = None  # Seconds until a wait is interrupted.
    self._interrupts = 0
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    handled = (*SIGNALS, _POKE)
    self._old = {s: signal.signal(s, self._in_main) for s in handled}
    self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    thread = threading.Thread(target=self._watch, name="signals", daemon=True)
    self._thread = thread
    thread.start()

  # For the main thread.

  def begin(self) -> None:
    """Says that there is something to save, and that `noticed` is looked at."""
    self._begun = True

  def saving(self, is_it: bool = True) -> None:
    """Says that the main thread begins to save, or does something else again.

    While it saves, it has all the time.
    """
    if is_it:
      self._begun = self._saves = True
    elif self._saves:
      self._saves = False
      self._deadline = time.monotonic() + self._patience

  def done(self) -> None:
    """Says that all is saved; what is left of the program is soon cut short."""
    self._begun = self._ending = True
    self._saves = False
    self._deadline = time.monotonic() + _ENDING

  @contextlib.contextmanager
  def interruptible(self, after: float) -> Iterator[None]:
    """Ends a wait by an exception, if the run has to stop.

    Args:
      after: seconds from the signal on.

    Yields:
      Nothing.

    Raises:
      Interrupted: within the body.
    """
    self._after = after
    try:
      yield
    finally:
      self._after = None

  def close(self) -> None:
    """Restores the former handlers; the thread ends."""
    signal.set_wakeup_fd(self._old_fd)
    for number, handler in self._old.items():
      signal.signal(number, handler)
    os.close(self._write)  # Which the thread reads as the end.
    self._thread.join()
    os.close(self._read)

  # For all threads.

  def ask(self, name: str) -> None:
    """Does as if a signal had come, since another host has got it.

    Args:
      name: of the signal.
    """
    if not self.noticed:
      self._notice(name)
      with contextlib.suppress(OSError):  # It is being closed.
        os.write(self._write, bytes([_POKE]))

  def _notice(self, name: str) -> None:
    self._heard_at = time.monotonic()
    patience = _ENDING if self._ending else self._patience
    self._deadline = self._heard_at + patience
    self.noticed = name

  # In the thread.

  def _watch(self) -> None:
    while True:
      timeout = 0.2 if self.noticed else None
      if select.select([self._read], [], [], timeout)[0]:
        numbers = os.read(self._read, 64)
        if not numbers:
          return
        for number in numbers:
          self._hear(number)
      if self.noticed:
        self._act()

  def _hear(self, number: int) -> None:
    """Takes note of a signal; a second one ends the process."""
    if number == signal.SIGINT:
      self._interrupts += 1
    elif number not in SIGNALS:
      return
    elif not self.noticed:
      self._notice(signal.Signals(number).name)
      return
    elif time.monotonic() - self._heard_at < _REPEATED:
      return
    if self.noticed or self._interrupts > 1:
      status = PREEMPTED if self.noticed else 128 + signal.SIGINT
      self._end(f"Stopped at once: asked twice. {_GOES_ON}", status)

  def _act(self) -> None:
    """Does what is due after a notice."""
    now = time.monotonic()
    if not self._begun:
      text = f"Stopped on request ({self.noticed}) with nothing to save"
      self._end(f"{text}: no step has ended since the start.", PREEMPTED)
    elif self._saves:
      return
    elif now > self._deadline:
      text = (
        f"Stopped on request ({self.noticed}) without saving: the step has not "
        f"ended for {self._patience:g} s (BV_STOP_TIMEOUT). {_GOES_ON}"
      )
      self._end("" if self._ending else text, PREEMPTED)
    elif self._gives_up(now):
      main = threading.main_thread().ident
      assert main is not None
      signal.pthread_kill(main, _POKE)

  def _gives_up(self, now: float) -> bool:
    """Tells whether the main thread is to end its wait."""
    after = self._after
    return (
      bool(self.noticed)
      and after is not None
      and (now > self._heard_at + after)
    )

  def _end(self, text: str, status: int) -> None:
    if self.farewell:
      self.farewell(f"asked to stop ({self.noticed or 'SIGINT'})")
    self._leave(text, status)

  # Handlers.

  def _in_main(self, number: int, frame: object) -> None:
    """Python's handler: Python calls it in the main thread, once it can.

    The exception is lost where it comes in a callback of the garbage collector or
    in `__del__`; then it is raised again, as long as the wait goes on.
    """
    del frame
    now = time.monotonic()
    if number in SIGNALS:
      # The main thread sees it from here on, however late the listener's runs.
      while not self.noticed and time.monotonic() < now + _REPEATED:
        time.sleep(0.001)
    elif number == _POKE and self._gives_up(now):
      # More time for what ends the wait, from now on.
      self._after = now - self._heard_at + _AGAIN
      raise Interrupted

  def forget(self) -> None:
    """In a forked process: its signals are not those of the run."""
    signal.set_wakeup_fd(-1)
    for number in self._old:
      signal.signal(number, signal.SIG_DFL)


_GOES_ON = "The same command goes on from the last checkpoint."
_active: Listener | None = None
_until_the_end = False


def listen() -> None:
  """Listens until the end of the process, the first thing that trainers do."""
  global _active, _until_the_end
  if _active is None:
    _active, _until_the_end = Listener(), True


def leave_now() -> None:
  """Ends a process that has stopped on request and has closed its files.

  Python's own exit may take long: libraries collect garbage, and wait for threads
  that read what never comes. Does nothing unless `listen` was called.
  """
  if _until_the_end:
    sys.stdout.flush()
    sys.stderr.flush()
    leave("", PREEMPTED)


@contextlib.contextmanager
def listening() -> Iterator[Listener | None]:
  """Listens while the body runs.

  Yields:
    The Listener, that of `listen` if there is one; None in another thread than the
    main one, which cannot handle signals.
  """
  global _active
  main = threading.current_thread() is threading.main_thread()
  if _active is not None or not main:
    yield _active if main else None
    return
  _active = Listener()
  try:
    yield _active
  finally:
    _active.close()
    _active = None


def active() -> Listener | None:
  """Returns the Listener of the process, if there is one."""
  return _active


def _forget() -> None:
  if _active is not None:
    _active.forget()


if hasattr(os, "register_at_fork"):
  os.register_at_fork(after_in_child=_forget)
