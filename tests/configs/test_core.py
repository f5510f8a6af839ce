"""Configs resolve to what is stored in golden/configs.json."""

import importlib
import json
import pathlib

import pytest

from big_vision.configs import transfer
from big_vision.models import bit_paper
from big_vision.training import config_check, flat_config

GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / "golden/configs.json").read_text()
)


def get_config(name, *args):
  module = importlib.import_module(f"big_vision.configs.{name}")
  return module.get_config(*args)


def plain(config):
  """A config as JSON stores it: without tuples."""
  return json.loads(json.dumps(config.to_dict()))


@pytest.mark.parametrize(
  "name, arg", [(name, arg) for name in GOLDEN for arg in GOLDEN[name]]
)
def test_same_as_stored(name, arg):
  config = get_config(name, *([arg] if arg else []))
  assert plain(config) == GOLDEN[name][arg]


@pytest.mark.parametrize("name", GOLDEN)
def test_describes_itself(name):
  doc = importlib.import_module(f"big_vision.configs.{name}").__doc__
  assert f"--config big_vision/configs/{name.replace('.', '/')}.py" in doc
  assert "Expected" in doc
  assert "demo" in doc


def test_vit_i1k_needs_an_augmentation_for_other_variants():
  with pytest.raises(KeyError, match="variant=g/14.*aug="):
    get_config("vit_i1k", "variant=g/14")
  config = get_config("vit_i1k", "variant=g/14,aug=none")
  assert config.model.variant == "g/14"
  assert config.mixup.p == 0
  assert "|flip_lr||value_range" in config.input.pp
  with pytest.raises(ValueError, match="'medium9'.*'medium"):
    get_config("vit_i1k", "aug=medium9")


@pytest.mark.parametrize(
  "variant, randaug, p",
  [
    ("Ti/16", "randaug(2,0)", 0.0),
    ("S/32", "randaug(2,15)", 0.2),
    ("S/16", "randaug(2,15)", 0.5),
    ("L/16", "randaug(2,15)", 0.5),
  ],
)
def test_vit_i1k_augmentation_of_variants(variant, randaug, p):
  config = get_config("vit_i1k", f"variant={variant}")
  assert f"|flip_lr|{randaug}|value_range" in config.input.pp
  assert config.mixup.to_dict() == {"p": p, "fold_in": None}


def test_vit_i21k_aug():
  config = get_config("vit_i21k", "variant=B/32,aug=strong2")
  assert "|flip_lr|randaug(2,20)|" in config.input.pp
  assert config.mixup.p == 0.8
  with pytest.raises(KeyError, match="variant=g/14"):
    get_config("vit_i21k", "variant=g/14")


def test_vit_i21k_runlocal():
  config = get_config("vit_i21k", "runlocal")
  assert config.input.batch_size == 8
  assert config.input.shuffle_buffer_size == 10
  for name in ("test", "val", "train"):
    assert config.evals[name].data.split == "full[:16]"
  assert list(config.evals.fewshot.datasets) == ["pets"]


@pytest.mark.parametrize("arg", ["anything", "False", "0", True])
def test_bit_i1k_any_word_is_runlocal(arg):
  assert plain(get_config("bit_i1k", arg)) == GOLDEN["bit_i1k"]["runlocal"]
  for off in ("", False, None):
    assert plain(get_config("bit_i1k", off)) == GOLDEN["bit_i1k"][""]


def test_mlp_mixer_modes():
  for none in (None, ""):
    config = get_config("mlp_mixer_i1k", none)
    assert plain(config) == GOLDEN["mlp_mixer_i1k"][""]
  with pytest.raises(ValueError, match="'gpu9'.*'gpu8'"):
    get_config("mlp_mixer_i1k", "gpu9")


# What the stored examples and the specification say, for all combinations.
SPLITS = {
  "cifar10": ("train[:98%]", "train[98%:]", "test", 10, 10000, 500),
  "cifar100": ("train[:98%]", "train[98%:]", "test", 100, 10000, 500),
  "imagenet2012": ("train[:99%]", "train[99%:]", "validation", 1000, 20000, 500),
  "oxford_iiit_pet": ("train[:90%]", "train[90%:]", "test", 37, 500, 100),
  "oxford_flowers102": ("train[:90%]", "train[90%:]", "test", 102, 500, 100),
}  # fmt: skip
INITS = {
  "vit-i21k-augreg-b/32": ("vit", "howto-i21k-B/32"),
  "vit-i21k-augreg-l/16": ("vit", "howto-i21k-L/16"),
  "vit-s16": ("vit", "i1k-s16-300ep"),
  "bit-m-r50x1": ("bit_paper", "M"),
}


