"""What a run has trained predicts what its evaluators have measured."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import toy
import trained_run
from big_vision import checkpoints, lookup, pretrained
from big_vision.configs import quickstart
from big_vision.pretrained import preprocessing

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(workdir, paths of pictures)."""
  return trained_run.make(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run):
  return pretrained.load(run[0])


def test_predictions_are_those_of_the_evaluators(run, model):
  workdir, paths = run
  saved = checkpoints.npload(str(workdir / "saved.npz"))
  assert set(saved) == {
    *("inputs/image", "inputs/labels", "inputs/file_name", "inputs/_id"),
    *("outputs/0", "outputs/1/pre_logits"),
  }
  root = paths[0].parents[1]
  assert saved["inputs/file_name"].tolist() == [
    p.relative_to(root).as_posix() for p in paths
  ]
  logits = saved["outputs/0"]
  labels = saved["inputs/labels"].argmax(axis=1)
  want = np.exp(logits - logits.max(axis=1, keepdims=True))
  want /= want.sum(axis=1, keepdims=True)
  got = model.probabilities(paths)
  assert got.dtype == np.float32 and np.ptp(got) > 0.03
  np.testing.assert_allclose(got, want, atol=2e-6)
  np.testing.assert_allclose(
    model.features(paths), saved["outputs/1/pre_logits"], atol=2e-5
  )
  for path, image in zip(paths, saved["inputs/image"], strict=True):
    np.testing.assert_allclose(model.preprocess(path), image, atol=1e-6)
  row = toy.rows(workdir)[6]
  assert row["val/prec@1"] == np.mean(got.argmax(axis=1) == labels)
  loss = -np.mean(np.log(np.take_along_axis(got, labels[:, None], axis=1)))
  np.testing.assert_allclose(row["val/loss"], loss, rtol=1e-5)
  table = (workdir / "val_confusion.csv").read_text().splitlines()
  assert table[0] == "label,cat,dog,red panda"
  for i, line in enumerate(table[1:]):
    hits = np.bincount(got.argmax(axis=1)[labels == i], minlength=3)
    assert line.split(",")[1:] == list(map(str, hits))


def test_predict(run, model):
  _, paths = run
  probabilities = model.probabilities(paths)
  result = model.predict(paths, topk=2)
  assert len(result) == len(paths)
  for row, best in zip(probabilities, result, strict=True):
    assert [p.label for p in best] == list(np.argsort(-row)[:2])
    for p in best:
      assert p.name == trained_run.CLASSES[p.label]
      assert p.probability == row[p.label]
  assert len(model.predict(paths[:1])[0]) == 3
  # Other kinds of pictures: the same.
  path = paths[1]
  assert path.suffix == ".png"
  image = Image.open(path)
  for picture in (str(path), path.read_bytes(), image, np.asarray(image)):
    got = model.probabilities([picture])
    np.testing.assert_allclose(got[0], probabilities[1], atol=1e-6)
  for picture in (str(path), path, path.read_bytes(), image, np.asarray(image)):
    with pytest.raises(ValueError, match="should be in a list"):
      model.predict(picture)
  batch = np.stack([np.asarray(image)] * 2)
  assert len(model.predict(batch)) == 2
  with pytest.raises(ValueError, match="topk=0"):
    model.predict(paths, topk=0)
  with pytest.raises(ValueError, match="the list is empty"):
    model.predict([])


def test_any_number_in_batches_of_one_size(run, model):
  _, paths = run
  prepared = [model.prepare(path) for path in paths]
  want = model.probabilities(paths)
  for size in (None, 5, 16):
    got, features = model.outputs(prepared, size)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert features.shape == (12, 16)


def test_what_a_model_has(run, model):
  workdir, paths = run
  assert model.class_names == trained_run.CLASSES and model.loss == "softmax"
  assert model.config.model.width == 16 and model.name == str(workdir)
  assert model.pp == "decode|resize_small(40)|central_crop(32)|value_range(-1, 1)|keep(\"image\", \"labels\")"  # fmt: skip # noqa: E501
  x = model.preprocess(paths[0])[None]
  logits, _ = model.model.apply({"params": model.params}, x)
  assert logits.shape == (1, 3)


