"""The loop: what is logged, kept, resumed and refused."""

import os
import re
import signal
import sys
import types

import jax
import numpy as np
import pytest

import toy
from big_vision import checkpoints
from big_vision.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")


def run(workdir, devices=None, recipe=None, batch_fn=toy.batch, **kw):
  setup = toy.setup(toy.config(**kw), workdir, devices, batch_fn)
  try:
    return loop.run(setup, recipe or toy.make())
  finally:
    setup.writer.close()


def test_metrics_of_a_run(tmp_path):
  os.makedirs(tmp_path / "w")
  run(tmp_path / "w", log_training_steps=4)
  rows = toy.rows(tmp_path / "w")
  # The clock warms up for two steps; then every fourth, and the last.
  assert sorted(rows) == [1, 2, 4, 8]
  assert rows[1]["examples_seen"] == 16 and rows[8]["progress"] == 1.0
  assert rows[4]["epoch"] == 1.0
  # Warm-up over two steps: multiplier 0 at the first, 1/2 at the second.
  assert rows[1]["global_schedule"] == 0.0
  cos = 0.5 * (1 + np.cos(0.0))
  np.testing.assert_allclose(rows[2]["global_schedule"], 0.5 * cos, rtol=1e-6)
  assert rows[1]["l2_updates"] == 0.0 and rows[2]["l2_updates"] > 0
  assert rows[8]["training_loss"] < rows[1]["training_loss"]
  assert "abs_error" in rows[4] and "core_hours" in rows[8]
  assert "z/secs/update0" in rows[1] and "z/secs/update0" not in rows[2]
  first = toy.rows(tmp_path / "w", "big_vision_initial_metrics.txt")
  n = 6 * 16 + 16 + 16 * 3 + 3
  assert first == {0: {"step": 0, "num_params": n}}


def test_measurements_are_what_they_say(tmp_path):
  """Step 1 by hand: warm-up multiplier 0, so parameters do not move."""
  os.makedirs(tmp_path / "w")
  run(tmp_path / "w", total_steps=1, schedule=dict(decay_type="linear"))
  row = toy.rows(tmp_path / "w")[1]
  from big_vision.training import state as state_lib

  params = toy.init(state_lib.seed_keys(0)[0], toy.batch(0, 16))
  (loss, _), grads = jax.value_and_grad(toy.loss_fn, has_aux=True)(
    params, toy.batch(0, 16), None, None
  )
  norm = lambda t: np.sqrt(
    sum(np.sum(np.square(np.float64(x))) for x in jax.tree.leaves(t))
  )
  np.testing.assert_allclose(row["training_loss"], loss, rtol=1e-5)
  np.testing.assert_allclose(row["l2_grads"], norm(grads), rtol=1e-5)
  # Adam's first update is sign(g) of the clipped gradient (plus decay).
  clipped = jax.tree.map(lambda g: g / max(norm(grads), 1.0), grads)
  step = lambda g: np.float64(g) / (np.abs(np.float64(g)) + 1e-8)
  decay = {
    k: {n: 1e-3 * np.float64(x) * (n == "kernel") for n, x in v.items()}
    for k, v in params.items()
  }
  updates = jax.tree.map(lambda g, d: -(0.05 * step(g) + d), clipped, decay)
  np.testing.assert_allclose(row["l2_updates"], norm(updates), rtol=1e-4)
  new = jax.tree.map(lambda p, u: p + u, params, updates)
  np.testing.assert_allclose(row["l2_params"], norm(new), rtol=1e-5)


def test_checkpoints_kept_and_dropped(tmp_path):
  """The example of the specification: 6 steps, every 2, keep every 4."""
  os.makedirs(tmp_path / "w")
  run(tmp_path / "w", total_steps=6, ckpt_steps=2, keep_ckpt_steps=4)
  names = {f for f in os.listdir(tmp_path / "w") if "checkpoint" in f}
  assert names == {
    "checkpoint.bv-000000004", "checkpoint.bv-000000006", "checkpoint.bv-LAST",
  }  # fmt: skip
  assert (tmp_path / "w/checkpoint.bv-LAST").read_text() == "000000006"


