"""The ViT configs resolve to what is stored in golden/configs.json."""

import importlib
import json
import pathlib

import pytest

GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / "golden/configs.json").read_text()
)
VIT = ("vit_s16_i1k", "vit_i1k", "vit_i21k")


def _get_config(name, *args):
  module = importlib.import_module(f"big_vision.configs.{name}")
  return module.get_config(*args)


@pytest.mark.parametrize(
  "name, arg", [(name, arg) for name in VIT for arg in GOLDEN[name]]
)
def test_same_as_stored(name, arg):
  config = _get_config(name, *([arg] if arg else []))
  # JSON has no tuples.
  assert json.loads(json.dumps(config.to_dict())) == GOLDEN[name][arg]


@pytest.mark.parametrize("name", VIT)
def test_describes_itself(name):
  doc = importlib.import_module(f"big_vision.configs.{name}").__doc__
  assert f"--config big_vision/configs/{name}.py" in doc
  assert "Expected:" in doc


def test_i1k_needs_an_augmentation_for_other_variants():
  with pytest.raises(KeyError, match="variant=g/14.*aug="):
    _get_config("vit_i1k", "variant=g/14")
  config = _get_config("vit_i1k", "variant=g/14,aug=none")
  assert config.model.variant == "g/14"
  assert config.mixup.p == 0
  with pytest.raises(ValueError, match="'medium9'.*'medium"):
    _get_config("vit_i1k", "aug=medium9")


def test_i21k_aug():
  config = _get_config("vit_i21k", "variant=B/32,aug=strong2")
  assert "|flip_lr|randaug(2,20)|" in config.input.pp
  assert config.mixup.p == 0.8
  with pytest.raises(KeyError, match="variant=g/14"):
    _get_config("vit_i21k", "variant=g/14")


def test_i21k_runlocal():
  config = _get_config("vit_i21k", "runlocal")
  assert config.input.batch_size == 8
  assert config.input.shuffle_buffer_size == 10
  for name in ("test", "val", "train"):
    assert config.evals[name].data.split == "full[:16]"
  assert list(config.evals.fewshot.datasets) == ["pets"]
