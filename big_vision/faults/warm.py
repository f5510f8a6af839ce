"""Starts Python modules from a process that has imported what takes seconds.

A fault runner starts hundreds of trainings, each of which would import JAX and
TensorFlow first. `Server` is a process that has done so and forks one for each
start. They are processes like any other; only the imports have happened before.
"""

import ctypes
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

# What a training imports, at once or when it gets there. No backend of JAX starts.
MODULES = (
  "tensorflow", "tensorflow_datasets", "orbax.checkpoint", "tensorboardX",
  "big_vision.input_pipeline", "big_vision.training.cli", "big_vision.datasets.tfds",
  "big_vision.evaluators.classification",
)  # fmt: skip
_PR_SET_CHILD_SUBREAPER = 36
_MAX_BYTES = 1 << 20


class Process:
  """A process that a `Server` has started, with what Popen has of it.

  Attributes:
    pid: of the process.
    stdout: text file of its output, stderr included.
    returncode: exit status, -n if signal n ended it; None while it runs.
  """

  def __init__(self, pid: int, stdout: Any) -> None:
    self.pid, self.stdout = pid, stdout
    self.returncode: int | None = None
    self._lock = threading.Lock()

  def poll(self) -> int | None:
    """Returns the exit status; None while it runs."""
    with self._lock:
      if self.returncode is None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
          self.returncode = os.waitstatus_to_exitcode(status)
    return self.returncode

  def wait(self, timeout: float | None = None) -> int:
    """Waits for the end.

    Args:
      timeout: seconds; None waits for ever.

    Returns:
      Exit status.

    Raises:
      subprocess.TimeoutExpired: it still runs.
    """
    until = None if timeout is None else time.monotonic() + timeout
    while (status := self.poll()) is None:
      if until is not None and time.monotonic() > until:
        raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
      time.sleep(0.005)
    return status

  def send_signal(self, number: int) -> None:
    """Sends a signal, if it still runs.

    Args:
      number: of the signal.
    """
    if self.poll() is None:
      os.kill(self.pid, number)

  def communicate(self) -> tuple[str, None]:
    """Waits for the end; returns (output, None)."""
    with self.stdout:
      text = self.stdout.read()
    self.wait()
    return text, None

  def kill(self) -> None:
    """Sends SIGKILL."""
    self.send_signal(signal.SIGKILL)


class Server:
  """A process that forks others; leaving it as a context ends all of them."""

  def __init__(
    self, env: Mapping[str, str], modules: Sequence[str] = MODULES
  ) -> None:
    """Starts it; it imports while the first request waits.

    Args:
      env: environment variables besides those of this process.
      modules: what to import.
    """
    self._lock = threading.Lock()  # Of one request and its answer.
    self._started: list[Process] = []
    # Whose parent has ended becomes a child of this process.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    self._socket, theirs = socket.socketpair(
      socket.AF_UNIX, socket.SOCK_SEQPACKET
    )
    with theirs:
      self._process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(theirs.fileno()), *modules],
        env={**os.environ, **env},
        pass_fds=[theirs.fileno()],
        start_new_session=True,
      )

  def popen(
    self, command: Sequence[str], *, env: Mapping[str, str], **_: Any
  ) -> Process:
    """Starts a module as `subprocess.Popen` would.

    Args:
      command: `[python, "-m", module, argument, ...]`.
      env: its environment variables.
      **_: arguments of Popen; standard output and error come together.

    Returns:
      The Process.

    Raises:
      OSError: the server has ended.
    """
    reader, writer = os.pipe()
    request = json.dumps(dict(argv=list(command[2:]), env=dict(env))).encode()
    with self._lock:
      socket.send_fds(self._socket, [request], [writer])
      os.close(writer)
      answer = self._socket.recv(_MAX_BYTES)
    if not answer:
      raise OSError("The process that starts others has ended.")
    stdout = open(reader, encoding="utf-8", errors="replace")
    self._started.append(process := Process(int(answer), stdout))
    return process

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    for process in self._started:
      process.kill()
    self._socket.close()
    self._process.wait()


def _serve(link: socket.socket, modules: Sequence[str]) -> None:
  """Answers requests until nobody is there any more."""
  for module in modules:
    importlib.import_module(module)
  while True:
    request, fds, _, _ = socket.recv_fds(link, _MAX_BYTES, 1)
    if not request:
      return
    told, tell = os.pipe()
    # The process between the two ends at once, so that the new one is a child of
    # the one that asked.
    between = os.fork()
    if not between:
      child = os.fork()
      if not child:
        _become(link, fds[0], **json.loads(request))
      os.write(tell, str(child).encode())
      os._exit(0)
    os.waitpid(between, 0)
    link.send(os.read(told, 100))
    for fd in (told, tell, *fds):
      os.close(fd)


def _become(
  link: socket.socket, output: int, argv: list[str], env: dict[str, str]
) -> NoReturn:
  """Runs a module in this process, which has just been forked."""
  os.setsid()
  link.close()
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(output, 1)
  os.dup2(output, 2)
  os.environ.clear()
  os.environ.update(env)
  import jax  # Imported with another environment.

  jax.config.update("jax_num_cpu_devices", int(env["JAX_NUM_CPU_DEVICES"]))
  sys.argv = argv
  runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
  sys.exit()  # As any program: up through the loop of the server.


if __name__ == "__main__":
  with socket.socket(fileno=int(sys.argv[1])) as connection:
    _serve(connection, sys.argv[2:])
