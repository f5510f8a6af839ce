"""Checkpoints of the best steps, by a metric."""

import json
import os
import sys
import types

import jax
import numpy as np
import pytest

import toy
from big_vision import checkpoints
from big_vision.training import best, loop

pytestmark = pytest.mark.usefixtures("quick_compilation")

VALUES = {2: 0.3, 4: 0.9, 6: 0.9, 8: float("nan"), 10: 0.5, 12: 0.8}


@pytest.fixture
def evaluator(monkeypatch):
  """Measures `score` every other step, 1 - `score` as `loss`."""

  class Evaluator:
    def __init__(self, predict_fn, batch_size, devices, get_step):
      self.get_step = get_step

    def run(self, state):
      yield "score", VALUES[self.get_step()]
      yield "loss", 1 - VALUES[self.get_step()]

  module = types.ModuleType("bvscores")
  module.API, module.Evaluator = "jit", Evaluator
  monkeypatch.setitem(sys.modules, "bvscores", module)


def config(**kw):
  evals = dict(val=dict(type="bvscores", log_steps=2, skip_first=True))
  return toy.config(**{"total_steps": 12, "evals": evals, **kw})


def run(workdir, stop=None, **kw):
  """Trains; the data ends before the step `stop`."""
  os.makedirs(workdir, exist_ok=True)

  def batch(step, size):
    if step + 1 == stop:
      raise KeyboardInterrupt
    return toy.batch(step, size)

  setup = toy.setup(config(**kw), workdir, batch_fn=batch)
  try:
    return loop.run(setup, toy.make(predict_fns={"predict": len}))
  finally:
    setup.writer.close()


def kept(workdir):
  names = [n for n in os.listdir(workdir) if n.startswith("best.bv-0")]
  return sorted(int(n.removeprefix("best.bv-")) for n in names)


@pytest.mark.parametrize(
  "wanted,steps,first",
  [
    ("val/score", [4], 4),  # The first of equal ones; NaN is not the best.
    ("val/loss", [4], 4),
    (dict(metric="val/score", mode="min"), [2], 2),
    (dict(metric="val/score", num=3), [4, 6, 12], 4),
    (dict(metric="val/loss", num=2, mode="max"), [2, 10], 2),
  ],
)
def test_the_best_are_kept(evaluator, tmp_path, wanted, steps, first):
  run(tmp_path, keep_best=wanted)
  assert kept(tmp_path) == steps
  last = (tmp_path / "best.bv-LAST").read_text()
  assert int(last) == first
  stored = json.loads((tmp_path / "best.bv.json").read_text())
  loss = stored["metric"] == "val/loss"
  values = {s: 1 - VALUES[s] if loss else VALUES[s] for s in steps}
  assert {int(k): v for k, v in stored["values"].items()} == values
  assert (tmp_path / "checkpoint.bv-LAST").read_text() == "000000012"


def test_steps_without_evaluation_are_not_ranked(
  evaluator, tmp_path, monkeypatch
):
  """Hosts agree on each ranking, which would hold up every step."""
  steps, improves = [], best.Best.improves

  def spy(self, writer):
    steps.append(writer.step)
    return improves(self, writer)

  monkeypatch.setattr(best.Best, "improves", spy)
  run(tmp_path, keep_best="val/score")
  assert steps == sorted(VALUES)


def test_they_are_usual_checkpoints(evaluator, tmp_path):
  run(tmp_path / "a", keep_best="val/score")
  want = run(tmp_path / "b", total_steps=12)
  got = run(tmp_path / "c", resume=str(tmp_path / "a/best.bv"))
  jax.tree.map(np.testing.assert_array_equal, got, want)
  params = checkpoints.load_params(f"{tmp_path}/a/best.bv")
  again = checkpoints.load_params(f"{tmp_path}/a/best.bv-000000004")
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_a_run_that_was_interrupted(evaluator, tmp_path):
  """What comes after the last usual checkpoint is made and ranked again."""
  wanted = dict(metric="val/score", num=2)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, stop=8, keep_best=wanted, ckpt_steps=5)
  assert kept(tmp_path) == [4, 6]
  os.makedirs(tmp_path / "best.bv-000000006.partial")
  run(tmp_path, keep_best=wanted, ckpt_steps=5)
  assert kept(tmp_path) == [4, 6]
  assert not [n for n in os.listdir(tmp_path) if n.endswith(".partial")]
  # Another metric starts anew.
  run(tmp_path, keep_best="val/loss", total_steps=12)
  assert kept(tmp_path) == [4, 6]


def test_killed_before_the_last_evaluation(evaluator, tmp_path, monkeypatch):
  """What the next start measures is ranked; another start has nothing to add."""
  wanted = dict(metric="val/score", num=2, mode="max")
  monkeypatch.setitem(VALUES, 12, KeyboardInterrupt)
  get_value, kill = VALUES.__getitem__, KeyboardInterrupt

  class Values(dict):
    def __getitem__(self, step):
      if get_value(step) is kill:
        raise kill
      return get_value(step)

  monkeypatch.setitem(globals(), "VALUES", Values(VALUES))
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, keep_best=wanted)
  assert kept(tmp_path) == [4, 6]
  monkeypatch.setitem(globals(), "VALUES", VALUES | {12: 0.95})
  run(tmp_path, keep_best=wanted)
  assert kept(tmp_path) == [4, 12]
  monkeypatch.setattr(best.Best, "save", None)
  run(tmp_path, keep_best=wanted)


def test_nothing_without_a_workdir():
  assert best.start(config(keep_best="val/score"), None, 0) is None
  assert best.start(config(), "w", 0) is None


@pytest.mark.parametrize(
  "wanted,message",
  [
    ("score", r"keep_best: none of config\.evals measures 'score'.*val/"),
    (3, r"keep_best=3 should be the name of a metric, for example"),
    (dict(metric="val/score", mode="up"), r"keep_best\.mode='up' should be"),
    (dict(metric="val/score", num=0), r"keep_best\.num=0 should be"),
    (dict(num=2), r"keep_best\.metric=None should be the name"),
    (dict(metric="val/score", nun=2), r"keep_best\.nun.*[Dd]id you mean 'num'"),
  ],
)
def test_bad_input(wanted, message):
  with pytest.raises(ValueError, match=message):
    best.settings(config(keep_best=wanted))


def test_a_metric_that_the_evaluator_lacks(evaluator, tmp_path):
  with pytest.raises(ValueError, match=r"keep_best.*Did you mean 'val/score'"):
    run(tmp_path, keep_best="val/scores")
