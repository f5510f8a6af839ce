"""The one way from a config to a model."""

import json

import ml_collections as mlc
import numpy as np
import pytest

from big_vision import models


def test_builds_what_the_config_says():
  config = mlc.ConfigDict({"teacher_name": "vit"})
  config.teacher = {"variant": "mu/16", "num_classes": 7}
  model, load = models.build(config, "teacher", num_classes=3, pool_type="gap")
  assert (model.num_classes, model.width, model.pool_type) == (7, 32, "gap")
  assert load is None


def test_load_gets_what_the_config_says(tmp_path, monkeypatch):
  (tmp_path / "bvloads.py").write_text(
    "def Model(**kw): return kw\n"
    "def load(params, init, cfg, dont_load=()):\n"
    "  return params, init, dict(cfg), dont_load\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  config = {"model_name": "bvloads", "model": {"a": 1}, "model_init": "file"}
  model, load = models.build(config, b=2)
  assert model == {"a": 1, "b": 2}
  params = np.zeros(1)
  assert load(params) == (params, "file", {"a": 1}, ())
  config["model_load"] = {"dont_load": ["head"]}
  assert models.build(config)[1](params)[3] == ["head"]


@pytest.mark.parametrize(
  "config, match",
  [
    ({}, "config.m_name is required"),
    ({"m_name": "vitt"}, "config.m_name: unknown model 'vitt'.*'vit'"),
    ({"m_name": "common"}, "config.m_name: unknown model 'common'"),
    ({"m_name": "bit", "m": {"dept": 50}}, "config.m does not fit.*'bit'"),
  ],
)
def test_errors_name_the_key(config, match):
  with pytest.raises(ValueError, match=match):
    models.build(config, "m", num_classes=2)


def test_errors_about_checkpoints_name_the_key(tmp_path):
  build = lambda **kw: models.build({"model_name": "vit", **kw})[1]
  with pytest.raises(ValueError, match="config.model_load.dont_laod .*'dont_l"):
    build(model_init="x.npz", model_load={"dont_laod": []})
  with pytest.raises(
    FileNotFoundError, match="model_init='howto-i.*'howto-i21k-B"
  ):
    build(model_init="howto-i21-B/16")({})
  (tmp_path / "model").mkdir()
  with pytest.raises(KeyError, match="does not hold a checkpoint"):
    build(model_init=f"{tmp_path}/model")({})


@pytest.mark.parametrize(
  "name, model_type, match",
  [
    ("vit", "vit", "config.model_init='.*hf' is a checkpoint of Hugging Face "
     "with model_type = 'vit' in its config.json: of these, only SigLIP"),
    ("proj.clippo.one_tower", "siglip", "config.model_init='.*hf' is a checkpoint"),
    ("proj.image_text.two_towers", "clip", "hf' is a checkpoint of Hugging Face "
     "with model_type = 'clip'"),
    ("proj.image_text.two_towers", "siglip", "without model.safetensors"),
    ("vit", None, "hf' is a checkpoint of Hugging Face: of these, only SigLIP"),
  ],
)  # fmt: skip
def test_checkpoints_of_hugging_face_of_another_kind(
  tmp_path, name, model_type, match
):
  folder = tmp_path / "hf"
  folder.mkdir()
  config = {"model_type": model_type} if model_type else {"hidden_size": 8}
  (folder / "config.json").write_text(json.dumps(config))
  if not model_type:  # As of other libraries: the weights tell.
    (folder / "model.safetensors").touch()
  for init in (str(folder), {"img": f"{folder}:img"}):
    config = {"model_name": name, "model_init": init}
    with pytest.raises(ValueError, match=match) as e:
      models.build(config)[1]({"img": {}, "txt": {}})
    assert "\n" not in str(e.value)
  (folder / "model.safetensors").unlink(missing_ok=True)
  # The workdir of a run has a config.json, too.
  (folder / "config.json").write_text('{"model_name": "vit"}')
  models.build({"model_name": "vit", "model_init": f"{folder}/checkpoint.bv"})
