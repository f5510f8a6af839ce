"""Trackers: what they get, that they continue, that they cannot end a run.

Modules that record calls stand in for the libraries, which are not installed with
the package; where one is, its offline mode is tried as well.
"""

import json
import logging
import os
import sys
import threading
import types

import ml_collections as mlc
import numpy as np
import pytest

from big_vision import lookup, metrics, trackers
from big_vision.training import loop

CONFIG = dict(lr=0.1, model=dict(width=8, patch_size=(4, 4)), resume=None)
ROWS = [
  (1, {"training_loss": 1.5, "val/prec@1": 0.25}),
  (2, {"training_loss": float("inf")}),
]


def make(tmp_path, *names, **kw):
  config = mlc.ConfigDict({**CONFIG, "trackers": list(names)})
  return metrics.BigVisionMetricWriter(
    workdir=tmp_path and str(tmp_path / "pets"), config=config, **kw
  )


def write(writer, rows=ROWS):
  for step, values in rows:
    writer.step_start(step)
    for name, value in values.items():
      writer.measure(name, value)
    writer.measure("shape", np.zeros(3))  # No number.
    writer.step_end()


class Wandb(types.SimpleNamespace):
  """Records what `wandb.init` and the run get."""

  def __init__(self):
    super().__init__(calls=[])

  def init(self, **kw):
    self.calls.append(("init", kw))
    record = lambda name: (
      lambda *a, **kw: self.calls.append((name, *a, *kw.values()))
    )
    names = ("log", "finish", "define_metric", "mark_preempting")
    kw["id"] = kw["id"] or "new1"
    return types.SimpleNamespace(id=kw["id"], **{n: record(n) for n in names})


@pytest.fixture
def wandb(monkeypatch):
  fake = Wandb()
  monkeypatch.setitem(sys.modules, "wandb", fake)
  for key in [k for k in os.environ if k.startswith("WANDB_")]:
    monkeypatch.delenv(key)
  return fake


def test_rows_and_config(tmp_path, wandb):
  writer = make(tmp_path, "wandb", hold=True)
  writer.step_start(0)
  writer.measure("num_params", 7)
  writer.step_end(initial=True)
  assert not wandb.calls  # The run has not started.
  writer.begin()
  write(writer)
  writer.close()
  init, axis, *rest = wandb.calls
  assert init[1]["config"]["model"] == {"width": 8, "patch_size": [4, 4]}
  assert init[1]["name"] == "pets" and init[1]["project"] == "big_vision"
  assert init[1]["dir"] == str(tmp_path / "pets")
  assert axis == ("define_metric", "*", "step")
  assert rest == [
    ("log", {"step": 0, "num_params": 7.0}),
    *(("log", {"step": step, **values}) for step, values in ROWS),
    ("finish", 0),
  ]


def test_values_are_those_of_the_file(tmp_path, wandb):
  writer = make(tmp_path, "wandb")
  write(writer)
  writer.close()
  file = (tmp_path / "pets/big_vision_metrics.txt").read_text().splitlines()
  rows = [json.loads(line) for line in file]
  assert all(row.pop("shape") == [3] for row in rows)
  assert rows == [call[1] for call in wandb.calls if call[0] == "log"]


def test_resume_continues_the_run(tmp_path, wandb):
  make(tmp_path, "wandb").close()
  ids = tmp_path / "pets/trackers.json"
  assert json.loads(ids.read_text()) == {"wandb": "new1"}
  ids.write_text('{"wandb": "abc", "mlflow": "x"}')
  make(tmp_path, "wandb").close()
  starts = [call[1] for call in wandb.calls if call[0] == "init"]
  assert [s["id"] for s in starts] == ["new1", "abc"]
  assert all(s["resume"] == "allow" for s in starts)
  assert json.loads(ids.read_text()) == {"wandb": "abc", "mlflow": "x"}
  ids.write_text('{"wandb": "a')  # A killed run.
  make(tmp_path, "wandb").close()
  assert json.loads(ids.read_text()) == {"wandb": "new1"}


def test_without_workdir(wandb):
  writer = make(None, "wandb")
  write(writer)
  writer.close()
  assert [c[0] for c in wandb.calls].count("log") == 2
  assert wandb.calls[0][1]["dir"] is None