@pytest.mark.parametrize("dataset", SPLITS)
@pytest.mark.parametrize("crop", transfer.CROPS)
@pytest.mark.parametrize("model", INITS)
def test_transfer(dataset, crop, model):
  config = get_config(
    "transfer", f"model={model},dataset={dataset},crop={crop},l_res=160"
  )
  train, val, test, num_classes, total, warmup = SPLITS[dataset]
  assert (config.total_steps, config.schedule.warmup_steps) == (total, warmup)
  assert config.input.data.to_dict() == {"name": dataset, "split": train}
  end = (
    f'|value_range(-1, 1)|onehot({num_classes}, key="label", '
    'key_result="labels")|keep("image", "labels")'
  )
  crops = {
    "inception_crop": "decode|inception_crop(160)",
    "resmall_crop": "decode|resize_small(448)|random_crop(160)",
    "resize_crop": "decode|resize(448)|random_crop(160)",
  }
  assert config.input.pp == crops[crop] + "|flip_lr" + end
  pp_eval = "decode|resize_small(448)|central_crop(160)" + end
  for name, cfg in config.evals.items():
    if name not in ("real", "v2"):
      assert cfg.pp_fn == pp_eval
  splits = {k: v.data.split for k, v in config.evals.items()}
  if dataset == "imagenet2012":
    assert splits == dict(
      minival=val, val=test, test=test, real="validation", v2="test"
    )
    assert "|central_crop(384)|" in config.evals.v2.pp_fn
    assert 'key="real_label"' in config.evals.real.pp_fn
  else:
    assert splits == dict(val=val, test=test)
  assert (config.model_name, config.model_init) == INITS[model]
  assert config.model_load.dont_load == ["head/kernel", "head/bias"]


def test_nfnet_carries_no_key_that_nobody_reads():
  config = get_config("nfnet_i1k")
  assert config.mixup.to_dict() == {"p": 0.2}
  assert "cache" not in config.input
  config_check.check_training(config)


def test_transfer_other_arguments():
  config = get_config("transfer", "model=bit-m-r50x1,runlocal,fsdp")
  assert config.input.batch_size == 8
  assert config.input.shuffle_buffer_size == 100
  assert config.mesh == [("data", -1)]
  assert config.model.to_dict() == dict(depth=50, width=1)
  bit_paper.Model(config.num_classes, **config.model)  # All keys are known.
  assert get_config("transfer", "model=vit-s16,fsdp").model.scan is True
  config.wd = 0.1  # It can be set, though it is None.
  # A config does not change those that come later.
  assert "scan" not in get_config("transfer", "model=bit-m-r50x1").model


@pytest.mark.parametrize(
  "arg, message",
  [
    (None, "Unknown model: 'vit'.*vit-s16"),
    ("runlocal", "Unknown model: 'vit'"),
    ("model=vit-s16,dataset=cifar", "Unknown dataset: 'cifar'.*cifar10"),
    ("model=vit-s16,crop=random", "Unknown crop: 'random'.*_crop"),
  ],
)
def test_transfer_rejects(arg, message):
  with pytest.raises(ValueError, match=message):
    get_config("transfer", arg)


def test_load_and_eval_names():
  config = get_config("load_and_eval", "name=mlp_mixer_i1k,batch_size=16")
  want = GOLDEN["load_and_eval"]["name=vit_i1k"]
  want = {
    **want,
    "name": "mlp_mixer_i1k",
    "batch_size": 16,
    "input": {**want["input"], "batch_size": 16},
    "model_name": "mlp_mixer",
    "model": {"variant": "L/16"},
  }
  assert plain(config) == want
  for name in ("vit_i1", "get_config", "eval_only", "mlc"):
    with pytest.raises(ValueError, match=f"{name!r}.*vit_i1k"):
      get_config("load_and_eval", f"name={name}")


@pytest.mark.parametrize(
  "arg, message",
  [("data=flower", "'flower'.*'flowers'"), ("variant=fas", "'fas'.*'fast'")],
)
def test_unknown_arguments_of_distillation(arg, message):
  with pytest.raises(ValueError, match=message):
    get_config("proj.distill.bigsweep_flowers_pet", arg)


def test_scaling_laws():
  """What could not be stored: this config was never resolved as published."""
  config = get_config("proj.scaling_laws.train_vit_g")
  want = dict(
    dataset="jft_3b", val_split="val", train_split="train", num_classes=29593,
    init_head_bias=-10.0, batch_size=16384, shuffle_buffer_size=250_000,
    pp_train="inception_crop(224)|flip_lr|value_range(-1, 1)|onehot(29593)"
    '|keep("image", "labels")',
    pp_eval="resize_small(256)|central_crop(224)|value_range(-1, 1)"
    '|onehot(29593)|keep("image", "labels")',
    log_training_steps=50, log_eval_steps=1000, ckpt_steps=1000,
    keep_ckpt_steps=10_000, prefetch_to_device=1, trial=0, model_name="vit",
    model=dict(variant="g/14", pool_type="map"), grad_clip_norm=1.0, lr=8e-4,
    wd=0.03 * 8e-4, optax_name="big_vision.scale_by_adafactor",
    wd_mults=[(".*head/kernel", 100.0), (".*/kernel", 1.0)],
    schedule=dict(
      decay_type="rsqrt", timescale=10_000, warmup_steps=10_000,
      cooldown_steps=50_000,
    ),
    total_steps=1_000_000, mesh=[("data", -1)],
    sharding_strategy=[(".*", 'fsdp(axis="data")')],
  )  # fmt: skip
  got = config.to_dict()
  fewshot = got.pop("evals")["fewshot"]
  assert got == want
  assert fewshot["log_steps"] == 10_000
  assert len(fewshot["datasets"]) == 6
  evals = flat_config.modern(config).evals
  assert set(evals) == {"val", "fewshot"}
  assert evals.val.data.to_dict() == dict(name="jft_3b", split="val")
