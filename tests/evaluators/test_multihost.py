"""Results do not depend on the number of processes."""

import json
import pathlib

import numpy as np
import pytest

import process_groups

SCRIPT = pathlib.Path(__file__).with_name("two_processes.py")


@pytest.mark.multidevice
def test_two_processes(tmp_path):
  [alone] = process_groups.results(SCRIPT, tmp_path / "one", 1)
  first, second = process_groups.results(SCRIPT, tmp_path / "two", 2)
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
