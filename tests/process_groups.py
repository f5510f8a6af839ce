"""Runs several processes that train or evaluate together."""

import contextlib
import os
import socket
import subprocess
import sys


@contextlib.contextmanager
def coordinator_address():
  """Yields `localhost:<port>` with a port that stays reserved for the body.

  The socket is bound until the end, so that no other process gets its port. It
  does not listen, and SO_REUSEPORT lets the coordination service of JAX, which
  sets this option, too, bind the same port.
  """
  with socket.socket() as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("localhost", 0))
    yield f"localhost:{s.getsockname()[1]}"


def run(commands, *, envs=None, timeout=300, **kw):
  """Runs Python commands at the same time and checks that all succeed.

  Args:
    commands: list of argument lists for Python, one for each process.
    envs: list of dicts with further environment variables, or None.
    timeout: seconds for each of them.
    **kw: for `subprocess.Popen`.

  Returns:
    List of outputs (stdout and stderr), in the order of the commands.
  """
  envs = envs or [{}] * len(commands)
  processes = [
    subprocess.Popen(
      [sys.executable, *command],
      env={**os.environ, "JAX_PLATFORMS": "cpu", **env},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      **kw,
    )
    for command, env in zip(commands, envs, strict=True)
  ]
  try:
    logs = [p.communicate(timeout=timeout)[0] for p in processes]
  finally:
    for p in processes:
      p.kill()
  codes = [p.returncode for p in processes]
  assert not any(codes), f"{codes}\n" + "\n".join(log[-4000:] for log in logs)
  return logs
