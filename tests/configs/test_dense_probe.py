"""The config of dense probes, and runs on generated scenes."""

import pytest

import toy
from big_vision import lookup, train
from big_vision.configs import dense_probe
from big_vision.training import cli

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]


@pytest.mark.multidevice
@pytest.mark.parametrize(
  "task", ["segmentation", pytest.param("depth", marks=pytest.mark.slow)]
)
def test_on_shapes(task, tmp_path, tmp_path_factory, monkeypatch):
  from big_vision.datasets import shapes

  data_dir = str(tmp_path_factory.getbasetemp() / "shapes")
  monkeypatch.setenv("TFDS_DATA_DIR", data_dir)
  shapes.prepare(data_dir, "tiny")
  config = dense_probe.get_config(f"task={task},demo")
  config.model.update(width=32, depth=1, num_heads=2, patch_size=(4, 4))
  for data in (config.input.data, config.evals.test.train):
    data.update(name="shapes/tiny", split="train")
  config.evals.test.data.update(name="shapes/tiny", split="test")
  config.evals.test.update(steps=100, learning_rate=0.03)
  if task == "depth":
    config.evals.test.num_bins = 32
  cli.train(train.build, config, str(tmp_path / "w"))
  row = toy.rows(tmp_path / "w")[0]
  # A random model tells wall and floor by their position.
  if task == "segmentation":
    assert row["test/pixel_acc"] > 0.6 and row["test/mIoU"] > 0.15
  else:
    assert 0 < row["test/rmse"] < 2.0 and row["test/delta1"] > 0.5


def test_arguments():
  config = dense_probe.get_config(
    "task=depth,dataset=nyu,model=vit-s16,blocks=4"
  )
  test = config.evals.test
  assert test.train["name"] == "nyu_depth_v2" and test.num_blocks == 4
  assert test.pp_fn.startswith(
    'copy("depth", "map")|decode(channels=3)|resize(224)'
  )
  config = dense_probe.get_config("dataset=ade20k,model=vit-s16,res=128")
  assert 'resize(128, method="nearest", inkey="annotation"' in config.input.pp
  assert config.evals.test.num_classes == 151
  for arg, text in (
    ("task=pose", "'pose'.*depth"),
    ("task=depth,dataset=ade20k", "'ade20k'.*nyu"),
  ):
    with pytest.raises(lookup.ConfigError, match=text):
      dense_probe.get_config(arg)
