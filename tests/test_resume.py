"""Runs that are started again in their workdir, with the same and other configs."""

import os
import pathlib
import shutil

import jax
import ml_collections as mlc
import numpy as np
import pytest

import toy
from big_vision import train
from big_vision.training import cli, console

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]

PP = (
  "decode(channels=1)|reshape((8, 8, 1))|value_range(-1, 1)"
  "|onehot(10, key='label', key_result='labels')|keep('image', 'labels')"
)


def config(total_steps=4, **kw):
  c = mlc.ConfigDict(
    dict(
      seed=1, total_steps=total_steps, num_classes=10, log_training_steps=1,
      ckpt_steps=2, optax_name="scale_by_adam", lr=1e-3, wd=1e-3,
      input=dict(
        data=dict(name="digits", split="train[:64]"), batch_size=16, pp=PP
      ),
      model_name="vit",
      model=dict(patch_size=(4, 4), width=8, depth=2, mlp_dim=8, num_heads=2),
    )
  )  # fmt: skip
  c.update_from_flattened_dict(kw)
  return c


def start(workdir, c, **kw):
  return cli.train(train.build, c, str(workdir), **kw)


def content(folder):
  """Every file of a folder with its bytes."""
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in pathlib.Path(folder).rglob("*")
    if p.is_file()
  }


@pytest.fixture(scope="module")
def first(tfds_data_dir, tmp_path_factory):
  """The workdir of a run of 4 steps."""
  workdir = tmp_path_factory.mktemp("first") / "w"
  start(workdir, config())
  return workdir


@pytest.fixture
def workdir(first, tmp_path):
  shutil.copytree(first, tmp_path / "w")
  return tmp_path / "w"


@pytest.fixture
def said(monkeypatch):
  lines = []
  monkeypatch.setattr(console, "note", lines.append)
  return lines


@pytest.mark.parametrize(
  ("change", "kw", "message"),
  [
    # Another config, and nothing says that this is meant.
    ({"model.depth": 3}, {}, r"config\.model\.depth = 2 \(now 3\)"),
    ({"optax_name": "scale_by_lion"}, {}, r"config\.optax_name"),
    ({"seed": 2}, {}, r"config\.seed = 1 \(now 2\)"),
    ({"input.batch_size": 32}, {}, r"batch_size = 16 \(now 32\)"),
    ({"input.data.split": "train[:32]"}, {}, r"config\.input\.data\.split"),
    # Cannot be continued, whatever is meant.
    (
      {"model.depth": 1},
      {"config_changed": "continue"},
      r"encoderblock_1.*drop",
    ),
    (
      {"optax_name": "scale_by_lion"},
      {"config_changed": "continue"},
      r"opt/.*encoderblock_0.*drop",
    ),
    (
      {"model.depth": 3},
      {"config_changed": "continue"},
      r"lacks.*encoderblock_2",
    ),
    ({"model.width": 16}, {"config_changed": "continue"}, r"Shapes.*\(8,\)"),
    # Shorter than it is already.
    ({"total_steps": 3}, {}, r"3 steps long .*step 4"),
    # Wrong in itself.
    ({"schedule": dict(warmup_steps=9)}, {"config_changed": "continue"}, "9"),
    ({"evals": dict(x=dict(type="nope"))}, {}, r"evals\.x"),
  ],
)
def test_a_start_that_fails_leaves_the_workdir_as_it_was(
  workdir, change, kw, message
):
  before = content(workdir)
  with pytest.raises(ValueError, match=message) as e:
    start(workdir, config(**({"total_steps": 6} | change)), **kw)
  assert "\n" not in str(e.value)
  assert content(workdir) == before


def test_a_first_start_that_fails_leaves_nothing(tfds_data_dir, tmp_path):
  c = config(schedule=dict(warmup_steps=9))
  with pytest.raises(ValueError, match="warm-up of 9 .* 4 steps"):
    start(tmp_path / "a/w", c)
  assert not os.listdir(tmp_path)


