"""Sweeps: what is run, repeated, reported and stopped, with a trainer that pretends."""

import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from big_vision.tools import sweep

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "big_vision/configs/quickstart.py"

# Fails for lr=0.1; counts its starts.
TRAINER = """
  import json, os, re, sys, time
  args = dict(a[2:].split("=", 1) for a in sys.argv[1:])
  workdir = args["workdir"]
  os.makedirs(workdir, exist_ok=True)
  with open(f"{workdir}/starts", "a") as f:
    f.write(os.environ.get("CUDA_VISIBLE_DEVICES", "-") + "\\n")
  lr, seed = float(args["config.lr"]), int(args.get("config.seed", 0))
  if lr == 0.1:
    print("Error: lr is too large")
    sys.exit(1)
  if lr == 0.2:
    raise RuntimeError("training_loss is nan at step 3")
  if lr == 0.3:
    os.kill(os.getpid(), 9)
  if lr == 0.4:
    print("waiting", flush=True)
    time.sleep(600)
  with open(f"{workdir}/big_vision_metrics.txt", "w") as f:
    for step in (1, 2):
      row = {"step": step, "training_loss": lr / step, "l2_params": 3.0}
      f.write(json.dumps(row) + "\\n")
    f.write(json.dumps({"step": 2, "test/prec@1": 10 * lr + seed}) + "\\n")
"""


@pytest.fixture
def trainer(tmp_path, monkeypatch):
  folder = tmp_path / "modules"
  folder.mkdir()
  (folder / "pretends.py").write_text(textwrap.dedent(TRAINER))
  monkeypatch.chdir(ROOT)
  monkeypatch.syspath_prepend(folder)
  monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
  return "pretends"


def run(workdir, *args, trainer="pretends"):
  return sweep.main(
    [
      f"--config={CONFIG}",
      f"--workdir={workdir}",
      f"--trainer={trainer}",
      *args,
    ]
  )


def table(workdir):
  with open(workdir / "sweep.csv", encoding="utf-8") as f:
    return list(csv.DictReader(f))


def starts(workdir):
  return {
    p.parent.name: p.read_text().split() for p in workdir.glob("*/starts")
  }


def test_grid(trainer, tmp_path, capsys):
  w = tmp_path / "w"
  args = ["--grid", "lr=0.01,0.02", "--grid", "seed=0,1", "--jobs", "2"]
  assert run(w, *args) == 0
  rows = table(w)
  # The highest accuracy first.
  assert [(r["lr"], r["seed"]) for r in rows] == [
    ("0.02", "1"), ("0.01", "1"), ("0.02", "0"), ("0.01", "0"),
  ]  # fmt: skip
  assert [r["test/prec@1"] for r in rows] == ["1.2", "1.1", "0.2", "0.1"]
  assert all(r["status"] == "finished" and r["step"] == "2" for r in rows)
  assert rows[0]["workdir"] == str(w / "lr=0.02,seed=1")
  out = capsys.readouterr().out
  assert "Ranked by test/prec@1" in out
  assert re.search(r"lr +seed +test/prec@1 +training_loss +status", out)
  page = (w / "sweep.html").read_text()
  assert "<td>1.2</td>" in page and "lr=0.02,seed=1" in page
  assert page.count('"test/prec@1"') >= 4  # The curves.
  # Again: nothing is left to do.
  assert run(w, *args) == 0
  assert "4 of 4 runs have finished before" in capsys.readouterr().out
  # More values; another metric.
  assert run(w, "--grid=lr=0.01,0.02,0.005", "--grid=seed=0,1",
             "--metric=training_loss") == 0  # fmt: skip
  assert set(map(len, starts(w).values())) == {1} and len(starts(w)) == 6
  assert table(w)[0]["lr"] == "0.005"
  # Another config of the same values is another run.
  assert run(w, *args, "--config.total_epochs", "7") == 0
  assert sorted(map(len, starts(w).values())) == [1, 1, 2, 2, 2, 2]


def test_failures_are_rows(trainer, tmp_path, capsys):
  w = tmp_path / "w"
  args = ["--grid", "lr=0.1,0.2,0.3,0.01"]
  assert run(w, *args) == 1
  rows = {r["lr"]: r for r in table(w)}
  assert list(rows)[0] == "0.01" and rows["0.01"]["status"] == "finished"
  assert rows["0.1"]["status"] == "failed"
  assert rows["0.1"]["why"] == "Error: lr is too large"
  assert rows["0.2"]["why"] == "RuntimeError: training_loss is nan at step 3"
  assert "SIGKILL" in rows["0.3"]["why"]
  assert "lr is too large" in capsys.readouterr().out
  assert "lr is too large" in (w / "sweep.html").read_text()
  # Failed ones are tried again.
  assert run(w, *args) == 1
  assert {k: len(v) for k, v in starts(w).items()} == {
    "lr=0.1": 2, "lr=0.2": 2, "lr=0.3": 2, "lr=0.01": 1,
  }  # fmt: skip


