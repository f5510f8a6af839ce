"""Results do not depend on the number of processes."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "two_processes.py")
ROOT = os.path.abspath(os.path.join(HERE, *[".."] * 4))


def run(folder, count):
  """Results of `count` processes, by process."""
  folder.mkdir()
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ROOT}
  processes = [
    subprocess.Popen(
      [sys.executable, SCRIPT, str(i), str(count), str(port), str(folder)],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(count)
  ]
  logs = [p.communicate(timeout=240)[0] for p in processes]
  for p, log in zip(processes, logs, strict=True):
    assert p.returncode == 0, log[-3000:]
  return [
    json.loads((folder / f"result{i}.json").read_text()) for i in range(count)
  ]


@pytest.mark.slow
@pytest.mark.tf
@pytest.mark.multidevice
def test_two_processes(tmp_path, tfds_data_dir):
  [alone] = run(tmp_path / "one", 1)
  first, second = run(tmp_path / "two", 2)
  assert first == second and first.keys() == alone.keys()
  assert alone["count"] == 21 and 0 < alone["few"] < 21 and alone["finite"]
  for name, value in alone.items():
    np.testing.assert_allclose(
      first[name], value, rtol=1e-4, atol=1e-5, err_msg=name
    )
