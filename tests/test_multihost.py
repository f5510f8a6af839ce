"""Two processes of four devices are one process of eight."""

import os
import pathlib

import numpy as np
import pytest

import process_groups
import toy

pytestmark = [pytest.mark.tf, pytest.mark.multidevice]

ROOT = pathlib.Path(__file__).parent.parent


def train(workdir, num_devices, envs):
  """Trains with one process for each environment; fsdp, to communicate."""
  command = [
    "-m", "big_vision.train", "--workdir", str(workdir),
    "--config", str(ROOT / "tests/golden/train_digits.py"),
    "--config.total_steps=6", "--config.ckpt_steps=3",
    "--config.schedule.warmup_steps=2",
  ]  # fmt: skip
  common = {
    "JAX_NUM_CPU_DEVICES": str(num_devices),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # Compiles in less time.
  }
  envs = [{**env, **common} for env in envs]
  process_groups.run([command] * len(envs), envs=envs, timeout=600, cwd=ROOT)


def test_two_hosts(tfds_data_dir, tmp_path):
  data = {"TFDS_DATA_DIR": tfds_data_dir}
  train(tmp_path / "one", 8, [data])
  with process_groups.coordinator_address() as address:
    together = {
      **data,
      "BV_JAX_INIT": "1",
      "JAX_COORDINATOR_ADDRESS": address,
      "JAX_NUM_PROCESSES": "2",
    }
    envs = [{**together, "JAX_PROCESS_ID": str(i)} for i in range(2)]
    train(tmp_path / "two", 4, envs)
  want, got = toy.rows(tmp_path / "one"), toy.rows(tmp_path / "two")
  assert sorted(want) == sorted(got)
  for step in want:
    for name in ("training_loss", "l2_params", "val/loss", "val/prec@1"):
      if name in want[step]:
        np.testing.assert_allclose(
          want[step][name], got[step][name], rtol=1e-4, err_msg=name
        )
  names = sorted(n for n in os.listdir(tmp_path / "two") if "checkp" in n)
  assert names == ["checkpoint.bv-000000006", "checkpoint.bv-LAST"]
