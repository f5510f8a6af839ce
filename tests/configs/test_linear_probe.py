"""The config of linear probes: models, data, and a run on features of digits."""

import pathlib

import jax
import numpy as np
import pytest

import toy
from big_vision import checkpoints, lookup, metrics, train
from big_vision.configs import frozen, linear_probe, quickstart
from big_vision.models import vit
from big_vision.training import cli

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]


def get_config(arg):
  return linear_probe.get_config(arg)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tfds_data_dir):
  """As a run leaves it, with a tiny model of random parameters."""
  folder = tmp_path_factory.mktemp("w")
  config = quickstart.get_config()
  config.model.update(width=8, depth=2, mlp_dim=8, num_heads=2, pool_type="tok")
  model = vit.Model(10, **config.model)
  params = model.init(jax.random.key(0), np.zeros((1, 20, 20, 1)))["params"]
  checkpoints.save_checkpoint(params, str(folder / "params.npz"))
  (folder / "config.json").write_text(metrics.to_json(config))
  (folder / "checkpoint.bv-LAST").write_text("000000001")
  return folder


def test_of_a_workdir(workdir, tmp_path, monkeypatch):
  from sklearn.linear_model import RidgeClassifier

  monkeypatch.setattr(
    "big_vision.pretrained.run_files.checkpoint_of",
    lambda path: f"{path}/params.npz",
  )
  arg = (
    f"model={workdir},source=tfds,path=digits,methods=ridge+sgd,batch_size=64"
  )
  config = get_config(arg)
  assert "onehot" not in config.input.pp and "channels=1" in config.input.pp
  assert config.evals.probe.layers is None and config.num_classes is None
  config.evals.probe.sgd_steps = 5
  config.evals.knn.representation_layer = "cls1"
  cli.train(train.build, config, str(tmp_path / "w"))
  row = toy.rows(tmp_path / "w")[0]
  names = {
    f"probe/{m}/{layer}/prec@1"
    for m in ("ridge", "sgd")
    for layer in ("cls1", "cls1+mean", "cls2", "cls2+mean")
  }
  assert names | {"knn/k10/prec@1", "knn/k20/prec@5"} <= row.keys()
  text = (tmp_path / "w/linear_probe.csv").read_text()
  assert len(text.splitlines()) == 9 and "ridge,cls2+mean,l2_reg" in text
  # The stored features are all that there is to know about the model.
  train_split, test = (
    dict(np.load(p))
    for p in sorted(
      (tmp_path / "w/features").glob("*.npz"), key=lambda p: -p.stat().st_size
    )
  )
  x, x_test = (
    np.concatenate([d[f"part/{k}"] for k in ("cls2", "cls1", "mean1")], axis=1)
    for d in (train_split, test)
  )
  line = [t for t in text.splitlines() if t.startswith("ridge,cls2+mean")][0]
  alpha = float(line.split(",")[2].split()[1])
  want = RidgeClassifier(alpha=alpha).fit(x, train_split["labels"])
  want = want.score(x_test, test["labels"])
  assert row["probe/ridge/cls2+mean/prec@1"] == pytest.approx(want, abs=0.004)


def test_arguments(workdir, tfds_data_dir):
  config = get_config("model=vit-s16,dataset=cifar100,layers=mean1,mean4")
  assert config.evals.probe.layers == ["mean1", "mean4"]
  assert config.evals.probe.val["split"] == "train[98%:]"
  assert "central_crop(224)" in config.evals.knn.pp_fn
  config = get_config("model=vit-s16,layers=cls4+mean+cls1,methods=sgd,res=64")
  assert config.evals.probe.layers == ["cls4+mean", "cls1"]
  assert config.evals.probe.methods == ["sgd"]
  assert "resize_small(73)|central_crop(64)" in config.input.pp
  with pytest.raises(lookup.ConfigError, match="model=vit-s61.*vit-s16"):
    get_config("model=vit-s61")
  with pytest.raises(ValueError, match="cifar1000"):
    get_config("dataset=cifar1000")


@pytest.mark.parametrize(
  "source, part",
  [
    ("transformers/dinov2_registers", ""),
    ("timm/augreg", ""),
    ("transformers/vit_classes", ""),
    ("transformers/clip", ":img"),
  ],
)
def test_of_a_published_checkpoint(source, part):
  """All parameters are loaded, whether it has a head or not."""
  from big_vision import models

  path = str(pathlib.Path(__file__).parents[1] / "golden/weights" / source)
  arg = linear_probe.bvcc.parse_arg(f"model={path}", **frozen.ARGS)
  found = frozen.find(arg)
  assert found.config["model_init"] == path + part
  assert found.pp.startswith("decode|") and "value_range" in found.pp
  model, load = models.build(found.config, num_classes=None)
  side = 56
  x = jax.ShapeDtypeStruct((1, side, side, 3), "float32")
  shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)[
    "params"
  ]
  loaded = load(shapes)
  left = [
    x for x in jax.tree.leaves(loaded) if isinstance(x, jax.ShapeDtypeStruct)
  ]
  assert not left
  square = lambda res: f"decode|resize({res})|value_range(-1, 1)"
  arg.res = 28
  pp = frozen.find(arg, square).pp
  assert pp.startswith("decode|resize(28)|") and pp.count("value_range") == 1
