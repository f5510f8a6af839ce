"""Results of UViM's evaluators do not depend on the number of processes."""

import json
import os
import runpy

import numpy as np
import pytest

import process_groups
from big_vision.models import inception

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "uvim_two_processes.py")
ROOT = os.path.abspath(os.path.join(HERE, "../../../.."))


@pytest.mark.tf
@pytest.mark.multidevice
@pytest.mark.slow
def test_two_processes(tfds_data_dir, tmp_path, monkeypatch):
  # A process of its own makes the dataset, before two do at once.
  for name in ("features", "load"):  # The script replaces them.
    monkeypatch.setattr(inception, name, getattr(inception, name))
  alone = runpy.run_path(SCRIPT)["results"](str(tmp_path / "one.npz"))
  with process_groups.coordinator_address() as address:
    process_groups.run(
      [[SCRIPT, str(i), address, str(tmp_path)] for i in range(2)],
      envs=[{"PYTHONPATH": ROOT}] * 2,
      timeout=300,
    )
  first, second = (
    json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2)
  )
  assert first == second
  assert list(first) == list(alone)
  assert {"PSNR", "RMSE", "loss", "FID_7"} < set(alone)
  for name, value in alone.items():
    assert np.isfinite(value)
    np.testing.assert_allclose(first[name], value, rtol=1e-5, err_msg=name)
  one, two = (np.load(tmp_path / f"{k}.npz") for k in ("one", "two"))
  assert one.files == two.files
  for name in one.files:
    assert len(one[name]) == 13
    np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-6)
