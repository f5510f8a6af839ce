"""Real processes that are killed, in small: the long form is a command."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from big_vision.faults import compare, config, runner, schedule, trial, warm

pytestmark = pytest.mark.tf
S = schedule


@pytest.fixture(scope="module")
def trials(tmp_path_factory, tfds_data_dir):
  """Of the smallest method; starts come from one process."""
  workdir = tmp_path_factory.mktemp("faults")
  env = runner.environment(str(workdir)) | {"TFDS_DATA_DIR": tfds_data_dir}
  with warm.Server(env) as server:
    yield trial.Trials(
      "train",
      str(workdir),
      popen=server.popen,
      patience=120,
      say=lambda x: None,
    )


def test_two_kills(trials):
  """One during the training, one of a run that has just been resumed."""
  plan = S.Schedule(
    0,
    (
      S.Life(1, 2, (S.Fault(S.KILL_ALL, S.STEP, step=12),)),
      S.Life(1, 2, (S.Fault(S.TERM, S.STEP, step=14),)),
      S.Life(1, 2),
    ),
  )
  result = trials.run(plan)
  assert not result.problems
  first, second, last = result.lives
  assert first.statuses == [-signal.SIGKILL]
  assert first.faults[0].startswith("kill_all@step:")
  assert first.last_step >= 12 and 0 < second.first_step <= first.last_step + 1
  assert second.lost_steps < 2 * config.CKPT_STEPS
  assert second.statuses == [128 + signal.SIGTERM] and last.lost_steps == 0
  assert last.finished and last.last_step == config.TOTAL_STEPS
  assert result.difference is not None and result.difference.nothing
  trial.write(result, trials.workdir)
  (row,) = trial.read(trials.workdir)
  assert row["lives"][1]["statuses"] == [143] and row["problems"] == []
  assert json.loads(json.dumps(row)) == row
  assert "| train | 1 | 2 | 0 |" in trial.table([row])


def test_last_step(tmp_path):
  """Of a life that repeats steps; half a line does not count."""
  run = runner.Run("train", str(tmp_path), shared=str(tmp_path))
  assert run._last_step() == runner.last_saved(str(tmp_path)) == 0
  lines = "".join(json.dumps({"step": i, "x": 1}) + "\n" for i in (38, 39, 36))
  (tmp_path / compare.FILES[0]).write_text(lines + '{"step": 4')
  assert run._last_step() == 36
  for name in ("35", "40.partial", "37-tmp", "38-tmp.old"):
    (tmp_path / f"checkpoint.bv-0000000{name}").mkdir()
  assert runner.last_saved(str(tmp_path)) == 37


def test_steps_that_are_computed_again():
  assert runner._lost(before=22, saved=20, first=21) == 2
  # The row of the checkpoint's own step is an evaluation that is made up for.
  assert runner._lost(before=20, saved=20, first=20) == 0
  assert runner._lost(before=22, saved=20, first=20) == 2
  assert runner._lost(before=7, saved=0, first=1) == 7
  assert runner._lost(before=0, saved=0, first=1) == 0
  assert runner._lost(before=7, saved=5, first=0) == 0  # Nothing is computed.


def test_what_should_not_happen():
  """Problems of records that are made here."""
  step = dict(first_step=1, last_step=20)
  killed = runner.Record(2, 2, ["kill_one@step:20"], statuses=[-9, 1], **step)
  done = runner.Record(2, 2, statuses=[0, 0], first_step=16, last_step=40)
  of = lambda *lives: trial.problems(lives)
  done.lost_steps = 9
  assert of(killed, done) == []
  done.lost_steps = 10
  assert of(killed, done) == ["Life 2 lost 10 steps."]
  killed.damage = "flip: a"  # Then an older checkpoint is the newest.
  assert of(killed, done) == []
  # Nor has one that was ended before it computed a step.
  stuck = runner.Record(2, 2, ["kill_one@start:20"], statuses=[-9, 1])
  assert of(killed, stuck, done) == []
  killed.damage = ""
  assert of(killed, stuck, done) == ["Life 3 lost 10 steps."]
  told = runner.Record(1, 2, ["term@step:20"], statuses=[143], **step)
  done.lost_steps = 1
  assert of(told, done) == ["Life 2 lost 1 steps."]
  died = runner.Record(1, 2, statuses=[1], says="Error: x", **step)
  assert of(died) == [
    "Life 1 ended by itself, [1]: Error: x", "The run has no end."
  ]  # fmt: skip
  died.hung = True
  assert of(died)[0] == "Life 1 hung."


def test_where_a_run_begins():
  """What was killed before its first checkpoint counts for nothing."""
  of = lambda *first_steps: trial.beginning(
    [runner.Record(1, 2, first_step=step) for step in first_steps]
  )
  assert of(1, 16, 0, 36) == 0
  assert of(0, 1, 16) == 1  # Killed while it compiled.
  assert of(1, 0, 1, 0, 11) == 2  # Killed before it saved.
  assert of(0, 0) == 0


def test_what_may_differ():
  """With the same number of devices nothing; else what rounding does."""
  metric = compare.Difference(metrics=((20, "val/loss"),), largest_metric=1e-7)
  state = compare.Difference(("params/w",), 1, 1e-7)
  far = compare.Difference(("params/w",), 1, 1e-3)
  missing = compare.Difference(missing=((compare.FILES[0], 7),))
  wrong = lambda found: [
    bool(trial.differences(found, layout)) for layout in schedule.LAYOUTS
  ]
  assert schedule.LAYOUTS == ("same", "processes", "devices")
  assert wrong(compare.Difference()) == [False, False, False]
  assert wrong(metric) == wrong(state) == [True, True, False]
  assert wrong(far) == wrong(missing) == [True, True, True]


def test_last_words():
  """Of a process that was not killed; stacks are no words."""
  lines = runner._Lines(lambda line: None)
  for line in (
    "[0] before\n",
    "[1] Error: host 0 is gone\n",
    "[1]   File x\n",
    "[0] last of the killed\n",
  ):
    lines.add(line)
  assert lines.last_words([-9, 1]) == "[1] Error: host 0 is gone"
  assert lines.last_words([1, -9]) == "[0] last of the killed"
  assert lines.last_words([0, 0]) == ""


def test_processes_of_the_server(tmp_path, monkeypatch):
  """Statuses, signals and output, without what trainings import."""
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  script = (
    "import sys, time, os\nprint(os.environ['WORD'], *sys.argv[1:])\n"
    "if sys.argv[1] == 'exit': sys.exit('bye')\n"
    "if sys.argv[1] == 'raise': raise ValueError('bad')\n"
    "if sys.argv[1] == 'sleep': time.sleep(100)\n"
  )
  (tmp_path / "some_script.py").write_text(script)
  env = {**os.environ, "WORD": "hello", "JAX_NUM_CPU_DEVICES": "2"}
  with warm.Server({}, modules=()) as server:
    start = lambda what: server.popen(
      [sys.executable, "-m", "some_script", what], env=env
    )
    texts, statuses = [], []
    for what in ("end", "exit", "raise"):
      process = start(what)
      texts.append(process.communicate()[0])
      statuses.append(process.returncode)
    assert statuses == [0, 1, 1]
    assert texts[0] == "hello end\n" and texts[1] == "hello exit\nbye\n"
    assert texts[2].endswith("ValueError: bad\n")
    sleeping = start("sleep")
    assert sleeping.stdout.readline() == "hello sleep\n"
    assert sleeping.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
      sleeping.wait(timeout=0.01)
    begin = time.monotonic()
    sleeping.kill()
    assert sleeping.wait() == -signal.SIGKILL
    assert time.monotonic() - begin < 50


@pytest.mark.parametrize("kind", schedule.DAMAGES)
def test_damage_only_where_a_run_can_go_back(tmp_path, kind):
  how = schedule.Damage(kind, (0.0, 0.5))
  assert runner.damage(str(tmp_path), how) == ""
  new = tmp_path / "checkpoint.bv-000000009-tmp/w"
  new.mkdir(parents=True)
  (new / "0.0").write_bytes(b"0123")
  assert runner.damage(str(tmp_path), how) == ""
  (tmp_path / "checkpoint.bv-000000005").mkdir()
  said = runner.damage(str(tmp_path), how)
  assert said == f"{kind}: checkpoint.bv-000000009-tmp/w/0.0"
  if kind == "remove":
    assert list(new.iterdir()) == []
  else:
    want = {"truncate": b"01", "flip": b"01" + bytes([ord("2") ^ 16]) + b"3"}
    assert (new / "0.0").read_bytes() == want[kind]
