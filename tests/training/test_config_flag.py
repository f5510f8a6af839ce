"""Flags of a config: keys that are there, keys that code knows, the others."""

import functools
import re
import sys

import pytest
from absl import flags

from big_vision import train
from big_vision.evaluators import build
from big_vision.trainers.proj.flexi import distill as flexi_distill
from big_vision.trainers.proj.image_text import siglip
from big_vision.trainers.proj.image_text.self_distill_settings import Settings
from big_vision.training import config_check, config_flag, config_keys

QUICKSTART = "big_vision/configs/quickstart.py"
UVIM = "big_vision/configs/proj/uvim/train_nyu_depth_pretrained.py"
SIGLIP = "big_vision/configs/proj/image_text/siglip_pretrain.py:demo"


def parse(monkeypatch, *args, config=QUICKSTART):
  """The config that a command line gives."""
  argv = ["train", "--config", config, *args]
  monkeypatch.setattr(sys, "argv", argv)
  values = flags.FlagValues()
  config_flag.define("config", "", values)
  rest = values(argv)
  config_flag.check_arguments(rest)
  return values.config


def stopped(monkeypatch, *args, **kw):
  """The line with which a command line ends."""
  with pytest.raises(SystemExit) as e:
    parse(monkeypatch, *args, **kw)
  assert e.value.code.startswith("Error: ") and "\n" not in e.value.code
  return e.value.code


def test_one_checkpoint_in_place_of_those_of_parts(monkeypatch):
  run = functools.partial(parse, monkeypatch, config=UVIM)
  assert run("--config.model_init=/a.npz").model_init == "/a.npz"
  assert run("--config.model_init", "").model_init == ""
  assert run("--config.model_init=None").model_init is None
  c = run("--config.model_init={'encoder': '/b'}")
  assert c.model_init.to_dict() == {"encoder": "/b"}
  assert run("--config.model_init.encoder=/c").model_init.encoder == "/c"
  c = run("--config.oracle.model_init=/d", "--config.oracle.model.dict_size=9")
  assert c.oracle.model_init == "/d" and c.model.vocab_size == 10
  error = stopped(monkeypatch, "--config.oracle.model_int=/e", config=UVIM)
  assert "config.oracle.model_int is not a known key" in error


def test_each_key_has_one_list_of_readers():
  keys = [k for _, keys in config_keys._BY_READER for k in keys]
  assert len(keys) == len(set(keys))


def test_keys_that_are_not_there_have_the_types_of_the_code(monkeypatch):
  c = parse(
    monkeypatch,
    "--config.grad_accum_steps=2",
    "--config.model.dtype_mm", "bfloat16",
    "--config.input.skip_errors", "True",
    "--config.input.num_parallel_calls", "3",
    "--config.optax.b1", "0.5",
    "--config.mixup.n=3",
    "--config.evals.test.skip_first",
    "--config.evals.test.batch_size=8",
    "--config.ckpt_timeout=10",
    "--config.wd_mults=[('.*/kernel', 0.5)]",
    "--config.input.data.split=train[:50%]",
  )  # fmt: skip
  assert c.grad_accum_steps == 2 and type(c.grad_accum_steps) is int
  assert c.model.dtype_mm == "bfloat16"
  assert c.input.skip_errors is True and c.input.num_parallel_calls == 3
  assert c.optax.b1 == 0.5 and c.mixup.n == 3
  assert c.evals.test.skip_first is True and c.evals.test.batch_size == 8
  assert c.ckpt_timeout == 10.0 and isinstance(c.ckpt_timeout, float)
  assert c.wd_mults == [(".*/kernel", 0.5)]
  assert c.input.data.split == "train[:50%]"
  with pytest.raises(AttributeError):
    c.something = 1  # Still locked.


def test_towers_and_methods(monkeypatch):
  c = parse(
    monkeypatch,
    "--config.loss_fn", "softmax",
    "--config.model.image.dtype_mm=bfloat16",
    "--config.model.text.dropout", "0.1",
    "--config.self_distill.weight=0.5",
    config=SIGLIP,
  )  # fmt: skip
  assert c.loss_fn == "softmax" and c.self_distill.weight == 0.5
  assert c.model.image.dtype_mm == "bfloat16" and c.model.text.dropout == 0.1


