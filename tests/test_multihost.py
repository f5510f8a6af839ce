"""Two processes of four devices are one process of eight."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

import toy

pytestmark = [pytest.mark.tf, pytest.mark.multidevice]

ROOT = pathlib.Path(__file__).parent.parent


def free_port():
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


def start(workdir, data_dir, num_devices, **env):
  """One process of the trainer; fsdp, so that every step communicates."""
  return subprocess.Popen(
    [
      sys.executable, "-m", "big_vision.train", "--workdir", str(workdir),
      "--config", str(ROOT / "tests/golden/train_digits.py"),
      "--config.total_steps=6", "--config.ckpt_steps=3",
      "--config.schedule.warmup_steps=2",
    ],
    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    env={
      **os.environ, "TFDS_DATA_DIR": data_dir,
      "JAX_NUM_CPU_DEVICES": str(num_devices), **env,
    },
  )  # fmt: skip


def test_two_hosts(tfds_data_dir, tmp_path):
  one = start(tmp_path / "one", tfds_data_dir, 8)
  assert one.wait() == 0, one.stdout.read()[-4000:]
  address = f"localhost:{free_port()}"
  two = [
    start(
      tmp_path / "two", tfds_data_dir, 4,
      BV_JAX_INIT="1", JAX_COORDINATOR_ADDRESS=address,
      JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(i),
    )
    for i in range(2)
  ]  # fmt: skip
  logs = [p.communicate()[0] for p in two]
  assert [p.returncode for p in two] == [0, 0], "\n".join(logs)[-6000:]
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
