"""The notebooks run, and show what is in the workdir."""

import json

import numpy as np
import pytest

import notebook_runs
from big_vision import checkpoints, metrics

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

NOTEBOOKS = notebook_runs.FOLDER
READ_LOGS = "read_logs_and_checkpoints"
CONFIG = {"model_name": "vit", "lr": 0.5, "model": {"width": 8}}


def make_params(seed=0):
  """A tree like that of a small ViT."""
  rng = np.random.default_rng(seed)
  shapes = {
    "embedding": {"kernel": (2, 2, 1, 8), "bias": (8,)},
    "Transformer": {"encoder_norm": {"scale": (8,), "bias": (8,)}},
    "head": {"kernel": (8, 10), "bias": (10,)},
  }
  make = lambda tree: {
    k: make(v) if isinstance(v, dict) else rng.normal(size=v).astype("float32")
    for k, v in tree.items()
  }
  return make(shapes)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp("workdir")
  writer = metrics.BigVisionMetricWriter(workdir=str(path), config=CONFIG)
  for step in (1, 10, 20):
    writer.step_start(step)
    writer.measure("training_loss", 2.0 / step)
    writer.measure("global_schedule", 1 - step / 20)
    if step > 1:
      writer.measure("val/prec@1", step / 25)
      writer.measure("a/digits_10shot-seed-0", step / 40)
      writer.measure("val/loss", 1.0 / step)
    writer.step_end()
  writer.close()
  with open(path / "big_vision_initial_metrics.txt", "w") as f:
    f.write('{"step": 0, "val/prec@1": 0.125, "before/acc": 0.1}\n')
  # As if the run was interrupted and is writing again.
  with open(path / "big_vision_metrics.txt", "a") as f:
    f.write('{"step": 20, "val/prec@1": 0.875}\n{"step": 30, "val/pr')

  manager = checkpoints.CheckpointManager()
  for step in (10, 20):
    state = {
      "params": make_params(step),
      "chrono": {"accum_examples_seen": np.int32(64 * step)},
    }
    checkpoints.save_checkpoint_ts(
      manager, state, str(path / "checkpoint.bv"), step, keep=False
    )
  manager.wait_until_finished()
  return path


def test_read_logs_and_checkpoints(workdir, monkeypatch):
  monkeypatch.setenv("BV_WORKDIR", str(workdir))
  text, pictures = notebook_runs.texts(notebook_runs.run(READ_LOGS))
  assert pictures == 4  # Loss, accuracy, learning rate, filters.
  assert str(workdir) in text
  assert 'model: {"width": 8}' in text
  assert "4 logged steps, the last is 20." in text  # Of both files.
  assert "before/acc: 0.1000 at step 0" in text
  assert "val/prec@1: 0.8750 at step 20" in text  # The later line counts.
  assert "a/digits_10shot-seed-0: 0.5000 at step 20" in text
  assert "Last checkpoint: 000000020-tmp" in text
  assert f"chrono/accum_examples_seen: {64 * 20:.1f}" in text

  params = make_params(20)
  table = {
    line.split()[0]: line.split()[-3:]
    for line in text.splitlines()
    if line.startswith(("embedding", "Transformer", "head"))
  }
  assert len(table) == 6
  kernel = params["head"]["kernel"]
  size, norm, rms = map(float, table["head/kernel"])
  assert size == 80
  assert norm == pytest.approx(np.sqrt((kernel**2).sum()), abs=1e-4)
  assert rms == pytest.approx(np.sqrt((kernel**2).mean()), abs=1e-4)
  assert "Parameters: 146" in text
  assert "8 of 8 filters of shape (2, 2, 1)" in text


def test_missing_workdir_says_what_to_do(tmp_path, monkeypatch):
  monkeypatch.setenv("BV_WORKDIR", str(tmp_path))
  with pytest.raises(nbclient.exceptions.CellExecutionError) as e:
    notebook_runs.run(READ_LOGS)
  assert "Train first, or set BV_WORKDIR" in str(e.value)


@pytest.mark.parametrize(
  "notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.name
)
def test_notebooks_are_stored_without_outputs(notebook):
  nb = nbformat.read(notebook, as_version=4)
  nbformat.validate(nb)
  assert nb.metadata.kernelspec.name == "python3"
  for cell in nb.cells:
    if cell.cell_type == "code":
      assert not cell.outputs and cell.execution_count is None
  assert "/home/" not in json.dumps(nb)
