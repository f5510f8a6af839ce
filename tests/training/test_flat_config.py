"""Configs with their data at the top level."""

import ml_collections as mlc
import pytest

from big_vision.training import flat_config


def flat(**kw):
  return mlc.ConfigDict(
    {
      "dataset": "digits",
      "train_split": "train[:9]",
      "dataset_dir": "/d",
      "pp_train": "decode",
      "batch_size": 8,
      "shuffle_buffer_size": 10,
      "cache_raw": True,
      "prefetch_to_host": 4,
      "prefetch_to_device": 2,
      "num_epochs": 3,
      "checkpoint_steps": 5,
      "keep_checkpoint_steps": 10,
      "checkpoint_timeout": 7,
      "lr": 0.1,
      "evals": {
        "val": {
          "dataset": "d",
          "split": "test",
          "type": "mean",
          "log_steps": 2,
        },
        "own": {"dataset": "d", "split": "s", "dataset_dir": "/e"},
        "new": {"data": {"name": "x"}},
      },
      **kw,
    }
  )


def test_everything_goes_where_it_belongs():
  config = flat()
  config.twice = 2 * config.get_ref("lr")
  got = flat_config.modern(config)
  assert got.to_dict() == {
    "input": {
      "data": {"name": "digits", "split": "train[:9]", "data_dir": "/d"},
      "pp": "decode",
      "batch_size": 8,
      "shuffle_buffer_size": 10,
      "cache_raw": True,
      "prefetch": 4,
    },
    "prefetch_to_device": 2,
    "total_epochs": 3,
    "ckpt_steps": 5,
    "keep_ckpt_steps": 10,
    "ckpt_timeout": 7,
    "lr": 0.1,
    "twice": 0.2,
    "evals": {
      "val": {
        "data": {"name": "d", "split": "test", "data_dir": "/d"},
        "type": "mean",
        "log_steps": 2,
      },
      "own": {"data": {"name": "d", "split": "s", "data_dir": "/e"}},
      "new": {"data": {"name": "x"}},
    },
  }
  assert config.batch_size == 8  # Left as it was.
  got.more = 1  # Not locked.


def test_others_stay_what_they_are():
  modern = mlc.ConfigDict({"input": {"batch_size": 8}, "dataset": "x"})
  assert flat_config.modern(modern) is modern
  neither = mlc.ConfigDict({"lr": 1.0})
  assert flat_config.modern(neither) is neither


@pytest.mark.parametrize(
  "kw, message",
  [
    (
      {"total_epochs": 2},
      "config.num_epochs is the old name of .*total_epochs",
    ),
    ({"total_steps": 2}, "config.num_epochs and config.total_steps"),
    (
      {"keep_checkpoint_steps": 7},
      "keep_checkpoint_steps=7 must be a multiple",
    ),
    ({"checkpoint_steps": None}, "of config.checkpoint_steps=None"),
  ],
)
def test_contradictions(kw, message):
  with pytest.raises(ValueError, match=message):
    flat_config.modern(flat(**kw))


def test_validation():
  config = flat(val_split="val", pp_eval="decode|x", log_eval_steps=7)
  del config.evals["val"]
  got = flat_config.modern(config).to_dict()
  assert got["evals"]["val"] == {
    "type": "classification",
    "data": {"name": "digits", "split": "val", "data_dir": "/d"},
    "pp_fn": "decode|x",
    "loss_name": "sigmoid_xent",
    "log_steps": 7,
  }
  assert not {"val_split", "pp_eval", "log_eval_steps"} & set(got)
  # An evaluator of this name is not replaced.
  config = flat(val_split="val", pp_eval="decode|x", log_eval_steps=7)
  assert flat_config.modern(config).evals.val.type == "mean"
  del config["pp_eval"]
  with pytest.raises(ValueError, match="config.pp_eval is missing.*val_split"):
    flat_config.modern(config)


def test_groups_of_devices():
  """How CapPa's trainer was told its mesh."""
  given = mlc.ConfigDict(
    {"input": {"batch_size": 8}, "num_sharded_replicas": 2}
  )
  config = flat_config.modern(given)
  assert "num_sharded_replicas" not in config
  assert config.mesh == [("replica", 2), ("fsdp", -1)]
  assert config.sharding_rules == [("act_batch", ("replica", "fsdp"))]
  assert config.input.batch_size == 8 and "mesh" not in given
  given.mesh = [("data", -1)]
  with pytest.raises(ValueError, match=r"num_sharded_replicas.*config\.mesh"):
    flat_config.modern(given)
