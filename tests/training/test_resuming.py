"""Runs that go on after damage, a full disk, a kill at a bad moment."""

import dataclasses
import errno
import os
import pathlib
import shutil
import sys
import types

import jax
import numpy as np
import pytest

import toy
from big_vision import (
  checkpoint_checksums,
  checkpoints,
  cutmix,
  disk_space,
  metrics,
)
from big_vision.training import console, hosts, loop, resuming

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module", autouse=True)
def evaluator():
  """Measures `score`, a value of the state."""

  class Evaluator:
    def __init__(self, predict_fn, batch_size, devices):
      pass

    def run(self, state):
      yield "score", jax.device_get(state["params"]["head"]["bias"])[0]

  module = types.ModuleType("bvbias")
  module.API, module.Evaluator = "jit", Evaluator
  sys.modules["bvbias"] = module
  yield
  del sys.modules["bvbias"]


def run(workdir, **kw):
  """8 steps; steps 3 and 6 are kept, all others are replaced by the next."""
  evals = dict(val=dict(type="bvbias", log_steps=3))
  default = dict(ckpt_steps=1, keep_ckpt_steps=3, evals=evals)
  setup = toy.setup(toy.config(**(default | kw)), workdir)
  os.makedirs(workdir, exist_ok=True)
  try:
    return loop.run(setup, toy.make(predict_fns={"predict": len}))
  finally:
    setup.writer.close()


