"""Where a run starts: anew, after its last checkpoint, at its end."""

import jax
import numpy as np
import pytest

import toy
from big_vision import optax as bv_optax
from big_vision.training import loop
from big_vision.training import state as state_lib


def start(workdir=None, recipe=None, **kw):
  setup = toy.setup(toy.config(**kw), workdir)
  recipe = recipe or toy.make()
  plan = state_lib.plan(recipe, setup)
  try:
    return setup, *state_lib.start(setup, recipe, plan)
  finally:
    setup.writer.close()


def first(batches):
  return np.asarray(next(batches)["image"])


def test_starts_anew():
  setup, state, first_step, batches = start()
  assert first_step == 0 and setup.chrono.prev_step == 0
  want = toy.init(state_lib.seed_keys(0)[0], toy.batch(0, 16))
  # Compiled and not compiled, random numbers are the same, sums are not.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    state["params"], want,
  )  # fmt: skip
  assert int(bv_optax.get_count(state["opt"])) == 0
  np.testing.assert_array_equal(first(batches), toy.batch(0, 16)["image"])


def test_starts_with_loaded_parameters():
  def load(params):
    return {"head": {"bias": np.full(3, 2.0)}}

  _, state, first_step, _ = start(recipe=toy.make(load=load))
  assert first_step == 0
  np.testing.assert_array_equal(state["params"]["head"]["bias"], np.full(3, 2))
  assert np.any(state["params"]["head"]["kernel"])


def test_evaluation_alone_opens_no_data():
  _, _, first_step, batches = start(total_steps=0)
  assert first_step == 0 and batches is None


@pytest.mark.parametrize("where", ["workdir", "resume"])
def test_continues_after_the_last_checkpoint(tmp_path, where):
  (tmp_path / "a").mkdir()
  setup = toy.setup(toy.config(total_steps=5, ckpt_steps=5), tmp_path / "a")
  want = loop.run(setup, toy.make())
  setup.writer.close()
  if where == "workdir":
    got = start(tmp_path / "a")
  else:
    got = start(resume=str(tmp_path / "a/checkpoint.bv"))
  setup, state, first_step, batches = got
  assert first_step == 5 and setup.chrono.prev_step == 5
  jax.tree.map(np.testing.assert_array_equal, state, want)
  np.testing.assert_array_equal(first(batches), toy.batch(5, 16)["image"])
  # Of a run that is over, no data is opened.
  assert start(tmp_path / "a", total_steps=5)[2:] == (5, None)


def test_checkpoints_that_cannot_be_continued(tmp_path, monkeypatch):
  (tmp_path / "a").mkdir()
  setup = toy.setup(toy.config(total_steps=1, ckpt_steps=1), tmp_path / "a")
  loop.run(setup, toy.make())
  setup.writer.close()
  path = str(tmp_path / "a/checkpoint.bv")
  monkeypatch.setattr(toy, "D_HID", 8)
  with pytest.raises(
    ValueError, match=r"\(8, 3\) but is \(16, 3\).*own config"
  ):
    start(resume=path)
  with pytest.raises(ValueError, match=r"config.resume=\['x'\] should be the"):
    start(resume=["x"])
  with pytest.raises(FileNotFoundError, match="config.resume='b': .*not exist"):
    start(resume="b")


def test_sharding_rules_without_a_match():
  """Rules are for parameters, the optimizer's state, and frozen trees."""
  frozen = {"teacher": {"w": np.zeros(3, np.float32)}}
  recipe = toy.make(frozen=frozen)

  def plan(*patterns):
    rules = [(p, "replicate") for p in patterns]
    setup = toy.setup(toy.config(sharding_strategy=rules))
    return state_lib.plan(recipe, setup)

  plan("params/head/.*", "opt/1/0/1/.*", "frozen/teacher/.*", ".*")
  plan(".*FREEZE_ME.*", ".*")
  for wrong, hint in (
    ("param/head/.*", "'params/head"),
    ("head/.*", "only a part of.*head/bias"),
    ("frozen/teacer/.*", "'frozen/teacher/w'"),
  ):
    match = f"config.sharding_strategy: '{wrong}.*{hint}"
    with pytest.raises(ValueError, match=match):
      plan(wrong, ".*")
