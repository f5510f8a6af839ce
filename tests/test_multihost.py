"""Two processes of four devices are one process of eight."""

import os
import pathlib
import sys

import numpy as np
import pytest

import toy
from big_vision.launching import local

pytestmark = [pytest.mark.tf, pytest.mark.multidevice]

ROOT = pathlib.Path(__file__).parent.parent


def train(workdir, hosts, devices, change=""):
  """Trains with fsdp, to communicate; returns what the processes said."""
  command = [
    sys.executable, "-m", "big_vision.train", "--workdir", str(workdir),
    "--config", str(ROOT / "tests/golden/train_digits.py"),
    "--config.total_steps=6", "--config.ckpt_steps=3",
    "--config.schedule.warmup_steps=2",
  ]  # fmt: skip
  lines = []
  with local.start(
    ["sh", "-c", f'exec "$@" {change}', "sh", *command],
    hosts=hosts,
    devices=devices,
    env={
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # Compiles in less time.
      "PYTHONPATH": str(ROOT),
    },
    write=lines.append,
  ) as group:
    return group.wait(1500, stop_others=False), "".join(lines)


def test_two_hosts(tfds_data_dir, tmp_path):
  for name, hosts, devices in (("one", 1, 8), ("two", 2, 4)):
    codes, log = train(tmp_path / name, hosts, devices)
    assert not any(codes), log
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


def test_hosts_that_differ(tmp_path):
  """Before data are read all stop with the same error."""
  change = '"--config.lr=0.$JAX_PROCESS_ID"'
  codes, log = train(tmp_path / "run", 2, 1, change=change)
  assert codes == [1, 1], log
  errors = [line for line in log.splitlines() if "Error: " in line]
  assert len(errors) == 2 and errors[0][4:] == errors[1][4:]
  assert "config.lr = 0.1 (process 0: 0.0)" in errors[0]
  assert "Traceback" not in log
  assert not (tmp_path / "run").exists()