def test_torn_records_and_killed_sweeps_count_as_unfinished(trainer, tmp_path):
  w = tmp_path / "w"
  assert run(w, "--grid=lr=0.01,0.02") == 0
  (w / "lr=0.01" / "sweep.json").write_text('{"status": "fin')
  (w / "lr=0.02" / "sweep.json").unlink()  # Killed before it was written.
  assert run(w, "--grid=lr=0.01,0.02") == 0
  assert set(map(len, starts(w).values())) == {2}


def test_each_run_has_a_gpu(trainer, tmp_path):
  w = tmp_path / "w"
  assert (
    run(w, "--random", "lr=log(1e-3,1e-2)", "--trials=4", "--gpus=5,7") == 0
  )
  used = [gpu for gpus in starts(w).values() for gpu in gpus]
  assert len(used) == 4 and set(used) == {"5", "7"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_stops_the_runs(trainer, tmp_path, number):
  w = tmp_path / "w"
  process = subprocess.Popen(
    [sys.executable, "-m", "big_vision.tools.sweep", f"--config={CONFIG}",
     f"--workdir={w}", "--trainer=pretends", "--grid=lr=0.4,0.01", "--jobs=2",
     "--grid=seed=0,1"],
    stdout=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip
  log = w / "lr=0.4,seed=1" / "sweep.log"
  deadline = time.time() + 120
  while not (log.exists() and "waiting" in log.read_text()):
    assert time.time() < deadline and process.poll() is None
    time.sleep(0.1)
  process.send_signal(number)
  out, _ = process.communicate(timeout=120)
  assert process.returncode == 130
  assert "Interrupted. The same command again continues." in out
  rows = {(r["lr"], r["seed"]): r["status"] for r in table(w)}
  assert rows["0.4", "1"] == "unfinished"
  running = subprocess.run(["ps", "-ef"], capture_output=True, text=True).stdout
  assert str(w) not in running


@pytest.mark.parametrize(
  "args, message",
  [
    ([], "Nothing to sweep"),
    (["--grid=lrr=1,2"], "config.lrr is not a known key"),
    (["--grid=lr=1,x"], "config.lr=x must be a number"),
    (["--grid=lr=1,-1"], "config.lr = -1.0"),
    (["--grid=model_name=vit,vitt"], "vitt.*vit"),
    (["--grid=lr=1,2", "--config.lr=3"], "given by --grid or --random"),
    (["--grid=lr=1,2", "--config.total_stepz=3"], "total_stepz.*total_steps"),
    (["--grid=lr=1,2", "--jobs=0"], "--jobs 0"),
    (["--random=lr=log(1,2)"], "belong together"),
    (["--grid=lr=1,2", "--trials=3"], "belong together"),
    (["--grid=lr=1,2", "--trainer=not_there"], "no such module"),
  ],
)
def test_nothing_starts_if_something_is_wrong(trainer, tmp_path, args, message):
  with pytest.raises(SystemExit, match=f"Error: .*{message}") as e:
    run(tmp_path / "w", *args)
  assert "\n" not in str(e.value)
  assert not (tmp_path / "w").exists()


def test_dry_run(trainer, tmp_path, capsys):
  assert run(tmp_path / "w", "--grid=lr=1,2", "--dry_run") == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2 and all("-m pretends" in line for line in lines)
  assert not (tmp_path / "w").exists()


def test_help_needs_no_jax():
  code = (
    "import sys; from big_vision.tools import sweep\n"
    "try: sweep.main(['--help'])\n"
    "except SystemExit: print('jax' in sys.modules)"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
  )
  assert out.stdout.splitlines()[-1] == "False", out.stderr


@pytest.mark.tf
@pytest.mark.slow
def test_trains(tfds_data_dir, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv("XLA_FLAGS", "")
  args = [
    "--grid=lr=1e-3,1e-2", "--config.total_steps=4", "--config.evals=None",
    "--config.log_training_steps=2", "--config.input.data.split=train[:64]",
    "--config.model.depth=1", "--jobs=2",
  ]  # fmt: skip
  w = tmp_path / "w"
  assert run(w, *args, trainer="big_vision.train") == 0
  rows = table(w)
  assert [r["step"] for r in rows] == ["4", "4"]
  losses = [float(r["training_loss"]) for r in rows]
  assert losses == sorted(losses)
  config = json.loads((w / "lr=1e-2" / "config.json").read_text())
  assert (config["lr"], config["model"]["depth"]) == (0.01, 1)