def test_data_file(run):
  workdir, paths = run
  data = json.loads((workdir / "data.json").read_text())
  config = json.loads((workdir / "config.json").read_text())
  assert data == dict(
    class_names=list(trained_run.CLASSES),
    num_classes=3,
    pp=config["evals"]["val"]["pp_fn"],
    label=dict(
      key="input.data",
      data=dict(name="bv:folder", path=str(paths[0].parents[1])),
      onehot=3,
    ),
  )
  assert "class_names" not in config


def test_runs_without_data_file(run, model, tmp_path):
  """Of earlier versions; and several classes at once."""
  workdir, paths = run
  for name in os.listdir(workdir):
    if name not in ("data.json", "config.json"):
      (tmp_path / name).symlink_to(workdir / name)
  config = json.loads((workdir / "config.json").read_text())
  config["loss"] = "sigmoid_xent"
  del config["evals"]
  (tmp_path / "config.json").write_text(json.dumps(config))
  old = pretrained.load(tmp_path)
  assert old.class_names == ("0", "1", "2") and old.loss == "sigmoid"
  # No evaluator, but a training that flips.
  assert "flip" not in old.pp and "resize_small(40)" in old.pp
  x = np.stack([model.preprocess(path) for path in paths])
  logits = model.model.apply({"params": model.params}, x)[0]
  got = old.probabilities(paths)
  np.testing.assert_allclose(got, jax.nn.sigmoid(logits), atol=1e-5)


def test_other_preprocessing(run, model):
  """Positions are resampled for images of another size."""
  workdir, paths = run
  large = pretrained.load(workdir, pp="resize(64)|value_range(-1, 1)")
  assert large.params["pos_embedding"].shape == (1, 64, 16)
  assert large.probabilities(paths[:1]).shape == (1, 3)
  sizes = pretrained.load(workdir, pp="resize_small(32)|value_range(-1, 1)")
  with pytest.raises(ValueError, match="does not fit|different sizes"):
    sizes.predict(paths[:3])


def test_without_tensorflow(run):
  workdir, paths = run
  code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
from big_vision import pretrained
m = pretrained.load({str(workdir)!r})
print(m.predict([{str(paths[0])!r}], topk=1)[0][0].name)
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.strip() in trained_run.CLASSES


def test_errors(run, tmp_path):
  workdir, paths = run
  with pytest.raises(ValueError, match="has no config.json"):
    pretrained.load(tmp_path)
  config = (workdir / "config.json").read_text()
  (tmp_path / "config.json").write_text(config)
  with pytest.raises(ValueError, match="has no checkpoint.*ckpt_steps"):
    pretrained.load(tmp_path)
  init = str(workdir / "checkpoint.bv")
  assert pretrained.load(tmp_path, init=init).predict(paths[:1])
  (tmp_path / "config.json").write_text(config.replace(": 16,", ": 32,"))
  with pytest.raises(lookup.ConfigError, match="does not fit config.model"):
    pretrained.load(tmp_path, init=init)
  (tmp_path / "config.json").write_text(
    config.replace('"vit"', '"trained_run"')
  )
  with pytest.raises(lookup.ConfigError, match="'trained_run', which is not"):
    pretrained.load(tmp_path, init=init)
  (tmp_path / "config.json").write_text(config)
  (tmp_path / "data.json").write_text("[1]")
  with pytest.raises(lookup.ConfigError, match="data.json cannot be read"):
    pretrained.load(tmp_path, init=init)


def test_preprocessing_of_evaluations():
  config = quickstart.get_config()
  find = preprocessing.evaluation_pp
  assert find(config) == config.evals.test.pp_fn
  config.evals = {}
  config.input.pp = (
    "decode_jpeg_and_inception_crop(size=224)|flip_lr|randaug(2, 10)"
    "|value_range(-1, 1)"
  )
  want = "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"
  assert find(config) == want
  config.input.pp = "decode|random_crop((9, 8))|value_range"
  assert find(config) == "decode|central_crop((9, 8))|value_range"
  del config.input.pp
  with pytest.raises(ValueError, match="neither an evaluator nor"):
    find(config)
