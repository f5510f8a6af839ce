"""A connection to the coordinator of a run that may break without ending the process.

JAX' client of the coordination service aborts its process with pages of stack traces
as soon as the connection is lost, before Python can say what happened. It connects
to this forwarder, which keeps quiet when the other side is gone.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable


class Link:
  """Forwards connections of this process to the coordinator.

  Attributes:
    address: "host:port" of the coordinator.
    local: "host:port" to connect to instead.
    found: whether the coordinator has answered.
    lost: whether a connection to the coordinator has ended.
  """

  def __init__(self, address: str):
    """Starts to listen on the loopback device.

    Args:
      address: "host:port" of the coordinator; it need not listen yet.
    """
    self.address = address
    self.found = self.lost = False
    self._server = socket.create_server(("127.0.0.1", 0))
    self.local = f"127.0.0.1:{self._server.getsockname()[1]}"
    self._start(self._accept)

  def _start(self, target: Callable[..., None], *args: object) -> None:
    threading.Thread(
      target=target, args=args, name="coordinator", daemon=True
    ).start()

  def _accept(self) -> None:
    while True:
      here, _ = self._server.accept()
      self._start(self._connect, here)

  def _connect(self, here: socket.socket) -> None:
    """Reaches the coordinator, however often it takes."""
    host, _, port = self.address.rpartition(":")
    while True:
      try:
        there = socket.create_connection((host.strip("[]"), int(port)), 10)
        break
      except OSError:  # It does not listen yet; whoever waits has a time limit.
        time.sleep(0.5)
    self.found = True
    there.settimeout(None)
    for s in (here, there):
      s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    self._start(self._copy, there, here, True)
    self._copy(here, there, False)

  def _copy(
    self, source: socket.socket, to: socket.socket, from_coordinator: bool
  ) -> None:
    """Copies bytes until one side ends; the end of this process ends both."""
    with contextlib.suppress(OSError):
      while data := source.recv(1 << 16):
        to.sendall(data)
      if not from_coordinator:
        to.shutdown(socket.SHUT_RDWR)
        return
    self.lost = True
