"""The trainer end to end, started as a user starts it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import toy
from big_vision import train
from big_vision.training import cli

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]

ROOT = pathlib.Path(__file__).parent.parent
GOLDEN = ROOT / "tests/golden"


@pytest.fixture(scope="module")
def env(tfds_data_dir):
  """Environment of the runs: own data."""
  return {**os.environ, "TFDS_DATA_DIR": tfds_data_dir}


def command(workdir, *args):
  return [
    sys.executable, "-m", "big_vision.train",
    "--config", str(GOLDEN / "train_digits.py"), "--workdir", str(workdir),
    *args,
  ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(env, tmp_path_factory):
  """Workdir and log of a run to the end."""
  workdir = tmp_path_factory.mktemp("run") / "w"
  done = subprocess.run(
    command(workdir), cwd=ROOT, env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-4000:]
  return workdir, done.stderr


def test_curves_are_the_recorded_ones(finished):
  rows = toy.rows(finished[0])
  golden = np.load(GOLDEN / "train_digits.npz")
  for name in golden.files:
    if "#" in name:
      continue
    steps = golden[f"{name}#steps"]
    assert [s for s in sorted(rows) if name in rows[s]] == list(steps), name
    got = np.array([rows[s][name] for s in steps])
    diff = np.abs(got - golden[name])
    assert (diff <= golden[f"{name}#tol"]).all(), (name, diff.max())


def test_what_a_run_leaves(finished):
  workdir, log = finished
  names = set(os.listdir(workdir))
  assert {
    "config.json", "big_vision_metrics.txt", "checkpoint.bv-LAST",
    "checkpoint.bv-000000060",
  } <= names  # fmt: skip
  assert not [n for n in names if n.endswith("-tmp")]
  assert any(n.startswith("events.out.tfevents") for n in names)
  with open(workdir / "config.json", encoding="utf-8") as f:
    assert json.load(f)["model"]["width"] == 64
  first = toy.rows(workdir, "big_vision_initial_metrics.txt")[0]
  assert abs(first["val/loss"] - np.log(10)) < 1e-5  # Zero-initialised head.
  assert "step 60/60" in log and "Done!" in log
  table = log[log.index("Final metrics") :]
  assert "val/prec@1" in table and str(workdir) in table


@pytest.mark.parametrize(
  "at", [1, pytest.param(13, marks=pytest.mark.slow), 33]
)
def test_killed_and_started_again(finished, env, tmp_path, at):
  """SIGKILL some time after step `at`; the result is the same, bit for bit."""
  workdir = tmp_path / "w"
  p = subprocess.Popen(
    command(workdir), cwd=ROOT, env=env,
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
  )  # fmt: skip
  metrics = workdir / "big_vision_metrics.txt"
  deadline = time.time() + 120
  while time.time() < deadline and p.poll() is None:
    if metrics.exists() and metrics.read_text().count("\n") >= at:
      break
    time.sleep(0.01)
  p.send_signal(signal.SIGKILL)
  assert p.wait() == -signal.SIGKILL
  done = subprocess.run(
    command(workdir), cwd=ROOT, env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-4000:]
  want, got = toy.rows(finished[0]), toy.rows(workdir)
  names = "training_loss", "l2_params", "l2_grads", "val/loss", "val/prec@1"
  for step in want:
    for name in names:
      assert want[step].get(name) == got[step].get(name), (step, name)
  assert not [n for n in os.listdir(workdir) if n.endswith("-tmp")]


def test_two_runs_in_one_workdir(env, tmp_path):
  """The second is refused while the first one is at work."""
  from big_vision import workdir as workdir_lib

  lock = workdir_lib.lock(str(tmp_path))
  done = subprocess.run(
    command(tmp_path), cwd=ROOT, env=env, capture_output=True, text=True
  )
  lock.release()
  assert done.returncode != 0
  assert str(tmp_path) in done.stderr and "Another run" in done.stderr


# In this process, on eight devices.


def config(**kw):
  """Few steps of a tiny ViT."""
  import importlib.util

  spec = importlib.util.spec_from_file_location(
    "train_digits", GOLDEN / "train_digits.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  c = module.get_config()
  c.total_steps = 3
  c.schedule.warmup_steps = 1
  c.model.update(width=16, depth=1, mlp_dim=16, num_heads=2)
  for key, value in kw.items():
    node = c
    *path, last = key.split(".")
    for p in path:
      node = node[p]
    with c.unlocked():
      node[last] = value
  return c


@pytest.mark.multidevice
def test_mixup_dropout_scan_fsdp(tfds_data_dir, tmp_path):
  """Options together; a second run of the same seed gives the same numbers."""
  c = config(mixup=dict(p=0.5), sharding_strategy=[(".*", "fsdp('data', 0)")])
  c.model.update(scan=True, dropout=0.1)
  for w in "ab":
    cli.train(train.build, c, str(tmp_path / w))
  a, b = toy.numbers(tmp_path / "a"), toy.numbers(tmp_path / "b")
  assert a == b and len(a) == 3
  c.seed = 1
  cli.train(train.build, c, str(tmp_path / "c"))
  assert toy.numbers(tmp_path / "c") != a


def test_bfloat16_compute(tfds_data_dir, tmp_path):
  c = config()
  c.model.dtype_mm = "bfloat16"
  state = cli.train(train.build, c, str(tmp_path / "w"))
  assert state["params"]["head"]["kernel"].dtype == "float32"
  assert state["params"]["pos_embedding"].dtype == "bfloat16"
  assert np.isfinite(list(toy.numbers(tmp_path / "w").values())).all()


def test_precision(tfds_data_dir, tmp_path):
  c = config(precision="bfloat16")
  state = cli.train(train.build, c, str(tmp_path / "w"))
  assert {x.dtype.name for x in jax.tree.leaves(state["params"])} == {"float32"}
  low = toy.numbers(tmp_path / "w")
  assert np.isfinite(list(low.values())).all()
  # Nearly the numbers of float32, and not the same.
  exact = cli.train(train.build, config(), str(tmp_path / "x"))
  for a, b in zip(*map(jax.tree.leaves, (state, exact)), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
  numbers = toy.numbers(tmp_path / "x")
  np.testing.assert_allclose(
    list(low.values()), list(numbers.values()), rtol=0.05
  )
  assert low != numbers
  # It goes on in float32 only if that is asked for.
  with pytest.raises(ValueError, match='config.precision = "bfloat16"'):
    cli.train(train.build, config(), str(tmp_path / "w"))


def test_start_from_weights(tfds_data_dir, tmp_path, finished):
  """All but the head from a checkpoint; evaluation only."""
  c = config(total_steps=0, model_init=f"{finished[0]}/checkpoint.bv")
  c.model = dict(
    patch_size=(2, 2), width=64, depth=2, mlp_dim=128, num_heads=4,
    posemb="learn", pool_type="gap", rep_size=False,
  )  # fmt: skip
  state = cli.train(train.build, c, str(tmp_path / "w"))
  got = toy.rows(tmp_path / "w")[0]
  want = toy.rows(finished[0])[60]
  np.testing.assert_allclose(got["val/loss"], want["val/loss"], rtol=1e-5)
  assert got["val/prec@1"] == want["val/prec@1"]

  with c.unlocked():
    c.model_load = dict(dont_load=["head/.*"])
  new_head = cli.train(train.build, c, str(tmp_path / "n"))
  assert not np.asarray(new_head["params"]["head"]["kernel"]).any()
  same = lambda s: np.asarray(s["params"]["embedding"]["kernel"])
  np.testing.assert_array_equal(same(state), same(new_head))


def test_head_bias_and_frozen_everything(tfds_data_dir, tmp_path):
  c = config(init_head_bias=-2.5, schedule=None)
  state = cli.train(train.build, c, str(tmp_path / "w"))
  np.testing.assert_array_equal(state["params"]["head"]["bias"], -2.5)
  assert toy.rows(tmp_path / "w")[3]["l2_updates"] == 0.0


def test_cleanup(tfds_data_dir, tmp_path):
  cli.train(train.build, config(), str(tmp_path / "d/w"), cleanup=True)
  assert not (tmp_path / "d").exists()


def test_no_workdir(tfds_data_dir):
  assert set(cli.train(train.build, config())) == {"params", "opt"}


@pytest.mark.parametrize(
  "kw, message",
  [
    ({"model_name": "vti"}, r"config.model_name: unknown model 'vti'.*vit"),
    ({"model.variant": "Q/16"}, r"config.model"),
    ({"model.widht": 3}, r"config.model.*widht"),
    ({"input.pp": "decod"}, r"config.input.pp.*decod.*decode"),
    ({"input.pp": "decode(chanels=1)"}, r"config.input.pp.*chanels"),
    ({"input.pp": "decode(1"}, r"config.input.pp"),
    ({"input.data.name": "digitz"}, r"digitz.*digits"),
    ({"input.data.split": "training"}, r"training.*train"),
    ({"input.batch_siz": 3}, r"batch_siz.*batch_size"),
    ({"input.batch_size": 63}, r"batch_size=63"),
    ({"evals.val.type": "clasification"}, r"evals.val.*classification"),
    ({"evals.val.loss_nam": "x"}, r"evals.val.*loss_nam.*loss_name"),
    ({"evals.val.pp_fn": "nope"}, r"evals.val.*nope"),
    ({"evals.val.data.split": "tst"}, r"evals.val.*tst.*test"),
    ({"evals.val.pred": "predct"}, r"evals.val.*predct.*predict"),
    ({"schedule.warmup_step": 3}, r"warmup_step.*warmup_steps"),
    ({"optax_name": "scale_by_adan_"}, r"optax_name"),
    ({"pp_modules": ["ops_genral"]}, r"pp_modules.*ops_general"),
    ({"log_training_stesp": 5}, r"log_training_stesp.*log_training_steps"),
  ],
)
def test_bad_configs(tfds_data_dir, tmp_path, kw, message):
  """One clear error that names the key and the remedy; nothing is trained."""
  with pytest.raises((ValueError, KeyError), match=message):
    cli.train(train.build, config(**kw), str(tmp_path / "w"))
  assert not (tmp_path / "w/big_vision_metrics.txt").exists()