def test_checkpoints_stay_in_the_workdir_of_a_run_with_evaluators(
  tmp_path, monkeypatch, caplog
):
  caplog.set_level("INFO", logger="absl")

  class Evaluator:
    def __init__(self, predict_fn, batch_size, devices):
      pass

    def run(self, state):
      yield "count", 1.0

  module = types.ModuleType("bvcounts")
  module.API, module.Evaluator = "jit", Evaluator
  monkeypatch.setitem(sys.modules, "bvcounts", module)
  for folder in ("w", "here"):
    os.makedirs(tmp_path / folder)
  monkeypatch.chdir(tmp_path / "here")
  evals = dict(val=dict(type="bvcounts", log_steps=1))
  recipe = toy.make(predict_fns={"predict": len})
  run(tmp_path / "w", recipe=recipe, evals=evals, total_steps=3, ckpt_steps=2)
  names = {f for f in os.listdir(tmp_path / "w") if "checkpoint" in f}
  assert names == {"checkpoint.bv-000000003", "checkpoint.bv-LAST"}
  assert os.listdir() == []
  rows = toy.rows(tmp_path / "w")
  assert rows[1]["val/count"] == 1.0
  # The sum over the steps before, and the initial evaluation.
  assert 0 < rows[1]["z/secs/eval_total"] < rows[3]["z/secs/eval_total"]
  said = caplog.text
  assert re.search(r"Evaluation: \d+\.\d% of the run \(\ds of ", said)


@pytest.mark.parametrize("intervals", [{}, {"ckpt_steps": 0}])
def test_the_last_state_is_saved_without_being_asked_for(tmp_path, intervals):
  os.makedirs(tmp_path / "w")
  state = run(tmp_path / "w", **intervals)
  names = {f for f in os.listdir(tmp_path / "w") if "checkpoint" in f}
  assert names == {"checkpoint.bv-000000008", "checkpoint.bv-LAST"}
  params = checkpoints.load_params(str(tmp_path / "w/checkpoint.bv"))
  jax.tree.map(np.testing.assert_array_equal, params, state["params"])


def test_a_run_without_steps_saves_nothing(tmp_path):
  os.makedirs(tmp_path / "w")
  run(tmp_path / "w", total_steps=0)
  assert not [f for f in os.listdir(tmp_path / "w") if "checkpoint" in f]


class Crash(Exception):
  pass


def crash_at(step):
  def batch_fn(i, size):
    if i == step:
      raise Crash
    return toy.batch(i, size)

  return batch_fn


@pytest.mark.parametrize("crash", [1, 4, 5, 7])
def test_resume_gives_the_numbers_of_one_run(tmp_path, crash):
  for w in "ab":
    os.makedirs(tmp_path / w)
  want = run(tmp_path / "a", ckpt_steps=3)
  with pytest.raises(Crash):
    run(tmp_path / "b", batch_fn=crash_at(crash), ckpt_steps=3)
  got = run(tmp_path / "b", ckpt_steps=3)
  jax.tree.map(np.testing.assert_array_equal, want, got)
  assert toy.numbers(tmp_path / "a") == toy.numbers(tmp_path / "b")
  assert toy.rows(tmp_path / "b")[8]["examples_seen"] == 8 * 16


def test_resume_of_another_run(tmp_path):
  """`config.resume` continues someone else's checkpoint in a new workdir."""
  for w in "abc":
    os.makedirs(tmp_path / w)
  want = run(tmp_path / "a", keep_ckpt_steps=4)
  got = run(tmp_path / "b", resume=f"{tmp_path}/a/checkpoint.bv-000000004")
  jax.tree.map(np.testing.assert_array_equal, want, got)
  assert sorted(toy.rows(tmp_path / "b")) == [5, 6, 7, 8]


def test_finished_run_does_nothing_more(tmp_path):
  os.makedirs(tmp_path / "w")
  want = run(tmp_path / "w", ckpt_steps=4)
  before = toy.rows(tmp_path / "w")
  got = run(tmp_path / "w", ckpt_steps=4)
  jax.tree.map(np.testing.assert_array_equal, want, got)
  after = toy.rows(tmp_path / "w")
  assert {s: r["training_loss"] for s, r in before.items() if s < 8} == {
    s: r["training_loss"] for s, r in after.items() if s < 8
  }


def test_checkpoint_of_another_shape(tmp_path):
  os.makedirs(tmp_path / "w")
  run(tmp_path / "w", ckpt_steps=4)

  def narrow(rng, batch):
    params = toy.init(rng, batch)
    params["head"]["bias"] = np.zeros(1, np.float32)  # Fits by broadcasting.
    return params

  with pytest.raises(ValueError, match="params/head/bias"):
    run(tmp_path / "w", recipe=toy.make(init=narrow), ckpt_steps=4)


