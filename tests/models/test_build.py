"""The one way from a config to a model."""

import json
import re

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from big_vision import checkpoints, models


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


VIT = dict(
  patch_size=(4, 4), width=8, depth=2, mlp_dim=8, num_heads=2, num_classes=3
)
TOWERS = dict(
  image={**VIT, "num_classes": None},
  text=dict(width=8, depth=1, mlp_dim=8, num_heads=2, vocab_size=9),
  out_dim=8,
)


def shapes(config, key="model"):
  """Shapes of the parameters of a ViT or of two towers."""
  model, _ = models.build({k: config[k] for k in (f"{key}_name", key)}, key)
  inputs = [jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)]
  if "text" in config[key]:
    inputs.append(jax.ShapeDtypeStruct((1, 4), jnp.int32))
  return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Checkpoints of both."""
  folder, out = tmp_path_factory.mktemp("init"), {}
  for name, args in (("vit", VIT), ("proj.image_text.two_towers", TOWERS)):
    tree = shapes({"model_name": name, "model": args})
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)
    out[name] = f"{folder}/{name}.npz"
    checkpoints.save_checkpoint({"params": zeros}, out[name])
  return out


def error_of_load(config, key="model"):
  with pytest.raises((ValueError, KeyError)) as e:
    models.build(config, key)[1](shapes(config, key))
  text = str(e.value)
  assert "\n" not in text and len(text) < 900
  return text


def test_misfit_is_one_line(files):
  """The key, the first parameters, and how many more there are."""
  init = files["vit"]
  deep = {**VIT, "depth": 3}
  text = error_of_load(
    {"teacher_name": "vit", "teacher": deep, "teacher_init": init}, "teacher"
  )
  assert text == (
    f"config.teacher_init={init!r} does not fit config.teacher: the checkpoint "
    "lacks Transformer/encoderblock_2/LayerNorm_0/bias (8,), "
    "Transformer/encoderblock_2/LayerNorm_0/scale (8,), "
    "Transformer/encoderblock_2/LayerNorm_1/bias (8,), and 13 more. Change "
    "config.teacher, or list names in config.teacher_load.dont_load to "
    "initialize them or leave them out."
  )
  config = {"model_name": "vit", "model": VIT}
  text = error_of_load({**config, "model_init": f"{init}:head"})
  assert "the checkpoint lacks " in text and "the model lacks bias (3,)" in text
  text = error_of_load({**config, "model_init": f"{init}:img"})
  assert text.startswith(f"\"config.model_init='{init}:img': Checkpoint ")
  assert "'img'. It has Transformer, embedding, head, pos_embedding" in text
  text = error_of_load({**config, "model_init": "vit.npz"})
  assert text.startswith("config.model_init='vit.npz': ") and "slash" in text


@pytest.mark.parametrize(
  "load, match",
  [
    ({"dont_load": ["hed/.*"]}, ".dont_load: 'hed/.*' matches the full name"),
    ({"dont_load": ["("]}, ".dont_load=['(']: missing )"),
    ({"dont_load": 5}, ".dont_load=5: Patterns must be"),
    (["head"], "=['head'] should be a dict of arguments"),
    ({"from_grid": (1, 3)}, ".from_grid=(1, 3) should be"),
    ({"dontload": []}, ".dontload is not a known key. Did you mean 'dont_load'"),
  ],
)  # fmt: skip
def test_errors_about_what_to_load_name_the_key(files, load, match):
  config = dict(m_name="vit", m=VIT, m_init=files["vit"], m_load=load)
  assert error_of_load(config, "m").startswith(f"config.m_load{match}")
  name = "proj.image_text.two_towers"
  config = dict(model_name=name, model=TOWERS, model_init=files[name])
  config["model_load"] = {"img_load_kw": load}
  key = "config.model_load.img_load_kw"
  assert error_of_load(config).startswith(f"{key}{match}")


def test_misfit_of_a_tower_names_its_key(files):
  name = "proj.image_text.two_towers"
  config = dict(model_name=name, model_init=files[name])
  text = {**TOWERS["text"], "vocab_size": 11}
  got = error_of_load({**config, "model": {**TOWERS, "text": text}})
  assert "Embed_0/embedding: (9, 8) in the checkpoint, (11, 8) in the" in got
  assert "config.model_load.txt_load_kw.dont_load" in got
  image = {**TOWERS["image"], "depth": 1}
  got = error_of_load({**config, "model": {**TOWERS, "image": image}})
  assert "config.model_load.img_load_kw.dont_load" in got
  for init, match in (
    ({"img": 3}, "config.model_init.img=3 should be the path"),
    ({"t": files[name]}, "config.model_init.t=.*'<path>:t'"),
  ):
    got = error_of_load({**config, "model": TOWERS, "model_init": init})
    assert re.match(match, got)


@pytest.mark.parametrize("init", [["a/x"], ("a/x",), 3, True, {"img": "a/x"}])
def test_checkpoint_of_another_type(init):
  config = {"model_name": "vit", "model_init": init}
  with pytest.raises(ValueError, match=r"model_init=.* should be the path of"):
    models.build(config)


def test_what_to_load_without_a_checkpoint():
  config = {"model_name": "vit", "model_load": {"dont_load": ["head/.*"]}}
  with pytest.raises(
    ValueError, match=r"model_load=\{'dont.*config.model_init"
  ):
    models.build(config)
  # Random parameters on purpose.
  for init in ("", None):
    assert models.build({**config, "model_init": init})[1] is None


@pytest.mark.parametrize(
  "name, model_type, match",
  [
    ("vit", "vit", "There are no weights"),
    ("vit", "bert", "model_type = 'bert' is of none of the models"),
    ("proj.image_text.two_towers", "clip", "There are no weights"),
    ("proj.image_text.two_towers", "siglip", "model.safetensors"),
    ("vit", None, "config.json has no `model_type`"),
  ],
)  # fmt: skip
def test_checkpoints_of_other_libraries_that_lack_something(
  tmp_path, name, model_type, match
):
  folder = tmp_path / "hf"
  folder.mkdir()
  config = {"model_type": model_type} if model_type else {"hidden_size": 8}
  config |= {"vision_config": {}, "text_config": {}}
  (folder / "config.json").write_text(json.dumps(config))
  if model_type in (None, "bert"):  # The settings are read after the names.
    safetensors_numpy.save_file(
      {"x": np.zeros(2)}, folder / "model.safetensors"
    )
  config = {"model_name": name, "model_init": str(folder)}
  with pytest.raises(ValueError, match=match) as e:
    models.build(config)[1]({"img": {}, "txt": {}})
  assert "\n" not in str(e.value) and str(folder) in str(e.value)
  (folder / "model.safetensors").unlink(missing_ok=True)
  # The workdir of a run has a config.json, too.
  (folder / "config.json").write_text('{"model_name": "vit"}')
  models.build({"model_name": "vit", "model_init": f"{folder}/checkpoint.bv"})
