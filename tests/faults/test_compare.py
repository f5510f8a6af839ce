"""Comparison of workdirs that are written here."""

import json

import numpy as np
import pytest

from big_vision import checkpoints
from big_vision.faults import compare, runner, schedule

STATE = {
  "params": {"w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)},
  "opt": {"count": np.int32(4)},
}
ROWS = [{"step": i, "training_loss": 1 / i, "uptime": 7.0 * i} for i in (1, 2)]


def write(folder, state=STATE, rows=ROWS, more="", step=2):
  folder.mkdir(exist_ok=True)
  manager = checkpoints.CheckpointManager()
  tree = {**state, "chrono": {"accum_train_time": np.float64(folder.name[-1])}}
  checkpoints.save_checkpoint_ts(manager, tree, f"{folder}/checkpoint.bv", step)
  manager.close()
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "big_vision_metrics.txt").write_text(lines + more)
  return str(folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
  return write(tmp_path_factory.mktemp("runs") / "run1")


def test_the_same(reference, tmp_path):
  """Clocks differ, and a step was repeated: its last row counts."""
  rows = [dict(ROWS[1], training_loss=9.0), ROWS[0], dict(ROWS[1], uptime=0.5)]
  found = compare.runs(write(tmp_path / "run2", rows=rows), reference)
  assert found.nothing and found.within(0.0)


def test_the_last_bit(reference, tmp_path):
  w = STATE["params"]["w"].copy()
  w[1, 2] = np.nextafter(w[1, 2], np.float32(2))
  state = STATE | {"params": {"w": w}}
  found = compare.runs(write(tmp_path / "run2", state), reference)
  assert found.leaves == ("params/w",) and found.values == 1
  assert found.largest == np.float32(2**-23)
  assert not found.nothing and found.within(1e-6) and not found.within(1e-8)


def test_the_sign_of_zero(reference, tmp_path):
  state = {"params": {"w": np.zeros(3, np.float32)}, "opt": STATE["opt"]}
  other = {"params": {"w": -np.zeros(3, np.float32)}, "opt": STATE["opt"]}
  a, b = write(tmp_path / "run2", state), write(tmp_path / "run3", other)
  assert compare.runs(a, b).leaves == ("params/w",)


def test_other_leaves(reference, tmp_path):
  state = STATE | {"params": {"v": STATE["params"]["w"]}}
  found = compare.runs(write(tmp_path / "run2", state), reference)
  assert found.leaves == ("params/v", "params/w")
  assert not found.within(1.0)


def test_what_rounding_or_devices_decide(reference, tmp_path):
  """It differs, but says nothing about how far the runs are apart."""
  of = lambda x: {"params": {"attention": {"key": {"bias": np.float32([x])}}}}
  rows = [dict(ROWS[0], **{"train/local_loss": 1.0})]
  other = [dict(ROWS[0], **{"train/local_loss": 2.0})]
  found = compare.runs(
    write(tmp_path / "run2", of(1), rows),
    write(tmp_path / "run3", of(-1), other),
  )
  assert found.leaves == ("params/attention/key/bias",)
  assert found.metrics == ((1, "train/local_loss"),)
  assert found.largest == found.largest_metric == 0 and not found.nothing


def test_gradients_may_differ_by_more(reference, tmp_path):
  of = lambda x: {"opt": {"m": np.float32([2, 1, x])}}
  rows = lambda x: [dict(ROWS[0], l2_grads=x)]
  found = compare.runs(
    write(tmp_path / "run2", of(1.001), rows(4.0)),
    write(tmp_path / "run3", of(1), rows(4.004)),
  )
  assert found.leaves == ("opt/m",)
  assert found.largest == pytest.approx(0.0005 / 100, rel=1e-3)
  assert found.largest_metric == pytest.approx(0.001 / 100, rel=1e-2)


def test_metrics(reference, tmp_path):
  rows = [dict(ROWS[0], training_loss=1.001), {"step": 3, "training_loss": 0.0}]
  found = compare.runs(
    write(tmp_path / "run2", rows=rows, more='{"step": 4, "tra'), reference
  )
  assert not found.leaves and found.torn == 1
  assert found.metrics == ((1, "training_loss"),)
  assert found.largest_metric == pytest.approx(0.001, rel=1e-2)
  assert found.missing == (("big_vision_metrics.txt", 2),)
  assert not found.within(1.0)


@pytest.mark.parametrize("kind", schedule.DAMAGES)
def test_damage(tmp_path, kind):
  """One file of the newest checkpoint is another one afterwards."""
  write(tmp_path, step=1)
  write(tmp_path, step=2)
  files = lambda: {
    str(p.relative_to(tmp_path)): p.read_bytes()
    for p in tmp_path.rglob("*")
    if p.is_file()
  }
  before = files()
  said = runner.damage(str(tmp_path), schedule.Damage(kind, (0.6, 0.4)))
  after = files()
  changed = {n for n, data in before.items() if after.get(n) != data}
  assert after.keys() <= before.keys() and len(changed) == 1
  (name,) = changed
  assert said == f"{kind}: {name}"
  assert name.startswith("checkpoint.bv-000000002")
  sizes = len(after.get(name, b"")), len(before[name])
  if kind == "flip":
    bits = np.unpackbits(np.frombuffer(after[name], np.uint8))
    old = np.unpackbits(np.frombuffer(before[name], np.uint8))
    assert np.sum(bits != old) == 1
  else:
    assert sizes[0] < sizes[1] and (name in after) == (kind == "truncate")


def test_damage_without_checkpoint(tmp_path):
  assert runner.damage(str(tmp_path), schedule.Damage("flip", (0, 0))) == ""