def test_not_finite_loss_stops_and_keeps_the_checkpoint(tmp_path):
  os.makedirs(tmp_path / "w")

  def batch_fn(i, size):
    batch = toy.batch(i, size)
    if i == 5:
      batch["image"] = batch["image"] * np.float32("nan")
    return batch

  # Seen at the checkpoint of step 6, before the next log.
  with pytest.raises(RuntimeError, match=r"training_loss is nan at step 6"):
    run(tmp_path / "w", batch_fn=batch_fn, ckpt_steps=2, log_training_steps=8)
  assert (tmp_path / "w/checkpoint.bv-LAST").read_text() == "000000004-tmp"
  tree = checkpoints.load_params(str(tmp_path / "w/checkpoint.bv"))
  assert np.isfinite(np.asarray(tree["head"]["kernel"])).all()


def test_sigterm_saves_and_stops(tmp_path):
  for w in "ab":
    os.makedirs(tmp_path / w)
  want = run(tmp_path / "a", ckpt_steps=100)

  def batch_fn(i, size):
    if i == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return toy.batch(i, size)

  with pytest.raises(loop.Preempted) as e:
    run(tmp_path / "b", batch_fn=batch_fn, ckpt_steps=100)
  assert e.value.code == 143
  assert (tmp_path / "b/checkpoint.bv-LAST").read_text() == "000000003-tmp"
  got = run(tmp_path / "b", ckpt_steps=100)
  jax.tree.map(np.testing.assert_array_equal, want, got)


def test_frozen_parameters_do_not_move(tmp_path):
  os.makedirs(tmp_path / "w")
  schedule = [("hidden/.*", None), (".*", dict(decay_type="cosine"))]
  state = run(tmp_path / "w", schedule=schedule)
  from big_vision.training import state as state_lib

  start = toy.init(state_lib.seed_keys(0)[0], toy.batch(0, 16))
  kernel = lambda tree, n: tree[n]["kernel"]
  same = lambda n: np.allclose(
    kernel(state["params"], n), kernel(start, n), atol=1e-6
  )
  assert same("hidden") and not same("head")


@pytest.mark.multidevice
@pytest.mark.parametrize("strategy", ["replicate", "fsdp('data', 0)"])
def test_many_devices_give_the_losses_of_one(tmp_path, strategy):
  for w in "ab":
    os.makedirs(tmp_path / w)
  run(tmp_path / "a")
  state = run(
    tmp_path / "b", devices=jax.devices(), sharding_strategy=[(".*", strategy)]
  )
  one, many = toy.numbers(tmp_path / "a"), toy.numbers(tmp_path / "b")
  assert sorted(one) == sorted(many) == list(range(1, 9))
  for step in one:
    np.testing.assert_allclose(one[step], many[step], rtol=2e-5)
  kernel = state["params"]["hidden"]["kernel"]
  shards = {s.data.shape for s in kernel.addressable_shards}
  assert shards == ({(6, 2)} if "fsdp" in strategy else {(6, 16)})


@pytest.mark.multidevice
def test_checkpoint_moves_between_shardings(tmp_path):
  """Saved from fsdp on 8 devices, continued on one."""
  for w in "ab":
    os.makedirs(tmp_path / w)
  fsdp = dict(sharding_strategy=[(".*", "fsdp('data', 0)")])
  want = run(tmp_path / "a", keep_ckpt_steps=4)
  with pytest.raises(Crash):
    run(
      tmp_path / "b", jax.devices(), batch_fn=crash_at(6), ckpt_steps=4, **fsdp
    )
  got = run(tmp_path / "b", ckpt_steps=4)
  for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_unknown_predict_function_is_said_before_the_state_is_made(tmp_path):
  def init(rng, batch):
    traced.append(1)
    return toy.init(rng, batch)

  traced = []
  evals = dict(val=dict(type="mean", pred="predit", log_steps=1))
  message = "config.evals.val.pred: unknown .*'predit'. Did you mean 'predict'"
  with pytest.raises(ValueError, match=message):
    run(None, recipe=toy.make(init=init, predict_fns={"predict": len}),
        evals=evals)  # fmt: skip
  assert len(traced) == 1  # For the shapes.