def test_failed_runs_are_told_apart(tmp_path, wandb):
  with pytest.raises(RuntimeError):
    writer = make(tmp_path, "wandb")
    try:
      raise RuntimeError("training diverged")
    finally:
      writer.close()
  assert wandb.calls[-1] == ("finish", 1)
  assert ("mark_preempting",) not in wandb.calls


def close_preempted(writer):
  with pytest.raises(loop.Preempted):
    try:
      raise loop.Preempted(128 + 15)
    finally:
      writer.close()


def test_preempted_runs_have_not_failed(tmp_path, wandb):
  close_preempted(make(tmp_path, "wandb"))
  assert wandb.calls[-2:] == [("mark_preempting",), ("finish", 1)]
  make(tmp_path, "wandb").close()  # The same run goes on.
  assert wandb.calls[-1] == ("finish", 0)
  ids = [c[1]["id"] for c in wandb.calls if c[0] == "init"]
  assert ids == ["new1", "new1"]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_what_fails_costs_one_warning(tmp_path, wandb, caplog, where):
  def fail(*args, **kw):
    raise OSError("no\nnetwork")

  if where == "init":
    wandb.init = fail
  else:
    init = wandb.init

    def start(**kw):
      run = init(**kw)
      setattr(run, where, fail)
      return run

    wandb.init = start
  writer = make(tmp_path, "wandb")
  with caplog.at_level(logging.WARNING):
    write(writer)
    write(writer, [(s, {"training_loss": 1.0}) for s in range(3, 20)])
    writer.close()
  # tensorboardX warns about the infinite value.
  warnings = [r.getMessage() for r in caplog.records if r.name == "absl"]
  assert len(warnings) == 1, warnings
  assert "config.trackers: wandb failed" in warnings[0]
  assert "OSError: no network" in warnings[0]
  lines = (tmp_path / "pets/big_vision_metrics.txt").read_text().splitlines()
  assert len(lines) == 19


def test_a_tracker_that_hangs_does_not_keep_the_run(
  tmp_path, wandb, caplog, monkeypatch
):
  monkeypatch.setattr(trackers, "TIMEOUT", 0.1)
  go = threading.Event()
  wandb.init = lambda **kw: go.wait(20)
  writer = make(tmp_path, "wandb")
  with caplog.at_level(logging.WARNING):
    write(writer)
    writer.close()
  assert "wandb was still sending" in caplog.text
  go.set()


def test_process_0_only(tmp_path, wandb, monkeypatch):
  monkeypatch.setattr(metrics.jax, "process_index", lambda: 1)
  writer = make(tmp_path, "wandb")
  write(writer)
  writer.close()
  assert not wandb.calls and not (tmp_path / "pets").exists()


def test_mlflow(tmp_path, monkeypatch):
  calls = []

  class Client:
    def __getattr__(self, name):
      def method(*args, **kw):
        calls.append((name, *args, kw))
        if name == "get_experiment_by_name":
          return None
        info = types.SimpleNamespace(run_id="r7")
        return types.SimpleNamespace(info=info)

      return method

  entities = types.SimpleNamespace(
    Metric=lambda *a: a[:2] + a[3:], Param=lambda *a: a
  )
  monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
  fake = types.SimpleNamespace(MlflowClient=Client, entities=entities)
  monkeypatch.setitem(sys.modules, "mlflow", fake)
  writer = make(tmp_path, "mlflow")
  write(writer)
  writer.close()
  names = [c[0] for c in calls]
  assert names == [
    "get_experiment_by_name", "create_experiment", "create_run", "log_batch",
    "log_dict", "log_batch", "log_batch", "set_terminated",
  ]  # fmt: skip
  params = dict(calls[3][-1]["params"])
  assert params["model.width"] == "8" and params["lr"] == "0.1"
  # Its names have no @.
  assert calls[5][-1]["metrics"] == [
    ("training_loss", 1.5, 1), ("val/prec_at_1", 0.25, 1)
  ]  # fmt: skip
  assert calls[-1] == ("set_terminated", "r7", "FINISHED", {})
  calls.clear()
  make(tmp_path, "mlflow").close()
  assert [c[0] for c in calls] == ["update_run", "log_dict", "set_terminated"]
  assert calls[0] == ("update_run", "r7", {"status": "RUNNING"})
  close_preempted(make(tmp_path, "mlflow"))
  assert calls[-1] == ("set_terminated", "r7", "KILLED", {})


