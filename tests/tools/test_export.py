"""The command that exports, its measurements and its messages."""

import json

import numpy as np
import pytest

import random_run
import trained_run
from big_vision import exported, pretrained
from big_vision.tools import export

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """Random parameters, with pictures of its classes to be evaluated on."""
  root = tmp_path_factory.mktemp("run")
  trained_run.pictures(root / "pets", num=2)
  config = trained_run.config(root / "pets").to_dict()
  config["model"].update(pool_type="gap")
  names = trained_run.CLASSES
  x = np.zeros([1, 32, 32, 3])
  return random_run.make(root / "w", config, x, class_names=names)


def run(capsys, *args):
  code = export.main([str(a) for a in args])
  out, err = capsys.readouterr()
  return code, out, err


@pytest.mark.tf
def test_accuracy_of_the_run(workdir, tmp_path, capsys):
  code, out, err = run(
    capsys, "--from", workdir, "--to", tmp_path / "m", "--format", "stablehlo",
    "--quantize", "int8", "--preprocess", "--input-size", "100x120",
  )  # fmt: skip
  assert code == 0, err
  info = json.loads((tmp_path / "m/export.json").read_text())
  found = info["quantize"]
  assert found["measured_with"] == "evals.val" and found["method"] == "int8"
  before, after = found["metrics"]["float32"], found["metrics"]["int8"]
  assert f"prec@1: {before['prec@1']:.4f} -> {after['prec@1']:.4f}" in out
  assert 0 < abs(before["loss"] - after["loss"]) < 0.05
  assert "input image: uint8 [batch, 100, 120, 3]" in out
  # The first number is that of the model itself.
  m = pretrained.load(workdir)
  paths = sorted((workdir.parent / "pets").rglob("*.*"))
  best = m.probabilities(paths).argmax(axis=1)
  labels = [trained_run.CLASSES.index(p.parent.name) for p in paths]
  assert before["prec@1"] == pytest.approx(np.mean(best == labels))
  x = np.zeros([1, 100, 120, 3], np.uint8)
  assert exported.load(tmp_path / "m")(image=x)["logits"].shape == (1, 3)


def test_accuracy_on_pictures(workdir, tmp_path, capsys):
  folder = workdir.parent / "pets"
  code, out, err = run(
    capsys, "--from", workdir, "--to", tmp_path / "m", "--format", "stablehlo",
    "--quantize", "int8", "--images", folder, "--batch-size", "1",
  )  # fmt: skip
  assert code == 0, err
  info = json.loads((tmp_path / "m/export.json").read_text())
  metrics = info["quantize"]["metrics"]
  assert info["quantize"]["measured_with"] == str(folder)
  assert metrics["float32"]["agreement"] == 1
  assert set(metrics["int8"]) == {"agreement", "prec@1"}
  assert metrics["int8"]["agreement"] >= 0.5 and "agreement: 1.0000 ->" in out
  assert "input image: float32 [1, 32, 32, 3]" in out


@pytest.mark.parametrize(
  "args, message",
  [
    (["--batch_size=0"], "--batch_size=0 should be free or a number"),
    (["--batch_size=many"], "--batch_size=many should be"),
    (["--input_size=3"], "--input_size is for --preprocess"),
    (["--preprocess", "--input_size=0x3"], "--input_size=0x3 should be HEIGHT"),
    (["--images=x"], "--images is for --quantize"),
    (["--images=x", "--quantize=int8"], "--images=x is not a folder"),
    (["--external_data"], "--external_data is for --format=onnx"),
    (["--platforms=abacus"], "--platforms=abacus should be some of cpu,cuda"),
    (["--tower=text"], "tower='text' is for models of images and texts"),
    (["--preprocess", "--pp=resize(32)|flip_lr"], "op 'flip_lr' cannot be"),
  ],
)
def test_mistakes(args, message, workdir, tmp_path, capsys):
  if "flip" in args[-1]:
    pytest.importorskip("tensorflow")
  code, out, err = run(
    capsys, "--from", workdir, "--to", tmp_path / "m", "--format", "stablehlo",
    *args,
  )  # fmt: skip
  assert code == 1 and not out
  assert err.startswith("Error: ") and err.count("\n") == 1 and message in err
  assert not (tmp_path / "m").exists()


def test_no_run(tmp_path, capsys):
  code, _, err = run(
    capsys, "--from", tmp_path, "--to", tmp_path / "m", "--format", "onnx"
  )
  assert code == 1 and "is not a workdir of a run" in err
  with pytest.raises(SystemExit):
    export.main(["--from=x", "--to=y", "--format=tflite"])
  assert "invalid choice: 'tflite'" in capsys.readouterr().err
