"""A connection to the coordinator of a run that may break without ending the process.

JAX' client of the coordination service aborts its process with pages of stack traces
as soon as the connection is lost, before Python can say what happened. It connects
to a forwarder, which keeps quiet when the other side is gone. The forwarder is a
process of its own, this file, since the client may hold Python's lock while it waits
for an answer.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

_FOUND, _LOST = b"found\n", b"lost\n"


class Link:
  """Forwards connections of this process to the coordinator, while it lives.

  Attributes:
    address: "host:port" of the coordinator.
    local: "host:port" to connect to instead.
    found: whether the coordinator has answered.
    lost: whether a connection to it has ended.
  """

  def __init__(self, address: str):
    """Starts the forwarder, which listens on the loopback device.

    Args:
      address: "host:port" of the coordinator; it need not listen yet.
    """
    self.address = address
    self.found = self.lost = False
    self._process = subprocess.Popen(
      [sys.executable, "-I", "-S", __file__, address],
      stdin=subprocess.PIPE,  # Its end tells the forwarder that we are gone.
      stdout=subprocess.PIPE,
    )
    assert self._process.stdout is not None
    self.local = self._process.stdout.readline().decode().strip()
    threading.Thread(target=self._read, name="coordinator", daemon=True).start()

  def _read(self) -> None:
    assert self._process.stdout is not None
    for line in self._process.stdout:
      self.found |= line == _FOUND
      self.lost |= line == _LOST

  def close(self) -> None:
    """Ends the forwarder, and with it all connections."""
    assert self._process.stdin is not None
    self._process.stdin.close()
    self._process.wait()


def _start(target: Callable[..., None], *args: object) -> None:
  threading.Thread(target=target, args=args, daemon=True).start()


def _say(what: bytes) -> None:
  with contextlib.suppress(BrokenPipeError):  # Nobody is there to be told.
    os.write(sys.stdout.fileno(), what)


def _accept(server: socket.socket, address: tuple[str, int]) -> None:
  while True:
    here, _ = server.accept()
    _start(_connect, here, address)


def _connect(here: socket.socket, address: tuple[str, int]) -> None:
  """Reaches the coordinator, however often it takes."""
  while True:
    try:
      there = socket.create_connection(address, 10)
      break
    except OSError:  # It does not listen yet; whoever waits has a time limit.
      time.sleep(0.5)
  _say(_FOUND)
  there.settimeout(None)
  for s in (here, there):
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  _start(_copy, there, here, True)
  _copy(here, there, False)


def _copy(
  source: socket.socket, to: socket.socket, from_coordinator: bool
) -> None:
  """Copies bytes until one side ends; if that is this host's, ends the other."""
  with contextlib.suppress(OSError):
    while data := source.recv(1 << 16):
      to.sendall(data)
    if not from_coordinator:
      to.shutdown(socket.SHUT_RDWR)
      return
  _say(_LOST)


def _forward(address: str) -> None:
  """Runs until the process that has started this one ends."""
  # Of a terminal or a scheduler, for the whole group: that process will decide.
  for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
  host, _, port = address.rpartition(":")
  server = socket.create_server(("127.0.0.1", 0))
  _say(f"127.0.0.1:{server.getsockname()[1]}\n".encode())
  _start(_accept, server, (host.strip("[]"), int(port)))
  sys.stdin.buffer.read()


if __name__ == "__main__":
  _forward(sys.argv[1])
