"""The average of checkpoints against NumPy."""

import re
import shutil

import ml_dtypes
import numpy as np
import pytest

from big_vision import checkpoints
from big_vision.tools import average

STEPS = (10, 20, 30, 40)


def tree(step, dtype=np.float32):
  rng = np.random.default_rng(step)
  draw = lambda *shape: rng.normal(0, 1, shape).astype(dtype)
  return {"head": {"kernel": draw(4, 3), "bias": draw(3)}, "t": draw()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A workdir with whole states; the last checkpoint is a temporary one."""
  workdir = tmp_path_factory.mktemp("average") / "w"
  manager = checkpoints.CheckpointManager()
  for step in STEPS:
    state = {
      "params": tree(step, ml_dtypes.bfloat16 if step == 20 else np.float32),
      "params_ema": tree(step + 1),
      "opt": {"0": np.float32(step)},
    }
    checkpoints.save_checkpoint_ts(
      manager, state, f"{workdir}/checkpoint.bv", step, keep=step != STEPS[-1]
    )
  manager.close()
  return workdir


@pytest.fixture
def workdir(made, tmp_path):
  shutil.copytree(made, tmp_path / "w")
  return tmp_path / "w"


def mean(trees):
  leaf = lambda *names: np.float32(
    np.mean([np.float64(get(t, names)) for t in trees], axis=0)
  )
  get = lambda t, names: (
    t[names[0]] if len(names) == 1 else t[names[0]][names[1]]
  )
  return {
    "head": {"kernel": leaf("head", "kernel"), "bias": leaf("head", "bias")},
    "t": leaf("t"),
  }


def assert_same(got, want):
  got = dict(checkpoints.checkpoint_npz.named_leaves(got)[0])
  want = dict(checkpoints.checkpoint_npz.named_leaves(want)[0])
  assert set(got) == set(want)
  for name in want:
    assert got[name].dtype == np.float32
    np.testing.assert_array_equal(got[name], want[name])


def test_the_last(workdir, capsys):
  assert average.main(["--workdir", str(workdir), "--last", "2"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.rpartition("-0")[2] for line in lines[:2]] == [
    "00000030", "00000040-tmp"
  ]  # fmt: skip
  assert lines[2] == f"Wrote {workdir}/average.npz"
  got = checkpoints.load_params(f"{workdir}/average.npz")
  assert_same(got, mean([tree(30), tree(40)]))
  # A part of it, as of any checkpoint.
  bias = checkpoints.load_params(f"{workdir}/average.npz:head/bias")
  np.testing.assert_array_equal(bias, got["head"]["bias"])


def test_steps_of_other_types_into_a_folder(workdir):
  args = ["--workdir", str(workdir), "--steps", "30", "10", "20", "20"]
  target = str(workdir / "averaged")
  assert average.main([*args, "--to", target]) == 0
  want = mean([tree(10), tree(20, ml_dtypes.bfloat16), tree(30)])
  assert_same(checkpoints.load_params(target), want)
  assert set(checkpoints.load_checkpoint_ts(target)) == {"params"}


def test_averages_of_averages(workdir):
  target = str(workdir / "x.npz")
  args = ["--workdir", str(workdir), "--last", "4", "--params", "ema"]
  assert average.main([*args, "--to", target]) == 0
  assert_same(
    checkpoints.load_params(target), mean([tree(s + 1) for s in STEPS])
  )


def test_a_remote_file(workdir):
  pytest.importorskip("fsspec")
  target = "memory://averages/x.npz"
  args = ["--workdir", str(workdir), "--last", "1", "--to", target]
  assert average.main(args) == 0
  assert_same(checkpoints.load_params(target), tree(40))


def test_incomplete_ones_do_not_count(workdir):
  (workdir / "checkpoint.bv-000000050.partial").mkdir()
  (workdir / "checkpoint.bv-000000050").mkdir()
  (workdir / "best.bv-000000060").mkdir()
  found = checkpoints.of_steps(f"{workdir}/checkpoint.bv")
  assert list(found) == list(STEPS)
  assert found[40].endswith("checkpoint.bv-000000040-tmp")
  assert checkpoints.of_steps(f"{workdir}/x/checkpoint.bv") == {}


@pytest.mark.parametrize(
  "args, message",
  [
    (["--last", "5"], "--last=5: .* has only 4 .* 10, 20, 30, 40. .*keep_ckpt_s"),
    (["--last", "0"], "--last=0 should be at least 1"),
    (["--steps", "10", "25", "50"], "no checkpoint of 25, 50; .* 10, 20, 30, 40"),
    (["--last", "2", "--to", "{w}"], "--to={w} exists"),
    (["--workdir", "nope", "--last", "1"], "--workdir=nope does not exist"),
  ],
)  # fmt: skip
def test_bad_input(workdir, capsys, args, message):
  w = str(workdir)
  args = [a.replace("{w}", w) for a in args]
  assert average.main(["--workdir", w, *args]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert re.search(message.replace("{w}", w), line)


def test_checkpoints_of_different_models(workdir, capsys):
  manager = checkpoints.CheckpointManager()
  other = {"params": {**tree(1), "t": np.zeros(2, np.float32)}}
  checkpoints.save_checkpoint_ts(manager, other, f"{workdir}/checkpoint.bv", 50)
  manager.close()
  assert average.main(["--workdir", str(workdir), "--last", "2"]) == 1
  assert "only one of them has t (" in capsys.readouterr().err
  args = ["--workdir", str(workdir), "--last", "1", "--params", "ema"]
  assert average.main(args) == 1
  assert "has no average of the parameters" in capsys.readouterr().err
