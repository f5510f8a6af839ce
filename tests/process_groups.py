"""Runs several processes that train or evaluate together."""

import contextlib
import json
import os
import subprocess
import sys

from big_vision.launching import local

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@contextlib.contextmanager
def coordinator_address():
  """Yields `localhost:<port>` with a port that stays reserved for the body."""
  with local.free_port() as port:
    yield f"localhost:{port}"


def environment():
  """The environment of the processes: no accelerators, modules of this clone."""
  return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ROOT}


def start(commands, envs, **kw):
  """Starts Python commands at the same time.

  Args:
    commands: list of argument lists for Python.
    envs: list of dicts with further environment variables.
    **kw: for `subprocess.Popen`.

  Returns:
    List of Popen, whose stdout has stderr, too.
  """
  return [
    subprocess.Popen(
      [sys.executable, *command],
      env={**environment(), **env},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      **kw,
    )
    for command, env in zip(commands, envs, strict=True)
  ]


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
  processes = start(commands, envs or [{}] * len(commands), **kw)
  try:
    logs = [p.communicate(timeout=timeout)[0] for p in processes]
  finally:
    for p in processes:
      p.kill()
  codes = [p.returncode for p in processes]
  assert not any(codes), f"{codes}\n" + "\n".join(log[-4000:] for log in logs)
  return logs


def results(script, folder, count):
  """Runs a script in several processes that compute one thing together.

  Args:
    script: path of a Python file. Its arguments are the number of the process,
      that of processes, the address of the coordinator, and `folder`, into which
      it writes `result<number>.json`.
    folder: pathlib.Path, made.
    count: number of processes.

  Returns:
    List of what each process wrote.
  """
  folder.mkdir()
  with coordinator_address() as address:
    args = [str(count), address, str(folder)]
    run(
      [[str(script), str(i), *args] for i in range(count)],
      envs=[{"PYTHONPATH": ROOT}] * count,
      timeout=240,
    )
  return [
    json.loads((folder / f"result{i}.json").read_text()) for i in range(count)
  ]
