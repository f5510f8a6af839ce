"""The notebook of UViM, with random models and with those that demos train."""

import os
import re
import subprocess
import sys

import pytest

import notebook_runs
import uvim_runs
from big_vision import pictures

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]

CONFIGS = {
  "panoptic": "{}_coco_panoptic{}",
  "depth": "{}_nyu_depth{}",
  "colorization": "{}_imagenet2012_colorization{}",
}


def check(text, num_pictures, tasks):
  assert num_pictures == len(tasks)
  assert f"Tasks: {', '.join(tasks)}" in text
  for task in tasks:
    assert re.search(rf"{task}: \d+ different codes", text)
    assert re.search(rf"{task}: [\d.]+% of the codes are predicted", text)
  assert ("depth: RMSE" in text) == ("depth" in tasks)


def test_on_a_random_model(tmp_path, monkeypatch):
  monkeypatch.setenv("BV_UVIM", str(tmp_path))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  one = uvim_runs.stage_one(tmp_path / "depth_1", "depth")
  uvim_runs.stage_two(tmp_path / "depth", "depth", one)
  text, num = notebook_runs.texts(notebook_runs.run("uvim"))
  check(text, num, ["depth"])


@pytest.mark.slow
def test_on_demos(tmp_path, monkeypatch):
  monkeypatch.setenv("BV_UVIM", str(tmp_path))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")

  def train(trainer, config, workdir, *args):
    config = f"big_vision/configs/proj/uvim/{config}.py:demo"
    command = [
      sys.executable, "-m", f"big_vision.trainers.proj.uvim.{trainer}",
      "--config", config, "--config.total_steps", "6",
      "--config.input.batch_size", "8", *args, "--workdir", str(workdir),
    ]  # fmt: skip
    done = subprocess.run(
      command, cwd=notebook_runs.FOLDER.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (steps,) = pictures.find(str(workdir)).values()
    assert 6 in steps and len(steps) > 2

  for task, name in CONFIGS.items():
    one = tmp_path / f"{task}_1"
    train("vqvae", name.format("vqvae", ""), one)
    init = ["--config.oracle.model_init", str(one)]
    train("train", name.format("train", "_pretrained"), tmp_path / task, *init)
  text, num = notebook_runs.texts(notebook_runs.run("uvim"))
  check(text, num, list(CONFIGS))


@pytest.mark.slow
def test_without_runs(tmp_path, monkeypatch):
  import nbclient

  monkeypatch.setenv("BV_UVIM", str(tmp_path))
  with pytest.raises(nbclient.exceptions.CellExecutionError) as e:
    notebook_runs.run("uvim")
  assert "Train first, or set BV_UVIM" in str(e.value)
  assert os.listdir(tmp_path) == []