NAMES = ("training_loss", "l2_params", "l2_grads")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The workdir of a run without trouble, and its last parameters."""
  workdir = tmp_path_factory.mktemp("whole")
  state = run(workdir, keep_best="val/score")
  return workdir, jax.device_get(state["params"])


@pytest.fixture
def workdir(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path / "w")
  return tmp_path / "w"


@pytest.fixture
def said(monkeypatch):
  lines = []
  monkeypatch.setattr(console, "note", lines.append)
  return lines


def check_same(whole, workdir, state):
  """The run has become the one without trouble."""
  for a, b in zip(
    jax.tree.leaves(whole[1]), jax.tree.leaves(state["params"]), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  assert toy.numbers(workdir, NAMES) == toy.numbers(whole[0], NAMES)
  of = lambda folder: {
    row["step"]: row["val/score"]
    for row in metrics.read_rows(f"{folder}/big_vision_metrics.txt")
    if "val/score" in row
  }
  assert of(workdir) == of(whole[0])


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def empty(path):
  shutil.rmtree(path.parents[1])
  path.parents[1].mkdir()


def without_moments(path):
  for folder in path.parents[1].glob("opt~*"):
    shutil.rmtree(folder)


DAMAGES = {
  "flipped": flip,
  "cut": lambda path: os.truncate(path, 9),
  "missing": pathlib.Path.unlink,
  "no metadata": lambda path: (path.parent / ".zarray").unlink(),
  "no checksums": lambda path: (path.parent / ".zattrs").write_text(""),
  "empty": empty,
  "one array less": lambda path: shutil.rmtree(path.parent),
  "many arrays less": without_moments,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_goes_on_from_an_earlier_checkpoint(whole, workdir, said, damage):
  last = workdir / "checkpoint.bv-000000008"
  DAMAGES[damage](last / "params~head~kernel" / "0.0")
  state = run(workdir)
  check_same(whole, workdir, state)
  (line,) = [x for x in said if "Continuing from" in x]
  assert f"{last}" in line and "000000006 instead" in line and "\n" not in line
  assert (workdir / "checkpoint.bv-LAST").read_text() == "000000008"
  checkpoints.load_checkpoint_ts(f"{workdir}/checkpoint.bv")  # It is sound.


def test_an_average_that_is_lost(tmp_path, said):
  """It does not begin anew, as that of a run which gets one on its way does."""
  kw = dict(ema_decay=0.5, total_steps=6)
  want = jax.device_get(run(tmp_path, **kw)["params_ema"])
  for folder in tmp_path.glob("checkpoint.bv-000000006/params_ema~*"):
    shutil.rmtree(folder)
  got = run(tmp_path, **kw)["params_ema"]
  jax.tree.map(np.testing.assert_array_equal, got, want)
  (line,) = [x for x in said if "Continuing from" in x]
  assert "params_ema~head~bias' is damaged: it is missing (and 3 more" in line


def test_several_are_damaged(whole, workdir, said):
  for step in (6, 8):
    flip(workdir / f"checkpoint.bv-00000000{step}" / "params~head~bias" / "0")
  (best,) = workdir.glob("best.bv-0*")  # This one is not.
  state = run(workdir)
  check_same(whole, workdir, state)
  (line,) = [x for x in said if "Continuing from" in x]
  assert f"from {best} instead" in line or "000000003 instead" in line
  assert [x for x in said if "000000006/params~head~bias/0" in x]


def test_the_one_to_go_on_from_is_not_removed(workdir, monkeypatch):
  """LAST names a damaged one, and a kill has left an older temporary one."""
  shutil.rmtree(workdir / "checkpoint.bv-000000006")
  shutil.rmtree(workdir / "checkpoint.bv-000000003")
  for best in workdir.glob("best*"):
    shutil.rmtree(best) if best.is_dir() else best.unlink()
  good = workdir / "checkpoint.bv-000000007-tmp"
  run(workdir / "other", total_steps=7, keep_ckpt_steps=9)
  shutil.copytree(workdir / "other" / "checkpoint.bv-000000007", good)
  flip(workdir / "checkpoint.bv-000000008" / "params~head~bias" / "0")

  def killed(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as m:
    m.setattr(checkpoints, "save_checkpoint_ts", killed)
    with pytest.raises(KeyboardInterrupt):
      run(workdir)
  assert good.is_dir()
  assert (workdir / "checkpoint.bv-LAST").read_text() == "000000007-tmp"


def test_all_are_damaged(workdir):
  for best in workdir.glob("best*"):
    shutil.rmtree(best) if best.is_dir() else best.unlink()
  before = sorted(os.listdir(workdir))
  for step in (3, 6, 8):
    flip(workdir / f"checkpoint.bv-00000000{step}" / "params~head~bias" / "0")
  with pytest.raises(
    checkpoint_checksums.Damaged,
    match=r"000000008/params~head~bias/0' is damaged.*no other complete",
  ):
    run(workdir)
  assert sorted(os.listdir(workdir)) == before


def test_what_was_asked_for_is_not_replaced(whole, workdir, tmp_path):
  asked = workdir / "checkpoint.bv-000000006"
  flip(asked / "params~head~bias" / "0")
  with pytest.raises(checkpoint_checksums.Damaged, match="000000006/params"):
    run(tmp_path / "new", resume=str(asked))
  # The newest of a run may be replaced.
  flip(workdir / "checkpoint.bv-000000008" / "params~head~bias" / "0")
  state = run(tmp_path / "new", resume=f"{workdir}/checkpoint.bv")
  for a, b in zip(
    jax.tree.leaves(whole[1]), jax.tree.leaves(state["params"]), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_full_disk(whole, tmp_path, monkeypatch):
  """One error with the path; later the same command goes on, to the same bits."""
  collect, saves = checkpoint_checksums.collect, []

  def full(folder):
    saves.append(folder)
    if len(saves) == 5:
      raise OSError(errno.ENOSPC, "No space left on device")
    collect(folder)

  with monkeypatch.context() as m:
    m.setattr(checkpoint_checksums, "collect", full)
    with pytest.raises(
      disk_space.WriteError, match="000000005-tmp.* MB are free"
    ):
      run(tmp_path / "w")
  assert (tmp_path / "w/checkpoint.bv-LAST").read_text() == "000000004-tmp"
  assert not list((tmp_path / "w").glob("*.partial"))
  check_same(whole, tmp_path / "w", run(tmp_path / "w"))


def test_kill_between_a_checkpoint_and_its_evaluation(
  whole, tmp_path, monkeypatch
):
  measure = loop._Evaluators.measure

  def kill(self, *args):
    if self._setup.writer.step == 6:
      raise KeyboardInterrupt
    measure(self, *args)

  with monkeypatch.context() as m:
    m.setattr(loop._Evaluators, "measure", kill)
    # Else `close` would write the line, as it does after an error.
    m.setattr(metrics.BigVisionMetricWriter, "close", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "w", keep_best="val/score")
  assert (tmp_path / "w/checkpoint.bv-LAST").read_text() == "000000006"
  assert max(toy.rows(tmp_path / "w")) <= 5
  state = run(tmp_path / "w", keep_best="val/score")
  check_same(whole, tmp_path / "w", state)
  for name in ("best.bv-LAST", "best.bv.json"):
    assert (tmp_path / "w" / name).read_text() == (whole[0] / name).read_text()


def test_kill_before_the_last_evaluation(whole, tmp_path, monkeypatch):
  """The last line of the last step has what was measured before and after."""

  def kill(self, *args):
    raise KeyboardInterrupt

  with monkeypatch.context() as m:
    m.setattr(loop._Evaluators, "measure", kill)
    with pytest.raises(KeyboardInterrupt):
      run(
        tmp_path / "w",
        evals=dict(val=dict(type="bvbias", log_steps=100, skip_first=True)),
      )
  assert (tmp_path / "w/checkpoint.bv-LAST").read_text().startswith("000000008")
  run(tmp_path / "w")
  last = metrics.read_rows(f"{tmp_path}/w/big_vision_metrics.txt")[-1]
  want = metrics.read_rows(f"{whole[0]}/big_vision_metrics.txt")[-1]
  assert last["step"] == want["step"] == 8
  for name in (*NAMES, "val/score"):
    assert last[name] == want[name]


@pytest.mark.multidevice
def test_pairs_of_mixup_on_other_devices(tmp_path):
  """A run mixes within the parts that it has begun with; so does what resumes it."""

  def train(workdir, num_devices, known=True, **kw):
    config = toy.config(
      mixup=dict(p=1.0), keep_ckpt_steps=4, ckpt_steps=4, **kw
    )
    os.makedirs(workdir, exist_ok=True)
    setup = toy.setup(config, workdir, jax.devices()[:num_devices])
    if known:
      begun = resuming.started_on(setup)
      setup = dataclasses.replace(setup, started_on=begun)
    augment = cutmix.make_augment(config, setup.mix_parts)
    try:
      loop.run(setup, toy.make(augment=augment))
    finally:
      setup.writer.close()
    rows = toy.rows(workdir)
    return [rows[step]["training_loss"] for step in range(5, 9)]

  want = train(tmp_path / "on4", 4)
  middle = str(tmp_path / "on4/checkpoint.bv-000000004")
  for num in (1, 2, 8):
    got = train(tmp_path / f"on{num}", num, resume=middle)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    # Also if it is stopped again: its own workdir says so.
    assert (tmp_path / f"on{num}/num_devices.txt").read_text() == "4"
  other = train(tmp_path / "other", 2, known=False, resume=middle)
  assert abs(other[0] / want[0] - 1) > 1e-3


def test_a_start_that_has_left_no_checkpoint(tmp_path):
  """The run begins with the next one, on the devices of that."""
  (tmp_path / "num_devices.txt").write_text("4")
  run(tmp_path)
  assert (tmp_path / "num_devices.txt").read_text() == "1"


def test_how_a_run_has_begun(tmp_path):
  """Of a run of an earlier version, or without a checkpoint, nothing is known."""
  of = lambda **kw: resuming.started_on(toy.setup(toy.config(**kw), tmp_path))
  assert of() == 0
  assert of(resume=str(tmp_path / "nothing")) == 0
  run(tmp_path)
  assert of() == 1
  for content in (b"", b"x", b"-3", b"\xff\xfe"):
    (tmp_path / "num_devices.txt").write_bytes(content)
    assert of() == 0
  (tmp_path / "num_devices.txt").unlink()
  assert of() == 0
  setup = toy.setup(toy.config(), devices=jax.devices()[:2])
  parts = lambda n: dataclasses.replace(setup, started_on=n).mix_parts
  assert [parts(n) for n in (0, 4, 3)] == [2, 4, 2]  # 3 do not divide 16.
  of = lambda **kw: toy.setup(toy.config(**kw), devices=jax.devices()[:2])
  assert of(deterministic_reductions=True).mix_parts == 2
  assert of(deterministic_reductions=8).mix_parts == 8
  assert of(mixup=dict(p=0.5, num_shards=1)).mix_parts == 1


def test_problems_of_any_process(monkeypatch):
  assert hosts.first_problem("") == "" and hosts.first_problem("x") == "x"
  from jax.experimental import multihost_utils

  other = np.zeros(2000, np.uint8)
  other[:4] = np.frombuffer("zwö".encode(), np.uint8)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  gather = lambda own: np.stack([own, other])
  monkeypatch.setattr(multihost_utils, "process_allgather", gather)
  assert hosts.first_problem("") == "zwö"
  assert hosts.first_problem("ü" * 1500) == "ü" * 1000
