"""What has changed between the config of a workdir and the one of a run."""

import json

import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pytest

from big_vision import metrics
from big_vision.training import config_changes


def config(**kw):
  base = dict(
    seed=3,
    total_steps=10,
    lr=0.1,
    wd=None,
    input=dict(batch_size=8, data=dict(name="digits", split="train")),
    model=dict(depth=2, patch_size=(4, 4)),
    evals=dict(val=dict(log_steps=5)),
    schedule=[(".*", dict(warmup_steps=2))],
  )
  return mlc.ConfigDict(base | kw)


def workdir_of(path, config, checkpoint=True):
  """A workdir as a run leaves it."""
  metrics.BigVisionMetricWriter(workdir=str(path), config=config).close()
  if checkpoint:
    leaf = path / "checkpoint.bv-000000005/x"
    leaf.mkdir(parents=True)
    (leaf / ".zarray").touch()
    (path / "checkpoint.bv-LAST").write_text("000000005")
  return str(path)


@pytest.fixture
def said(monkeypatch):
  """Notes of a test."""
  lines = []
  monkeypatch.setattr(config_changes.console, "note", lines.append)
  return lines


def test_a_config_equals_what_was_stored_of_it(tmp_path):
  odd = config(dtype=jnp.float32, np=np.float32(0.1), obj=object(), nan=np.nan)
  odd.ref = odd.get_ref("seed") * 2
  path = tmp_path / "config.json"
  path.write_text(metrics.to_json(odd))
  stored = json.loads(path.read_text())
  odd.obj = object()  # Another one, at another address.
  assert config_changes.differences(stored, odd) == {}


def test_keys_that_say_the_default_are_no_change():
  stored = json.loads(metrics.to_json(config(seed=0)))
  c = config(seed=0, wd=None, mixup={}, grad_accum_steps=1)
  del c.seed
  assert config_changes.differences(stored, c) == {}


def test_differences_are_by_key():
  stored = json.loads(metrics.to_json(config()))
  c = config(seed=4, mixup=dict(p=0.2))
  c.model.depth = 3
  del c.evals.val
  assert config_changes.differences(stored, c) == {
    "evals.val.log_steps": (5, None),
    "mixup.p": (None, 0.2),
    "model.depth": (2, 3),
    "seed": (3, 4),
  }


def test_a_flat_config_of_the_past():
  flat = dict(dataset="digits", train_split="train", pp_train="x", lr=1)
  c = mlc.ConfigDict(
    dict(
      input=dict(data=dict(name="digits", split="train"), pp="x"),
      lr=1, evals={},
    )
  )  # fmt: skip
  assert config_changes.differences(flat, c) == {}


@pytest.mark.parametrize(
  "change",
  [
    {"seed": 4},
    {"input.batch_size": 16},
    {"input.data.split": "test"},
    {"input.pp": "decode"},
    {"model.depth": 3},
    {"model_name": "mlp_mixer"},
    {"optax_name": "scale_by_lion"},
    {"optax": dict(b1=0.8)},
    {"grad_clip_norm": 2.0},
    {"mixup": dict(p=0.3)},
    {"schedule": [(".*", None)]},
    {"num_classes": 11},
    {"flexi": dict(seqhw=1)},
    {"student_name": "vit"},
  ],
)
def test_what_decides_the_numbers_is_refused(tmp_path, said, change):
  workdir = workdir_of(tmp_path, config())
  before = {p.name: p.is_file() and p.read_bytes() for p in tmp_path.iterdir()}
  c = config()
  c.update_from_flattened_dict(change)
  with pytest.raises(ValueError) as e:
    config_changes.check(c, workdir)
  text = str(e.value)
  assert "\n" not in text and "--config_changed=continue" in text
  assert f"config.{next(iter(change))}" in text and str(tmp_path) in text
  assert not said
  config_changes.check(c, workdir, "continue")
  assert len(said) == 1 and next(iter(change)) in said[0]
  after = {p.name: p.is_file() and p.read_bytes() for p in tmp_path.iterdir()}
  assert before == after


def test_what_does_not_is_said(tmp_path, said):
  workdir = workdir_of(tmp_path, config())
  config_changes.check(config(), workdir)
  assert not said  # Nothing to say.
  c = config(
    lr=0.2, wd=0.1, total_steps=20, ckpt_steps=3, keep_ckpt_steps=6,
    log_training_steps=1, evals=dict(test=dict(log_steps=1)), mesh=[("a", 8)],
    sharding_strategy=[(".*", "fsdp")], grad_accum_steps=2, a_note_of_mine=1,
  )  # fmt: skip
  c.input.skip_errors = True
  config_changes.check(c, workdir)
  assert len(said) == 1
  assert "config.lr = 0.1 (now 0.2)" in said[0]
  assert "config.total_steps = 10 (now 20)" in said[0]


def test_runs_without_a_stored_config_go_on(tmp_path, said):
  config_changes.check(config(), None)
  config_changes.check(config(), str(tmp_path / "new"))
  assert not said and not (tmp_path / "new").exists()
  workdir = workdir_of(tmp_path, config())
  (tmp_path / "config.json").write_text('{"seed": ')  # Cut off.
  config_changes.check(config(seed=1), workdir)
  (tmp_path / "config.json").unlink()
  config_changes.check(config(seed=1), workdir)
  assert "no config.json" in said[0]


def test_other_runs_metrics_are_said(tmp_path, said):
  workdir = workdir_of(tmp_path, config(), checkpoint=False)
  config_changes.check(config(seed=1), workdir)
  assert "another config" in said[0] and "config.seed = 3 (now 1)" in said[0]


def test_a_missing_last_is_still_a_run(tmp_path):
  workdir = workdir_of(tmp_path, config())
  (tmp_path / "checkpoint.bv-LAST").unlink()
  with pytest.raises(ValueError, match=r"config\.seed = 3 \(now 1\)"):
    config_changes.check(config(seed=1), workdir)


def test_long_values_show_where_they_differ():
  pp = "decode|resize(224)|" + "value_range(-1, 1)|" * 20
  text = config_changes.describe(
    {"input.pp": (f"{pp}keep('image')", f"{pp}keep('label')")}
  )
  assert "image" in text and "label" in text and len(text) < 200
  many = {f"k{i}": (0, 1) for i in range(20)}
  assert config_changes.describe(many).endswith("and 8 more")


def test_meaning_of_an_epoch_after_another_batch_size(tmp_path):
  workdir = workdir_of(tmp_path, config())
  assert config_changes.batch_size_note(config(), workdir, 100) is None
  c = config()
  c.input.batch_size = 16
  text = config_changes.batch_size_note(c, workdir, 100)
  assert "was 8, now it is 16" in text and "/ 6.25" in text
