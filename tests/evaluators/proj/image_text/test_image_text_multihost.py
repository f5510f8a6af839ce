"""Results do not depend on the number of processes."""

import pathlib

import numpy as np
import pytest

import process_groups

SCRIPT = pathlib.Path(__file__).with_name("two_processes.py")


@pytest.mark.slow
@pytest.mark.tf
@pytest.mark.multidevice
def test_two_processes(tmp_path, tfds_data_dir):
  [alone] = process_groups.results(SCRIPT, tmp_path / "one", 1)
  first, second = process_groups.results(SCRIPT, tmp_path / "two", 2)
  assert first == second and first.keys() == alone.keys()
  assert alone["count"] == 21 and 0 < alone["few"] < 21
  for name, value in alone.items():
    np.testing.assert_allclose(
      first[name], value, rtol=1e-4, atol=1e-5, err_msg=name
    )