def test_a_value_may_follow_whatever_the_type(monkeypatch):
  c = parse(monkeypatch, "--config.input.cache_raw", "False")
  assert c.input.cache_raw is False
  c = parse(monkeypatch, "--noconfig.input.cache_raw")
  assert c.input.cache_raw is False
  c = parse(monkeypatch, "--config.input.skip_errors", "--config.seed", "1")
  assert c.input.skip_errors is True and c.seed == 1
  c = parse(monkeypatch, "--config.mixup", "None", "--config.lr", "1")
  assert c.mixup is None and c.lr == 1


def test_one_unit_replaces_the_others(monkeypatch):
  c = parse(monkeypatch, "--config.total_steps=3")
  assert c.total_steps == 3 and "total_epochs" not in c
  c = parse(monkeypatch, "--config.schedule.warmup_percent", "0.1")
  assert c.schedule.warmup_percent == 0.1 and "warmup_epochs" not in c.schedule
  c = parse(monkeypatch, "--config.evals.test.log_steps=7")
  assert c.evals.test.log_steps == 7 and "log_epochs" not in c.evals.test


def test_a_schedule_may_become_a_list_of_rules(monkeypatch):
  text = "[('head/.*', {'warmup_steps': 3}), ('.*', None)]"
  c = parse(monkeypatch, f"--config.schedule={text}")
  assert c.schedule == [("head/.*", {"warmup_steps": 3}), (".*", None)]
  c = parse(monkeypatch, "--config.schedule={'decay_type': 'linear'}")
  assert c.schedule.to_dict() == {"decay_type": "linear"}


def test_units_that_switch_off_or_are_given_too_replace_nothing(monkeypatch):
  c = parse(monkeypatch, "--config.total_steps=-1")
  assert c.total_steps == -1 and c.total_epochs == 120
  c = parse(monkeypatch, "--config.total_steps=5", "--config.total_epochs=None")
  assert c.total_steps == 5 and c.total_epochs is None
  c = parse(monkeypatch, "--config.total_epochs=0.5")
  assert c.total_epochs == 0.5
  c = parse(monkeypatch, "--config.total_epochs=5")
  assert type(c.total_epochs) is int


def test_an_evaluator_may_be_left_out(monkeypatch):
  c = parse(monkeypatch, "--config.evals.test=None")
  assert "test" in c.evals and list(build.entries(c)) == ["fewshot"]
  config_check.check_training(c)
  c = parse(monkeypatch, "--config.evals=None")
  assert not build.entries(c)
  config_check.check_training(c)


@pytest.mark.parametrize(
  ("arg", "expected"),
  [
    ("--config.totl_steps=3", "config.totl_steps .*'total_steps'"),
    ("--config.model.dtyp_mm=x", "config.model.dtyp_mm .*'dtype_mm'"),
    ("--config.input.skip_erors=1", "input.skip_erors .*'skip_errors'"),
    ("--config.evals.tset.log_steps=1", "config.evals.tset .*'test'"),
    ("--config.evals.test.log_stesp=1", "evals.test.log_stesp .*'log_steps'"),
    ("--config.evals.tset=None", "config.evals: unknown .*'test'"),
    ("--config.optax.b3=1", "config.optax.b3 .*Known: b1, b2"),
    ("--config.seed.x=1", "config.seed"),
    ("--config.batch_size=4", "config.batch_size .*'input.batch_size'"),
    ("--config.warmup_steps=4", "'schedule.warmup_steps'"),
    ("--config.dtype_mm=float16", "'model.dtype_mm'"),
    ("--config.evals.a-b.log_steps=4", "not a key"),
    ("--config.=4", "config. is not a key"),
    (
      "--config.a[{[]: 1}]=4",
      "config.* is not a key",
    ),  # No dict has such keys.
    ("--config.lr=fast", "config.lr=fast must be a number"),
    ("--config.total_steps=1.5", "config.total_steps=1.5 .*whole number"),
    ("--config.input.skip_errors=maybe", "skip_errors=maybe .*true or false"),
    ("--config.input.pp[3].x=1", "config"),
    ("0.1", "'0.1' belongs to no flag"),
  ],
)
def test_what_is_wrong_is_one_line(monkeypatch, arg, expected):
  assert re.search(expected, stopped(monkeypatch, arg))


def test_what_is_wrong_with_a_config_file_is_one_line(monkeypatch, tmp_path):
  line = stopped(monkeypatch, config="big_vision/configs/quikstart.py")
  assert "quikstart.py" in line and "'quickstart.py'" in line
  line = stopped(monkeypatch, config="big_vision/configs/vit_i1k.py:variant=Q")
  assert "variant=Q" in line
  line = stopped(monkeypatch, config=f"{QUICKSTART}:tset")
  assert "'tset'" in line
  broken = tmp_path / "broken.py"
  broken.write_text("def get_config(:")
  assert "line 1 of " in stopped(monkeypatch, config=str(broken))
  broken.write_text("def get_config():\n  return {}['x']\n")
  with pytest.raises(KeyError):  # A mistake in code needs its traceback.
    parse(monkeypatch, config=str(broken))


