"""The zero-shot suite: what is there is evaluated, the rest is listed."""

import csv
import json

import pytest

import toy
from big_vision import lookup, metrics
from big_vision.configs.proj.image_text import siglip_pretrain, zeroshot_suite
from big_vision.datasets.shapes import scene
from big_vision.evaluators.proj.image_text import (
  zeroshot_suite as evaluator,
)
from big_vision.trainers.proj.image_text import siglip
from big_vision.training import cli

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]


@pytest.fixture
def data_dir(tmp_path_factory, tfds_data_dir, monkeypatch):
  from big_vision.datasets import shapes

  shapes.prepare(tfds_data_dir, "tiny")
  return tfds_data_dir


@pytest.mark.multidevice
def test_runs_on_what_is_there(data_dir, tmp_path):
  config = zeroshot_suite.get_config("demo")
  suite = config.evals.suite
  suite.dataset_names = ["shapes", "colors", "dtd", "heldout"]
  suite.dataset_overrides = dict(
    shapes=dict(dataset_name="shapes/tiny", class_names=list(scene.SHAPES)),
    colors=dict(
      dataset_name="shapes/tiny",
      class_names=list(scene.COLORS),
      pp_img=f'copy("color", "label")|{suite.pp_img}',
    ),
    heldout=dict(dataset_name="shapes/tiny", split="val"),
  )
  cli.train(siglip.build, config, str(tmp_path / "w"))
  row = toy.rows(tmp_path / "w")[0]
  found = [row[f"z/0shot/{k}_accuracy"] for k in ("shapes", "colors")]
  assert row["z/0shot/mean_accuracy"] == pytest.approx(sum(found) / 2)
  assert "z/0shot/dtd_accuracy" not in row
  with open(tmp_path / "w/zeroshot.csv", encoding="utf-8") as f:
    table = {r["dataset"]: r for r in csv.DictReader(f)}
  assert float(table["shapes"]["accuracy"]) == pytest.approx(found[0])
  assert table["colors"]["classes"] == "8" and table["colors"]["images"] == "32"
  assert table["dtd"]["status"].endswith("download_tfds_datasets dtd")
  assert "validation" in table["heldout"]["status"]
  assert table["mean"]["status"] == "of 2 of 4"


def test_of_a_workdir(data_dir, tmp_path, monkeypatch):
  trained = siglip_pretrain.get_config("demo")
  (tmp_path / "config.json").write_text(
    json.dumps(json.loads(metrics.to_json(trained)))
  )
  monkeypatch.setattr(
    "big_vision.pretrained.run_files.checkpoint_of", lambda path: "checkpoint"
  )
  config = zeroshot_suite.get_config(f"model={tmp_path}")
  suite = config.evals.suite
  assert suite.dataset_names == list(zeroshot_suite.SUITE)
  assert config.model_init == "checkpoint"
  assert dict(config.model.text) == dict(trained.model.text)
  image, labels = (config.input.data["spec"][k] for k in ("image", "labels"))
  assert tuple(image["shape"]) == (32, 32, 3) and tuple(labels["shape"]) == (
    16,
  )
  own = suite.dataset_overrides
  assert own.imagenet_a.pp_img.endswith('|map("i1k_i1ka")')
  assert own.oxford_iiit_pet.prompt_templates == (
    "a photo of a {}, a type of pet.",
  )
  names = suite.dataset_names
  assert set(evaluator.missing(names, own.to_dict())) == set(names)
  config = zeroshot_suite.get_config(f"model={tmp_path},datasets=dtd+mnist")
  assert config.evals.suite.dataset_names == ["dtd", "mnist"]
  for arg, text in (
    (f"model={tmp_path},datasets=dtt", "'dtt'.*dtd"),
    ("", "model: name the workdir"),
  ):
    with pytest.raises(lookup.ConfigError, match=text):
      zeroshot_suite.get_config(arg)
