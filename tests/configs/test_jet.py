"""The config of Jet: as it is stored, and its tiny form."""

import copy
import json

import pytest

from big_vision import optax
from big_vision.configs.proj.jet import imagenet64
from big_vision.training import config_check

PP = 'decode|resize(64)|value_range(-1, 1)|keep("image")'


def evaluator(split):
  return {
    "type": "mean",
    "pred": "loss",
    "data": {"name": "downsampled_imagenet/64x64", "split": split},
    "pp_fn": PP,
    "log_percent": 0.05,
  }


STORED = {
  "mode": "",
  "seed": 0,
  "total_epochs": 200,
  "input": {
    "data": {"name": "downsampled_imagenet/64x64", "split": "train"},
    "batch_size": 1024,
    "shuffle_buffer_size": 250_000,
    "pp": PP,
  },
  "log_training_steps": 50,
  "ckpt_steps": 5000,
  "model_name": "proj.jet.jet",
  "model": {
    "depth": 32,
    "block_depth": 2,
    "emb_dim": 512,
    "num_heads": 8,
    "kinds": ["channels", "channels", "channels", "channels", "spatial"],
    "channels_coupling_projs": ["random"],
    "spatial_coupling_projs": [
      "checkerboard",
      "checkerboard-inv",
      "vstripes",
      "vstripes-inv",
      "hstripes",
      "hstripes-inv",
    ],
  },
  "optax_name": "scale_by_adam",
  "optax": {"mu_dtype": "bfloat16", "b2": 0.95},
  "grad_clip_norm": 1.0,
  "lr": 3e-4,
  "wd": 1e-5,
  "wd_mults": [[".*", 1.0]],
  "schedule": [
    [".*FREEZE_ME.*", None],
    [".*", {"decay_type": "cosine", "warmup_percent": 0.1}],
  ],
  "evals": {
    "minitrain_bits": evaluator("train[:4096]"),
    "val_bits": evaluator("validation"),
  },
}


def stored_local():
  config = copy.deepcopy(STORED)
  del config["total_epochs"]
  config["mode"] = "runlocal"
  config["total_steps"] = 200
  config["input"] |= {"batch_size": 32, "shuffle_buffer_size": 10}
  config["model"] |= {"depth": 1, "block_depth": 1}
  config["evals"] = {
    "minitrain_bits": evaluator("train[:16]"),
    "val_bits": evaluator("validation[:16]"),
  }
  return config


@pytest.mark.parametrize(
  "arg, want",
  [
    (None, STORED),
    ("runlocal", stored_local()),
    ("mode=runlocal", stored_local()),
  ],
)
def test_same_as_stored(arg, want):
  got = imagenet64.get_config(arg)
  assert json.loads(json.dumps(got.to_dict())) == want
  optax.check(got)


def test_unknown_mode():
  with pytest.raises(ValueError, match="mode='local' should be 'runlocal'"):
    imagenet64.get_config("local")


@pytest.mark.tf
def test_demo():
  config = imagenet64.get_config("demo")
  config_check.check(config)
  assert config.input.data.name == "shapes/32"
  assert config.input.pp == PP.replace("64", "32")
  assert config.evals.val_bits.pp_fn == config.input.pp
  assert config.model.emb_dim == 64
  assert config.schedule[0] == (".*FREEZE_ME.*", None)
  assert "total_epochs" not in config