def test_goes_on_with_what_may_change(workdir, said):
  state = start(workdir, config(total_steps=6, lr=2e-3, ckpt_steps=3))
  assert list(toy.rows(workdir)) == [1, 2, 3, 4, 5, 6]
  (line,) = [text for text in said if "another config" in text]
  assert "config.lr = 0.001 (now 0.002)" in line and "total_steps" in line
  assert '"lr": 0.002' in (workdir / "config.json").read_text()
  assert len(state["params"]) > 1
  del said[:]
  start(workdir, config(total_steps=6, lr=2e-3, ckpt_steps=3))
  assert not [text for text in said if "another config" in text]


def test_another_batch_size_says_what_an_epoch_is(workdir, said):
  c = config(total_steps=5)
  c.input.batch_size = 32
  start(workdir, c, config_changed="continue")
  assert [t for t in said if "was 16, now it is 32" in t and "/ 2," in t]
  assert toy.rows(workdir)[5]["epoch"] == 5 / 2
  assert toy.rows(workdir)[5]["examples_seen"] == 4 * 16 + 32


@pytest.mark.parametrize("last", [None, "000000002-tmp"])
def test_last_is_gone_or_leads_nowhere(workdir, last):
  path = workdir / "checkpoint.bv-LAST"
  path.unlink()
  if last:
    path.write_text(last)
  os.rename(
    workdir / "checkpoint.bv-000000004", workdir / "checkpoint.bv-000000004-tmp"
  )
  start(workdir, config())  # Finished already.
  assert path.read_text() == "000000004-tmp"
  assert (workdir / "checkpoint.bv-000000004-tmp").is_dir()
  assert list(toy.rows(workdir)) == [1, 2, 3, 4]


def test_a_run_of_older_code_goes_on(workdir):
  (workdir / "config.json").unlink()
  start(workdir, config())
  assert (workdir / "config.json").exists()


def test_resume_of_another_run_says_the_differences(first, tmp_path, said):
  c = config(total_steps=5, seed=9, resume=f"{first}/checkpoint.bv-000000004")
  start(tmp_path / "w", c)
  assert [t for t in said if "config.resume" in t and "config.seed = 1" in t]
  assert list(toy.rows(tmp_path / "w")) == [5]


def test_cools_down_from_a_step_of_another_workdir(tfds_data_dir, tmp_path):
  trunk = dict(decay_type="wsd", warmup_steps=2, cooldown_steps=0)
  cooled = trunk | dict(cooldown_steps=3, cooldown_shape="1-sqrt")
  # The trunk is longer: nobody planned this when it was started.
  start(tmp_path / "trunk", config(9, schedule=trunk, keep_ckpt_steps=4))
  whole = start(tmp_path / "whole", config(7, schedule=cooled))
  resume = f"{tmp_path}/trunk/checkpoint.bv-000000004"
  state = start(tmp_path / "cool", config(7, schedule=cooled, resume=resume))
  assert jax.tree.structure(state) == jax.tree.structure(whole)
  jax.tree.map(np.testing.assert_array_equal, state, whole)
  rows = {k: toy.rows(tmp_path / k) for k in ("trunk", "whole", "cool")}
  assert list(rows["cool"]) == [5, 6, 7]
  same = ("training_loss", "global_schedule", "examples_seen", "epoch")
  for step, row in rows["cool"].items():
    assert [row[k] for k in same] == [rows["whole"][step][k] for k in same]
  assert rows["cool"][5]["training_loss"] == rows["trunk"][5]["training_loss"]
  falls = [row["global_schedule"] for row in rows["cool"].values()]
  np.testing.assert_allclose(falls, 1 - np.sqrt(np.arange(3) / 3), atol=1e-6)


def test_evaluation_keeps_the_config_of_a_training(workdir):
  from big_vision.tools import eval_only

  before = (workdir / "config.json").read_bytes()
  c = config()
  c.evals = {}
  c.init_shapes = [(1, 8, 8, 1)]
  eval_only.evaluate(c, str(workdir))
  assert (workdir / "config.json").read_bytes() == before
