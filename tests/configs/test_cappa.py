"""The config of CapPa: as it is stored, and its tiny form."""

import gzip
import json
import pathlib

import pytest

from big_vision.configs.proj.cappa import pretrain
from big_vision.training import config_check

FILE = pathlib.Path(__file__).parents[1] / "golden/configs_generative.json.gz"
GOLDEN = json.loads(gzip.decompress(FILE.read_bytes()))["proj.cappa.pretrain"]


def plain(config):
  """A config as JSON stores it: without tuples."""
  return json.loads(json.dumps(config.to_dict()))


@pytest.mark.parametrize("arg", GOLDEN)
def test_same_as_stored(arg):
  assert plain(pretrain.get_config(arg or None)) == GOLDEN[arg]


def test_arguments():
  config = pretrain.get_config("batch_size=64,total_steps=10,warmup_steps=3")
  assert config.input.batch_size == config.batch_size == 64
  assert config.total_steps == 10
  assert config.schedule.warmup_steps == 3


@pytest.mark.tf
def test_demo():
  config = pretrain.get_config("demo")
  config_check.check(config)
  assert config.input.data.name == "shapes/closeup"
  assert config.model.masked_pred_prob == 0.25
  assert sorted(config.evals) == ["scoring", "val"]
