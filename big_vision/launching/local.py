"""Starts several processes on this machine that compute one thing together.

  with local.start(command, hosts=2, devices=4) as group:
    codes = group.wait(timeout=600)

Each process is what a host is elsewhere: `training.hosts.join` makes one run of
them. They meet on a free port of the loopback interface and have simulated CPU
devices, or GPUs of their own.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# Processes that lose another one usually notice soon, and say more about it than
# that they were stopped.
_SECONDS_TO_NOTICE = 2.0
# What the others would save is not complete without the one that failed.
_GRACE_AFTER_FAILURE = 10.0
# A process that gets one of these ends in its own time: it saves first.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Group:
  """Holds the processes of `start`; leaving it as a context stops them.

  Attributes:
    processes: list of subprocess.Popen, in the order of their numbers.
    ended: numbers of the processes that have ended, the first one first.
  """

  def __init__(
    self,
    processes: Sequence[subprocess.Popen],
    write: Callable[[str], Any],
    close: Callable[[], Any],
    grace: float,
  ) -> None:
    self.processes = list(processes)
    self.ended: list[int] = []
    self._told_to_end = False
    self._close, self._grace = close, grace
    self._change = threading.Condition()
    lock = threading.Lock()
    self._readers = []
    for i, process in enumerate(self.processes):
      reader = threading.Thread(
        target=_read, args=(i, process, write, lock), daemon=True
      )
      reader.start()
      self._readers.append(reader)
      threading.Thread(target=self._note_end, args=(i,), daemon=True).start()

  def wait(
    self, timeout: float | None = None, *, stop_others: bool = True
  ) -> list[int]:
    """Waits until all have ended.

    Args:
      timeout: seconds for this call; None waits for ever.
      stop_others: when one fails, stops the others. False lets them go on, to see
        what they do.

    Returns:
      Exit status of each process; -n if signal n ended it.

    Raises:
      TimeoutError: some still run, and go on running.
    """
    over = lambda: (
      self.running() == [] or (stop_others and self.first_failed() is not None)
    )
    with self._change:
      if not self._change.wait_for(over, timeout):
        raise TimeoutError(
          f"After {timeout} s processes {self.running()} of "
          f"{len(self.processes)} still run."
        )
    grace = self._grace
    if self.running() and not self._told_to_end:
      grace = min(grace, _GRACE_AFTER_FAILURE)
      with self._change:
        self._change.wait_for(lambda: not self.running(), _SECONDS_TO_NOTICE)
    self.stop(grace)
    return [process.returncode for process in self.processes]

  def running(self) -> list[int]:
    """Returns the numbers of the processes that still run."""
    return [i for i in range(len(self.processes)) if i not in self.ended]

  def first_failed(self) -> int | None:
    """Returns the number of the process that failed first; None if none did."""
    failed = (i for i in self.ended if self.processes[i].returncode)
    return next(failed, None)

  def send(self, number: int) -> None:
    """Sends a signal to all processes that still run.

    Args:
      number: of the signal, for example signal.SIGTERM.
    """
    self._told_to_end |= number in _ENDING
    for i in self.running():
      self.processes[i].send_signal(number)

  def stop(self, grace: float | None = None) -> None:
    """Ends all: SIGTERM, and SIGKILL later. Safe to repeat.

    Those that `send` has already told to end get no second signal before.

    Args:
      grace: seconds between the two; None takes that of `start`.
    """
    grace = self._grace if grace is None else grace
    try:
      if not self._told_to_end:
        self.send(signal.SIGTERM)
      with self._change:
        self._change.wait_for(lambda: not self.running(), grace)
    finally:  # Also if interrupted once more.
      for i in self.running():
        _kill_group(self.processes[i])
      with self._change:
        self._change.wait_for(lambda: not self.running())
      for reader in self._readers:
        reader.join(timeout=10)
      self._close()

  def _note_end(self, i: int) -> None:
    """Waits for one process, in a thread, to know the order."""
    self.processes[i].wait()
    _kill_group(self.processes[i])  # What it has started and left.
    with self._change:
      self.ended.append(i)
      self._change.notify_all()

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.stop()


def start(
  command: Sequence[str],
  *,
  hosts: int,
  devices: int,
  gpus: Sequence[str] = (),
  env: Mapping[str, str] | None = None,
  write: Callable[[str], Any] | None = None,
  grace: float = 60.0,
  popen: Callable[..., Any] = subprocess.Popen,
) -> Group:
  """Starts processes that form one run.

  Args:
    command: program and its arguments, the same for all. JAX_PROCESS_ID in their
      environment tells them apart.
    hosts: number of processes.
    devices: number of devices of each: simulated ones of the CPU, or GPUs.
    gpus: numbers of GPUs to divide among them, as in CUDA_VISIBLE_DEVICES; none:
      the CPU is used.
    env: further environment variables; they win over those that are set here.
    write: called with each line of their output, complete and with the number of
      the process before it, "[1] text\\n"; one call at a time. None prints them.
    grace: seconds between SIGTERM and SIGKILL when they are stopped; at most 10
      when one of them has failed.
    popen: starts one process; called as `subprocess.Popen`.

  Returns:
    The Group.

  Raises:
    ValueError: there are too few GPUs, or no processes or devices are wanted.
    OSError: the program cannot be started.
  """
  if hosts < 1 or devices < 1:
    raise ValueError(
      f"{hosts} hosts of {devices} devices each: both are at least 1."
    )
  if gpus and len(gpus) < hosts * devices:
    raise ValueError(
      f"{hosts} hosts of {devices} devices each need {hosts * devices} GPUs, "
      f"there are {len(gpus)}: {','.join(gpus)}."
    )
  with contextlib.ExitStack() as stack:
    port = stack.enter_context(free_port())
    processes = []
    try:
      for i in range(hosts):
        share = gpus[i * devices : (i + 1) * devices]
        variables = _variables(i, hosts, devices, share, port)
        process = popen(
          command,
          env={**os.environ, **variables, **(env or {})},
          stdin=subprocess.DEVNULL,
          stdout=subprocess.PIPE,
          stderr=subprocess.STDOUT,
          text=True,
          encoding="utf-8",
          errors="replace",
          # Ctrl-C reaches this process alone, which passes it on.
          start_new_session=True,
        )
        processes.append(process)
    except BaseException:  # A signal, too.
      for process in processes:
        process.kill()
        process.communicate()
      raise
    close = stack.pop_all().close
  return Group(processes, write or _print, close, grace)


@contextlib.contextmanager
def free_port() -> Iterator[int]:
  """Yields a port of the loopback interface that stays reserved for the body.

  The socket is bound until the end, so that no other process gets its port. It
  does not listen, and SO_REUSEPORT lets the coordination service of JAX, which
  sets this option, too, bind the same port.
  """
  with socket.socket() as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", 0))
    yield s.getsockname()[1]


def _variables(
  i: int, hosts: int, devices: int, gpus: Sequence[str], port: int
) -> dict[str, str]:
  """Returns the environment variables of one process."""
  variables = {
    "BV_JAX_INIT": "1",
    "JAX_NUM_PROCESSES": str(hosts),
    "JAX_PROCESS_ID": str(i),
    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
    # By default all interfaces: anyone in the network could join.
    "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
    "PYTHONUNBUFFERED": "1",  # Lines come when they are written.
  }
  if gpus:
    variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
  else:
    variables["JAX_PLATFORMS"] = "cpu"
    variables["JAX_NUM_CPU_DEVICES"] = str(devices)
  return variables


def _read(
  i: int,
  process: subprocess.Popen,
  write: Callable[[str], Any],
  lock: threading.Lock,
) -> None:
  """Hands over the output of a process until it ends, in a thread."""
  assert process.stdout is not None
  with process.stdout as stdout:
    for line in stdout:
      end = "" if line.endswith("\n") else "\n"  # Killed in mid-line.
      with lock:
        write(f"[{i}] {line}{end}")


def _kill_group(process: subprocess.Popen) -> None:
  """Kills a process and what it has started."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)


def _print(line: str) -> None:
  """Writes a line at once."""
  sys.stdout.write(line)
  sys.stdout.flush()