def test_trackio(tmp_path, monkeypatch):
  calls = []

  def init(**kw):
    calls.append(kw)
    log = lambda values, step: calls.append((step, values))
    return types.SimpleNamespace(log=log, finish=lambda: calls.append("end"))

  fake = types.SimpleNamespace(init=init)
  monkeypatch.setitem(sys.modules, "trackio", fake)
  monkeypatch.setenv("TRACKIO_PROJECT", "animals")
  for _ in range(2):
    writer = make(tmp_path, "trackio")
    write(writer)
    writer.close()
  first, second = (c for c in calls if isinstance(c, dict))
  assert first["name"] == second["name"]  # By which it is found again.
  assert first["name"].startswith("pets-")
  assert first["project"] == "animals" and first["resume"] == "allow"
  assert calls[1:4] == [*ROWS, "end"]


def test_tensorboard_has_the_config(tmp_path):
  for name, names in (("pets", ["tensorboard"]), ("none", [])):
    config = mlc.ConfigDict({**CONFIG, "trackers": names})
    writer = metrics.BigVisionMetricWriter(
      workdir=str(tmp_path / name), config=config
    )
    write(writer)
    writer.close()
    (path,) = (tmp_path / name).glob("events.out.*")
    has_config = b'"patch_size"' in path.read_bytes()
    assert has_config == bool(names)


def test_nothing_by_default(tmp_path, monkeypatch):
  monkeypatch.setattr(trackers, "Trackers", None)
  for config in (None, {}, mlc.ConfigDict(CONFIG), dict(trackers=None)):
    writer = metrics.BigVisionMetricWriter(workdir=str(tmp_path), config=config)
    write(writer)
    writer.close()
  assert not (tmp_path / "trackers.json").exists()


def test_names():
  assert trackers.names(dict(trackers="wandb, mlflow")) == ["wandb", "mlflow"]
  assert trackers.names(dict(trackers=("wandb", "wandb"))) == ["wandb"]
  assert trackers.names(None) == trackers.names({}) == []
  with pytest.raises(lookup.ConfigError, match="config.trackers.*'wandb'"):
    trackers.names(dict(trackers=["wandbb"]))


def test_missing_library(monkeypatch):
  monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(lookup.ConfigError) as e:
    trackers.check(dict(trackers=["mlflow"]))
  assert str(e.value) == (
    "config.trackers: 'mlflow' needs a package that is not installed: "
    "pip install mlflow"
  )
  trackers.check({})


def test_mlflow_files(tmp_path, monkeypatch):
  """The library itself."""
  mlflow = pytest.importorskip("mlflow")
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "animals")
  before = mlflow.get_tracking_uri()
  mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
  try:
    for rows in (ROWS[:1], ROWS[1:]):
      writer = make(tmp_path, "mlflow")
      write(writer, rows)
      writer.close()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("animals")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "pets"
    assert run.data.params["model.width"] == "8"
    history = client.get_metric_history(run.info.run_id, "training_loss")
    assert [(m.step, m.value) for m in history] == [
      (step, values["training_loss"]) for step, values in ROWS
    ]
    assert run.data.metrics["val/prec_at_1"] == 0.25
  finally:
    mlflow.set_tracking_uri(before)


def test_wandb_offline(tmp_path, monkeypatch):
  """The library itself."""
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_SILENT", "true")
  for rows in (ROWS[:1], ROWS[1:]):
    writer = make(tmp_path, "wandb")
    write(writer, rows)
    writer.close()
  run_id = json.loads((tmp_path / "pets/trackers.json").read_text())["wandb"]
  files = sorted((tmp_path / "pets/wandb").glob(f"offline*/run-{run_id}.wandb"))
  assert len(files) == 2  # Both are uploaded to one run.
  assert b"val/prec@1" in files[0].read_bytes()
  assert b"patch_size" in files[0].read_bytes()


def test_trackio_offline(tmp_path, monkeypatch):
  """The library itself."""
  import sqlite3

  monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
  monkeypatch.setenv("TRACKIO_PROJECT", "animals")
  pytest.importorskip("trackio")
  for rows in (ROWS[:1], ROWS[1:]):
    writer = make(tmp_path, "trackio")
    write(writer, rows)
    writer.close()
  database = sqlite3.connect(tmp_path / "trackio/animals.db")
  found = database.execute("select run_name, step from metrics order by step")
  (name, one), (again, two) = found.fetchall()
  assert name == again and (one, two) == (1, 2)
