"""Results do not depend on the number of processes."""

import json
import os

import numpy as np
import pytest

import process_groups

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "two_processes.py")
ROOT = os.path.dirname(os.path.dirname(HERE))


def run(folder, count):
  """Results of `count` processes, by process."""
  folder.mkdir()
  with process_groups.coordinator_address() as address:
    args = [str(count), address, str(folder)]
    process_groups.run(
      [[SCRIPT, str(i), *args] for i in range(count)],
      envs=[{"PYTHONPATH": ROOT}] * count,
      timeout=120,
    )
  return [
    json.loads((folder / f"result{i}.json").read_text()) for i in range(count)
  ]


@pytest.mark.multidevice
def test_two_processes(tmp_path):
  [alone] = run(tmp_path / "one", 1)
  first, second = run(tmp_path / "two", 2)
  assert first.pop("json") == [1, 2] and second.pop("json") == []
  assert json.loads((tmp_path / "two" / "merged.json").read_text()) == [1, 2]
  assert alone.pop("json") == [1]
  assert first.pop("sum") == second.pop("sum") == [3, [0, 2, 4]]
  assert alone.pop("sum") == [1, [0, 1, 2]]
  assert first == second
  assert first.pop("labels") == alone.pop("labels") == [*range(4)] * 5 + [0]
  assert first.keys() == alone.keys()
  for name, value in alone.items():
    np.testing.assert_allclose(first[name], value, rtol=1e-6, err_msg=name)
  tables = [(tmp_path / k / "classes.csv").read_text() for k in ("one", "two")]
  assert tables[0] == tables[1] and tables[0].count("\n") == 5
  one, two = (np.load(tmp_path / k / "saved.npz") for k in ("one", "two"))
  assert one.files == two.files
  for name in one.files:
    np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-6)