@pytest.mark.parametrize(
  "statement,said",
  [
    ("config.model.depht", "no key 'depht'.*depth"),
    ("config['model']['x']", "no key 'x'"),
    ("config.model.depth = 0.5", "'depth'.* 0.5 .*float.*int"),
  ],
)
def test_keys_that_a_config_file_gets_wrong(
  monkeypatch, tmp_path, statement, said
):
  own = tmp_path / "own.py"
  own.write_text(
    "from big_vision.configs import quickstart\n"
    "def get_config():\n"
    "  config = quickstart.get_config()\n"
    f"  {statement}\n"
  )
  line = stopped(monkeypatch, config=str(own))
  assert f"line 4 of {own}: {statement}: " in line
  assert re.search(said, line)


def test_keys_of_the_user_s_own(monkeypatch, tmp_path):
  own = tmp_path / "own.py"
  own.write_text(
    "import ml_collections as mlc\n"
    "def get_config(arg=None):\n"
    "  c = mlc.ConfigDict(dict(mine=None, list=[1, 2], d=dict(x=1), n=3))\n"
    "  c.ref = c.get_ref('n') * 2\n"
    "  c.schedule = [('a', dict(warmup_steps=1)), ('.*', None)]\n"
    "  c.pair = (1, 2)\n"
    "  return c\n"
  )
  c = parse(
    monkeypatch, "--config.mine=3", "--config.list", "[4]", "--config.d.x=5",
    "--config.pair=(3,4)", "--config.n=4", config=str(own),
  )  # fmt: skip
  assert (c.mine, c.list, c.d.x, c.pair, c.n, c.ref) == (
    3,
    [4],
    5,
    (3, 4),
    4,
    8,
  )
  assert "schedule[0]" in stopped(
    monkeypatch, "--config.schedule.warmup_steps=3", config=str(own)
  )
  c = parse(
    monkeypatch, "--config.schedule[0][1].warmup_steps=3", config=str(own)
  )
  assert c.schedule[0][1]["warmup_steps"] == 3
  assert "config.mina" in stopped(
    monkeypatch, "--config.mina=3", config=str(own)
  )


def test_keys_of_another_method_are_refused():
  with pytest.raises(ValueError, match="loss_fn .*trainers/proj/image_text"):
    config_flag.check_method(["loss_fn"], train.build)
  with pytest.raises(ValueError, match="distance"):
    config_flag.check_method(["distance"], siglip.build)
  with pytest.raises(ValueError, match="config.loss .*big_vision/train.py"):
    config_flag.check_method(["loss"], siglip.build)
  config_flag.check_method(["loss", "num_classes"], train.build)
  config_flag.check_method(["mixup.p", "init_head_bias"], flexi_distill.build)
  config_flag.check_method(["lr", "loss_fn"], siglip.build_softmax)
  config_flag.check_method(["distance", "flexi.seqhw"], flexi_distill.build)
  config_flag.check_method(["loss_fn"], functools.partial(lambda setup: None))


def test_tables_are_complete():
  assert config_check.KEYS <= set(config_keys._top({})) | {"batch_size"}
  assert set(config_keys.PARTS["self_distill"]) == set(
    Settings.__dataclass_fields__
  )
  from big_vision.evaluators import build
  from big_vision.pipeline import mixture, validate

  assert set(build.GENERIC_KEYS) <= set(config_keys.EVALUATOR)
  assert set(validate.PER_DATASET) <= set(config_keys.DATASET)
  assert (
    set(mixture.KEYS) == {**config_keys.MIXTURE, **config_keys.BATCHES}.keys()
  )


def test_a_key_without_the_name_of_the_flag(monkeypatch, capsys):
  argv = (
    "train --config x.py --lr=0.1 -seed 3 --workdir w --config.lr 1 -- --wd"
  )
  monkeypatch.setattr(sys, "argv", argv.split())
  config = {"lr": 1, "seed": 0, "wd": 0.1, "workdir": "my own"}
  config_flag._hint_at_keys(config, "config")
  assert capsys.readouterr().err == (
    "--lr is no flag, a key of the config is --config.lr\n"
    "--seed is no flag, a key of the config is --config.seed\n"
  )
