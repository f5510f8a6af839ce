"""A fork with a loop of its own trains, stops and continues."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent


def run(module, argument, workdir, **env):
  """Runs a trainer on four devices, in a process of its own."""
  config = HERE / "config.py"
  env |= dict(JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="4")
  env |= dict(PYTHONPATH=str(ROOT), JAX_DISABLE_MOST_OPTIMIZATIONS="1")
  out = subprocess.run(
    [
      sys.executable,
      *module,
      f"--config={config}:{argument}",
      f"--workdir={workdir}",
    ],
    env={**os.environ, **env},
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert out.returncode == 0, out.stderr[-3000:]
  return out.stderr


def rows(workdir):
  lines = (workdir / "big_vision_metrics.txt").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.tf
def test_fork_trains_and_resumes(tfds_data_dir, tmp_path):
  fork = [str(HERE / "classify.py")]
  log = run(fork, "4", tmp_path)
  assert "val/prec@1" in log  # Of the initial evaluation, too.
  assert (tmp_path / "checkpoint.bv-LAST").read_text() == "000000004"
  run(fork, "0", tmp_path)
  assert (tmp_path / "checkpoint.bv-LAST").read_text() == "000000006"
  found = {p.name for p in tmp_path.glob("checkpoint.bv-0*")}
  assert found == {"checkpoint.bv-000000004", "checkpoint.bv-000000006"}
  metrics = rows(tmp_path)
  assert [r["step"] for r in metrics] == [1, 2, 3, 4, 5, 6]
  assert [r["examples_seen"] for r in metrics] == [16, 32, 48, 64, 80, 96]
  losses = [r["training_loss"] for r in metrics]
  assert np.isfinite(losses).all() and losses[-1] < losses[0]
  assert metrics[0]["training_loss"] == pytest.approx(10 * np.log(2), rel=1e-5)
  # The schedule of the head is the first that trains; it drops at step 4.
  assert metrics[3]["global_schedule"] == 1
  assert metrics[4]["global_schedule"] == pytest.approx(0.1)
  for step in (3, 6):
    assert 0 <= metrics[step - 1]["val/prec@1"] <= 1
  assert "fewshot/a/digits_2shot-seed-0" in metrics[-1]


@pytest.mark.slow
@pytest.mark.tf
def test_trainers_of_the_package_with_a_guard(tfds_data_dir, tmp_path):
  """The loop itself disallows transfers; here everything around it, too."""
  train = ["-m", "big_vision.train"]
  run(train, "0", tmp_path, JAX_TRANSFER_GUARD="disallow")
  assert rows(tmp_path)[-1]["step"] == 6
