"""VTAB-1k in one command, on small datasets with the names and features of TFDS."""

import csv
import json
import types

import jax
import numpy as np
import pytest

from big_vision import checkpoints, metrics, train
from big_vision.configs import vtab_tasks
from big_vision.models import vit
from big_vision.sweeps import jobs, runs
from big_vision.tools import vtab
from big_vision.training import cli

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]


def make_datasets(folder):
  """Writes `smallnorb` and `kitti`: the label is the brightness of the picture."""
  from big_vision.datasets import embedded
  from big_vision.tf import tfds

  def write(dataset, splits, example):
    real = tfds.builder(dataset, data_dir=str(folder), try_gcs=False)

    class Small(embedded.Builder, skip_registration=True):
      name = dataset
      VERSION = real.version

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=real.info.features)

      def _split_generators(self, dl_manager):
        return {k: self._generate_examples(n) for k, n in splits.items()}

      def _generate_examples(self, num):
        for i in range(num):
          yield i, example(i * 7 % 4)

    embedded.prepare(lambda: Small(data_dir=str(folder)))

  def smallnorb(label):
    image = np.full((96, 96, 1), 40 + 60 * label, np.uint8)
    return dict(image=image, image2=image, instance=0, label_category=0,
                label_lighting=0, label_azimuth=label, label_elevation=2 * label)  # fmt: skip

  def kitti(label):
    zeros = dict.fromkeys(("alpha", "occluded", "truncated", "rotation_y"), 0)
    zeros |= dict(
      bbox=tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
      dimensions=np.zeros(3, np.float32),
    )
    objects = [
      dict(zeros, location=np.float32([0, 0, z]), type="Van")
      for z in (5, 15, 50)[label:]
    ]
    image = np.full((8, 16, 3), 40 + 60 * label, np.uint8)
    return {"image": image, "image/file_name": "x", "objects": objects}

  write("smallnorb", dict(train=800, test=400), smallnorb)
  write("kitti", dict(train=800, validation=200, test=60), kitti)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  make_datasets(folder)
  return str(folder)


@pytest.fixture
def in_process(monkeypatch, data_dir):
  """Runs the commands of jobs here, which saves starting processes."""
  monkeypatch.setenv("TFDS_DATA_DIR", data_dir)
  commands = []

  def run(todo, num, gpus, on_start, on_end):
    for job in todo:
      commands.append(job.command)
      on_start(job)
      config = runs.read_config(job.command[3:-1])
      cli.train(train.build, config, job.folder)
      record = dict(status="finished", why="", seconds=1.0, values={})
      record["fingerprint"] = job.fingerprint
      jobs._write(f"{job.folder}/{jobs.RECORD}", json.dumps(record))
      on_end(job, record)

  monkeypatch.setattr(jobs, "run", run)
  return commands


@pytest.fixture
def model(tmp_path, monkeypatch):
  """The workdir of a tiny model."""
  folder = tmp_path / "model"
  folder.mkdir()
  kw = dict(width=8, depth=2, mlp_dim=8, num_heads=2, patch_size=(4, 4))
  params = vit.Model(3, **kw).init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
  checkpoints.save_checkpoint(params["params"], str(folder / "params.npz"))
  config = types.SimpleNamespace(model_name="vit", model=kw, num_classes=3)
  (folder / "config.json").write_text(metrics.to_json(vars(config)))
  monkeypatch.setattr(
    "big_vision.pretrained.run_files.checkpoint_of",
    lambda path: f"{path}/params.npz",
  )
  return str(folder)


def table(workdir):
  with open(workdir / "vtab.csv", encoding="utf-8") as f:
    return {row["task"] + row["group"] * (row["task"] == "mean"): row
            for row in csv.DictReader(f)}  # fmt: skip


def test_linear(in_process, model, tmp_path, capsys):
  workdir = tmp_path / "vtab"
  tasks = "kitti_distance,dtd,smallnorb_elevation"
  argv = [
    f"--model={model}", f"--workdir={workdir}", "--mode=linear", f"--tasks={tasks}",
    "--res=8", "--config.input.batch_size=40", "--config.evals.test.methods=('ridge',)",
  ]  # fmt: skip
  assert vtab.main(argv) == 0
  rows = table(workdir)
  for task in ("kitti_distance", "smallnorb_elevation"):
    assert float(rows[task]["accuracy"]) == 1.0  # It can be seen.
    assert rows[task]["status"] == "finished"
  assert rows["dtd"]["accuracy"] == ""
  assert rows["dtd"]["status"] == (
    "not prepared: python -m big_vision.tools.download_tfds_datasets dtd"
  )
  assert float(rows["meanStructured"]["accuracy"]) == 1.0
  assert rows["meanNatural"]["status"] == "of 0 of 1"
  assert rows["meanAll tasks"]["status"] == "of 2 of 3"
  assert len(in_process) == 2
  capsys.readouterr()
  assert vtab.main(argv) == 0 and len(in_process) == 2  # Nothing again.
  out = capsys.readouterr().out
  assert "2 of 2 tasks have finished before" in out
  assert "| Structured | kitti_distance " in out
  # Another setting is another run.
  assert vtab.main([*argv[:3], argv[4], argv[5], argv[6], "--tasks=dtd",
                    "--dry_run"]) == 0  # fmt: skip
  assert "# dtd: not prepared" in capsys.readouterr().out


@pytest.mark.slow
def test_full(in_process, model, tmp_path):
  workdir = tmp_path / "vtab"
  argv = [
    f"--model={model}", f"--workdir={workdir}", "--tasks=smallnorb_azimuth", "--res=8",
    "--config.input.batch_size=40", "--config.total_steps=100", "--config.lr=0.3",
    "--config.schedule.warmup_steps=10",
  ]  # fmt: skip
  assert vtab.main(argv) == 0
  assert float(table(workdir)["smallnorb_azimuth"]["accuracy"]) > 0.5


def test_all_tasks_without_data(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "empty"))
  argv = ["--model=vit-s16", f"--workdir={tmp_path / 'w'}"]
  assert vtab.main(argv) == 1
  rows = table(tmp_path / "w")
  assert len(rows) == 19 + 4
  for name, task in vtab_tasks.TASKS.items():
    assert rows[name]["status"].endswith(
      f"download_tfds_datasets {task.dataset}"
    )
  capsys.readouterr()
  assert vtab.main([*argv, "--demo", "--dry_run", "--mode=linear"]) == 0
  commands = capsys.readouterr().out.splitlines()
  assert len(commands) == 19 and "task=caltech101,model=vit-s16" in commands[0]


@pytest.mark.parametrize(
  "argv, text",
  [
    (["--tasks=dtt"], "'dtt'.*dtd"),
    (["--jobs=0"], "--jobs 0"),
    (["--model=vit-s61", "--demo"], "model=vit-s61"),
  ],
)
def test_errors(argv, text, tmp_path):
  argv = ["--model=vit-s16", f"--workdir={tmp_path}", *argv]
  with pytest.raises(SystemExit, match=text):
    vtab.main(argv)
