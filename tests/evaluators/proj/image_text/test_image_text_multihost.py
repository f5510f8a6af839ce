"""Results do not depend on the number of processes."""

import json
import os

import numpy as np
import pytest

import process_groups

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "two_processes.py")
ROOT = os.path.abspath(os.path.join(HERE, *[".."] * 4))


def run(folder, count):
  """Results of `count` processes, by process."""
  folder.mkdir()
  with process_groups.coordinator_address() as address:
    args = [str(count), address, str(folder)]
    process_groups.run(
      [[SCRIPT, str(i), *args] for i in range(count)],
      envs=[{"PYTHONPATH": ROOT}] * count,
      timeout=240,
    )
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
