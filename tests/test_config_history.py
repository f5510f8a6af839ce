"""Configs of the parts of a run."""

import json

import pytest

from big_vision import config_history, metrics


@pytest.fixture
def begin(tmp_path):
  """Starts a part of a run with a config, from a step on."""

  def begin(config, step):
    writer = metrics.BigVisionMetricWriter(
      workdir=str(tmp_path), config=config, hold=True
    )
    writer.begin(step)
    writer.close()

  return begin


def names(folder):
  return sorted(p.name for p in folder.glob("config*"))


def test_configs_that_held_before_are_kept(begin, tmp_path):
  first = {"lr": 0.1, "model": {"depth": 2}, "evals": {}}
  begin(first, 0)
  begin(first, 3)
  assert names(tmp_path) == ["config.json"]  # Nothing has changed.
  begin(first | {"lr": 0.2}, 5)
  begin(first | {"lr": 0.3}, 5)  # The one before came to nothing.
  begin(first | {"lr": 0.3, "wd": 1.0}, 1000)
  assert names(tmp_path) == ["config-1000.json", "config-5.json", "config.json"]
  assert json.loads((tmp_path / "config-5.json").read_text()) == first
  assert config_history.changes(str(tmp_path)) == {
    5: ["lr: 0.1 -> 0.3"],
    1000: ["wd: (none) -> 1.0"],
  }


def test_a_new_run_forgets_what_came_to_nothing(begin, tmp_path):
  begin({"lr": 0.1}, 0)
  begin({"lr": 0.2}, 0)
  assert names(tmp_path) == ["config.json"]
  assert config_history.changes(str(tmp_path)) == {}
  assert config_history.changes(str(tmp_path / "none")) == {}


@pytest.mark.parametrize("torn", ['{"lr": 0.', ""])
def test_a_torn_config(begin, tmp_path, torn):
  begin({"lr": 0.1}, 0)
  begin({"lr": 0.2}, 7)
  (tmp_path / "config-7.json").write_text(torn)
  assert config_history.changes(str(tmp_path)) == {}
  (tmp_path / "config.json").write_text(torn)
  begin({"lr": 0.3}, 9)
  assert names(tmp_path) == ["config-7.json", "config.json"]
