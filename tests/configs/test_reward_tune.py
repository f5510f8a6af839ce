"""The config of reward tuning; its tiny form is trained for two steps."""

import pytest

import toy
from big_vision.configs.proj.reward_tune import detection, detection_reward
from big_vision.trainers.proj.reward_tune import detection_reward as rewards
from big_vision.trainers.proj.reward_tune import train
from big_vision.training import cli, config_check


def test_settings_of_the_paper():
  config = detection.get_config()
  assert rewards.Settings.of(config.reward) == rewards.Settings()
  assert config.model.vocab_size == 1084 and config.model.seq_len == 600
  assert config.reward.num_samples == 0
  tuned = detection.get_config("reward")
  assert tuned.reward.num_samples == 8 and tuned.reward.num_grads == 1


def test_at_its_published_place():
  assert detection_reward.reward_fn is rewards.reward_fn
  assert detection_reward.seq2box is rewards.seq2box
  assert detection_reward.iou_fn is rewards.iou_fn


@pytest.mark.tf
@pytest.mark.parametrize("arg", ["demo", "demo,reward"])
def test_check(arg):
  config_check.check(detection.get_config(arg))


@pytest.mark.tf
@pytest.mark.slow
def test_both_phases(tmp_path, quick_compilation):
  """Two steps of each, with all evaluators."""

  def run(arg, **kw):
    config = detection.get_config(arg)
    config.input.data.name = "shapes/tiny"
    for cfg in config.evals.values():
      cfg.data.name, cfg.batch_size = "shapes/tiny", 16
      cfg.pp_fn = cfg.pp_fn.replace("[2", "[3")
    config.evals.sampled.seeds = (0, 1)
    config.input.batch_size, config.total_steps = 16, 2
    config.update(kw)
    workdir = tmp_path / arg
    cli.train(train.build, config, str(workdir))
    return toy.rows(workdir)[2]

  first = run("demo")
  assert first["loss/loss"] > 0
  names = ("map", "map/std", "reward", "reward/std", "nms_penalty")
  assert all(f"sampled/{name}" in first for name in names)
  second = run("demo,reward", model_init=f"{tmp_path}/demo/checkpoint.bv")
  assert {"reward", "further_loss", "entropy", "val/map"} <= set(second)
