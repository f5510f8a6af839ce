"""The command of the fault runner; runs are in tests/faults."""

import json

import pytest

from big_vision.faults import config, trial
from big_vision.tools import faults
from big_vision.training import config_check


def test_it_knows_all_methods():
  assert tuple(config.METHODS) == faults.TRAINERS


@pytest.mark.tf
@pytest.mark.parametrize("trainer", faults.TRAINERS)
def test_configs(trainer):
  cfg = config.get_config(trainer)
  model = "student" if trainer == "distill" else "model"
  config_check.check_training(cfg, model)
  for devices in (2, 4, 6, 8):
    assert cfg.input.batch_size % devices == 0


def test_dry_run(tmp_path, capsys):
  args = ["--dry_run", "--schedules", "3", "--seed", "5"]
  assert faults.main([*args, "--workdir", str(tmp_path)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(",")[0] for line in lines] == [
    f"Schedule(seed={seed}" for seed in (5, 6, 7)
  ]
  assert not list(tmp_path.iterdir())


def test_what_is_done_is_not_repeated(tmp_path, capsys):
  """Results are those of the file; one of the two has failed."""
  life = dict(
    hosts=2, faults=["kill_one@step:7"], damage="", to_end=1.5,
    to_first_step=3.25, lost_steps=0,
  )  # fmt: skip
  rows = [
    dict(
      trainer="gsam", seed=seed, lives=[life, life | dict(lost_steps=2)],
      difference=dict(values=seed), devices=[4], problems=["bad"] * seed,
    )
    for seed in (0, 1)
  ]  # fmt: skip
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / trial.RESULTS).write_text(text)
  run = lambda seed: faults.main(
    [
      "--trainer=gsam",
      "--schedules=1",
      f"--seed={seed}",
      f"--workdir={tmp_path}",
    ]
  )
  assert run(0) == 0 and run(1) == 1
  table = capsys.readouterr().out.splitlines()[-1]
  assert (
    table == "| gsam | 2 | 4 | 1 | 1.5 (1.5) | 3.25 (3.25) | 2 (2) | 1 of 2 |"
  )


def test_errors(tmp_path, capsys):
  run = lambda *args: faults.main([*args, f"--workdir={tmp_path}"])
  assert run("--kinds=kil_all") == 1
  assert "Did you mean 'kill_all'?" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    run("--trainer=gasm")
  assert "invalid choice: 'gasm'" in capsys.readouterr().err
