"""SigLIPs of transformers: same outputs, both ways, and what does not fit.

The files in golden/huggingface are made by golden/make_huggingface.py.
"""

import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

import fake_hub
from big_vision import trees
from big_vision.models import vit
from big_vision.models.proj.image_text import (
  huggingface,
  huggingface_files,
  naflex_vit,
  two_towers,
)
from big_vision.models.weights import sources

pytestmark = pytest.mark.usefixtures("quick_compilation")
GOLDEN = pathlib.Path(__file__).parents[3] / "golden" / "huggingface"


def read(name):
  """(path, content of config.json, tensors)."""
  path = GOLDEN / name
  tensors = safetensors_numpy.load_file(path / "model.safetensors")
  return str(path), json.loads((path / "config.json").read_text()), tensors


def expected(name):
  """(image, text, outputs) as the models here take them; None for none."""
  with np.load(GOLDEN / name / "expected.npz") as f:
    e = dict(f)
  image, text = e.pop("pixel_values", None), e.pop("input_ids", None)
  if "spatial_shapes" in e:
    index = np.arange(image.shape[1])[None]
    width = e.pop("spatial_shapes")[:, 1:]
    where = e.pop("pixel_attention_mask"), index // width, index % width
    image = (image, *(np.int32(x) for x in where))
  elif image is not None:
    image = image.transpose(0, 2, 3, 1)
  return image, None if text is None else np.int32(text), e


def build(hf_config, *inputs, image=None, text=None):
  """(config.model with changes, model, shapes of its parameters)."""
  config = huggingface.model_config(hf_config)
  for key, more in (("image", image), ("text", text)):
    if key in config:
      config[key] = {**config[key], **(more or {})}
  model = two_towers.Model(**config)
  shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), *inputs)["params"]
  return config, model, shapes


def apply(model, params, *inputs):
  fn = jax.jit(lambda p, *x: model.apply({"params": p}, *x))
  return fn(params, *inputs)


def save(folder, tensors, hf_config):
  huggingface_files.save(str(folder), tensors, hf_config)
  return str(folder)


def same(a, b):
  a, b = (dict(trees.tree_flatten_with_names(x)[0]) for x in (a, b))
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize(
  "name, scan", [("siglip", False), ("siglip", True), ("siglip2", False)]
)
def test_outputs(name, scan):
  path, hf_config, _ = read(name)
  image, text, want = expected(name)
  extra = dict(image=dict(scan=scan), text=dict(scan=scan))
  config, model, shapes = build(hf_config, image, text, **extra)
  params = two_towers.load(shapes, path, config)
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(params))

  zimg, ztxt, out = apply(model, params, image, text)
  logits = zimg @ ztxt.T * out["t"][:, None] + out["b"][:, None]
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  close(zimg, want["image_embeds"])
  close(ztxt, want["text_embeds"])
  close(logits, want["logits_per_image"])
  assert np.std(want["image_embeds"], axis=0).mean() > 0.05  # They do differ.

  tensors, config_json = huggingface.from_params(
    params, config, hf_config["vision_config"].get("image_size")
  )
  check_exported(tensors, config_json, name)


def check_exported(tensors, config_json, name):
  _, hf_config, original = read(name)
  assert tensors.keys() == original.keys()
  for key, x in tensors.items():
    assert x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_array_equal(x, original[key], err_msg=key)
  assert config_json["architectures"] == hf_config["architectures"]
  for tower in ("vision_config", "text_config"):
    ours, theirs = config_json.pop(tower), hf_config[tower]
    ours = {k: v for k, v in ours.items() if not k.endswith("_token_id")}
    assert ours == {k: theirs[k] for k in ours}, tower


@pytest.mark.parametrize(
  "name, tower, key",
  [("siglip_vision", "image", "img"), ("siglip2_text", "text", "txt")],
)
def test_one_tower(name, tower, key):
  path, hf_config, _ = read(name)
  image, text, want = expected(name)
  config, model, shapes = build(hf_config, image, text)
  params = two_towers.load(shapes, {tower: path}, config)
  assert jax.tree.map(np.shape, params[key]) == (
    jax.tree.map(np.shape, shapes[key])
  )
  assert set(params) == {key, "t"} and params["t"] is shapes["t"]
  params["t"] = np.zeros(1, np.float32)
  *_, out = apply(model, params, image, text)
  z = out[f"{key}/normalized"] * out[f"{key}/norm"]
  np.testing.assert_allclose(z, want["pooler_output"], atol=1e-5)
  with pytest.raises(ValueError, match=rf"has {key}, but .*'{key}': \.\.\."):
    two_towers.load(None, path, config)


def test_towers_of_a_whole_checkpoint():
  """Each on its own, with what `load` of the models offers."""
  path, hf_config, tensors = read("siglip")
  image, text, _ = expected("siglip")
  config, _, shapes = build(hf_config, image, text)
  whole = huggingface.to_params(tensors, hf_config)
  out = two_towers.load(shapes, {"image": path}, config)
  same(out["img"], whole["img"])
  assert all(out[k] is shapes[k] for k in ("txt", "t", "b"))
  out = two_towers.load(
    shapes,
    {"text": f"{path}:txt", "t": path, "b": f"{path}:b"},
    config,
    txt_load_kw=dict(dont_load=["head/.*"]),
  )
  head = out["txt"].pop("head")
  assert head["kernel"] is shapes["txt"]["head"]["kernel"]
  same({**out, "img": {}}, {
    **whole, "img": {}, "txt": {k: v for k, v in whole["txt"].items() if k != "head"},
  })  # fmt: skip
  # What is not asked for may be anything, here a classifier's.
  rest = {k: v for k, v in tensors.items() if k.startswith("vision_model.")}
  rest["classifier.weight"] = np.zeros((2, 16), np.float32)
  same(huggingface.to_params(rest, hf_config, ("img",)), {"img": whole["img"]})


def test_without_bias():
  path, hf_config, _ = read("siglip")
  config = {**huggingface.model_config(hf_config), "bias_init": None}
  params = two_towers.load(None, path, config)
  assert set(params) == {"img", "txt", "t"}
  tensors, _ = huggingface.from_params(params, config)
  np.testing.assert_array_equal(tensors["logit_bias"], [0.0])


@pytest.mark.parametrize("name, side", [("siglip", 5), ("siglip2", 6)])
def test_resampling(name, side):
  path, hf_config, tensors = read(name)
  image, text, _ = expected(name)
  naflex = name == "siglip2"
  image = image if naflex else np.zeros((1, 4 * side, 4 * side, 3), np.float32)
  extra = dict(nposemb=side) if naflex else {}
  config, _, shapes = build(hf_config, image, text, image=extra)
  got = two_towers.load(shapes, path, config)["img"]["pos_embedding"]
  old = huggingface.to_params(tensors, hf_config)["img"]["pos_embedding"]
  assert got.shape == shapes["img"]["pos_embedding"].shape != old.shape
  if naflex:  # All the rest is in test_naflex_vit.py.
    np.testing.assert_allclose(got[0, 0], old[0, 0], atol=1e-6)
    np.testing.assert_allclose(got[-1, 0], old[-1, 0], atol=1e-6)
  else:
    np.testing.assert_array_equal(got, vit.resample_posemb(old, got))


def test_shards(tmp_path):
  """Only files that are needed are read: the third one is not even there."""
  _, hf_config, tensors = read("siglip")
  names = sorted(tensors)  # The two of the logits first, images last.
  files = {}
  for i, chunk in enumerate(np.array_split(names, 3)):
    file = f"model-{i + 1:05d}-of-00003.safetensors"
    files |= dict.fromkeys(map(str, chunk), file)
    safetensors_numpy.save_file(
      {str(n): tensors[n] for n in chunk}, tmp_path / file
    )
  index = {"metadata": {}, "weight_map": files}
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
  (tmp_path / "config.json").write_text(json.dumps(hf_config))
  path = str(tmp_path)
  assert sources.is_source(path)
  same(two_towers.load(None, path, {"bias_init": 0.0}),
       huggingface.to_params(tensors, hf_config))  # fmt: skip
  (tmp_path / "model-00003-of-00003.safetensors").unlink()
  parts = ("txt", "t")
  same(huggingface_files.load(path, parts)[0],
       huggingface.to_params(tensors, hf_config, parts))  # fmt: skip
  with pytest.raises(ValueError, match="no file .*model-00003"):
    huggingface_files.load(path)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision(tmp_path, dtype):
  _, hf_config, tensors = read("siglip2")
  half = {k: x.astype(dtype) for k, x in tensors.items()}
  params, _ = huggingface_files.load(save(tmp_path, half, hf_config))
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(params))
  same(params, huggingface.to_params(half, hf_config))
  probe = half["vision_model.head.probe"].astype(np.float32)
  np.testing.assert_array_equal(params["img"]["MAPHead_0"]["probe"], probe)


def test_hub(tmp_path, monkeypatch):
  """With a revision; then without network."""
  _, hf_config, tensors = read("siglip")
  config = huggingface.model_config(hf_config)
  want = huggingface.to_params(tensors, hf_config)
  with fake_hub.serve(tmp_path, monkeypatch) as hub:
    shutil.copytree(GOLDEN / "siglip", hub.folder / "org" / "repo" / "v1")
    same(two_towers.load(None, "hf://org/repo@v1", config), want)
    with pytest.raises(ValueError, match="org/repo has no revision 'main'"):
      two_towers.load(None, "hf://org/repo", config)
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  same(two_towers.load(None, "hf://org/repo@v1", config), want)
  out = two_towers.load(None, {"image": "hf://org/repo@v1"}, config)
  same(out["img"], want["img"])
  with pytest.raises(ValueError, match="download hf://org/repo/config.json"):
    two_towers.load(None, "hf://org/repo", config)


def test_is_checkpoint(tmp_path):
  path = str(tmp_path)
  assert not sources.is_source(path)
  (tmp_path / "config.json").write_text("{}")  # Any workdir has one.
  assert not sources.is_source(path)
  (tmp_path / "model.safetensors").write_bytes(b"broken")
  assert sources.is_source(path)
  assert sources.is_source("hf://org/repo")
  assert not sources.is_source("gs://bucket/x.npz:img")
  with pytest.raises(ValueError, match="model_type = None.*'siglip2'"):
    huggingface_files.load(path)
  shutil.copy(GOLDEN / "siglip" / "config.json", path)
  with pytest.raises(
    ValueError, match="model.safetensors is not a whole safetensors"
  ):
    huggingface_files.load(path)
  for content, reason in (
    (b"", "is empty"),
    (b"<html>Sign in</html>", "is a web page"),
    (b"version https://git-lfs", "git lfs pull"),
  ):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"model.safetensors.*{reason}"):
      huggingface_files.load(path)
  (tmp_path / "model.safetensors").unlink()
  for content, reason in (("", "is not JSON"), ("[1]", "lacks the dict")):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(
      ValueError, match=f"model.safetensors.index.json {reason}"
    ):
      huggingface_files.load(path)
  for content, reason in (
    ("{", " is not JSON"),
    ('{"vision_config": 3}', ": vision_config is not a dict: 3"),
  ):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=f"config.json{reason}"):
      huggingface_files.load(path)


def test_shards_outside_of_the_folder(tmp_path):
  _, hf_config, tensors = read("siglip")
  (tmp_path / "in").mkdir()
  safetensors_numpy.save_file(tensors, tmp_path / "x.safetensors")
  index = {"weight_map": dict.fromkeys(tensors, "../x.safetensors")}
  name = "model.safetensors.index.json"
  (tmp_path / "in" / name).write_text(json.dumps(index))
  (tmp_path / "in" / "config.json").write_text(json.dumps(hf_config))
  with pytest.raises(
    ValueError, match=r"'\.\./x\.safetensors', which is not in"
  ):
    huggingface_files.load(str(tmp_path / "in"))


def test_defaults():
  """The public files leave out what is as in the base model."""
  vision = dict(image_size=384, model_type="siglip_vision_model")
  hf_config = dict(
    model_type="siglip", vision_config=vision, text_config=dict(vocab_size=9)
  )
  sizes = vit.decode_variant("B")
  want = dict(
    image_model="vit",
    image=dict(**sizes, pool_type="map", patch_size=(16, 16)),
    text_model="proj.image_text.text_transformer",
    text=dict(**sizes, vocab_size=9),
    out_dim=(None, 768),
    temperature_init=10.0,
    bias_init=-10.0,
  )
  assert huggingface.model_config(hf_config) == want
  got = huggingface.model_config(dict(model_type="siglip2", text_config=None))
  assert got["image"] == dict(**sizes, pool_type="map", nposemb=16)
  assert got["text"] == dict(**sizes, vocab_size=32_000)
  pair = dict(vision, patch_size=[14, 14])
  got = huggingface.model_config(pair)
  assert (
    got["image"]["patch_size"] == (14, 14) and got["out_dim"] == (None,) * 2
  )
  no_head = dict(pair, vision_use_head=False)
  assert huggingface.model_config(no_head)["image"]["pool_type"] == "none"


def test_image_tower_without_head():
  _, hf_config, tensors = read("siglip_vision")
  tensors = {k: x for k, x in tensors.items() if not k.startswith("head.")}
  hf_config = dict(hf_config, vision_use_head=False)
  params = huggingface.to_params(tensors, hf_config)
  image, _, _ = expected("siglip_vision")
  model = vit.Model(**huggingface.model_config(hf_config)["image"])
  shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), image)["params"]
  assert jax.tree.map(np.shape, params["img"]) == jax.tree.map(np.shape, shapes)


@pytest.mark.parametrize(
  "name, tower, change, message",
  [
    ("siglip", None, dict(model_type="clip"), "model_type = 'clip'.*'siglip'"),
    ("siglip", None, dict(quantization_config={"x": 1}), "quantization_config"),
    ("siglip", "vision", dict(hidden_act="gelu"), "vision_config.hidden_act = 'gelu'"),
    ("siglip", "text", dict(hidden_act="quick_gelu"), "text_config.hidden_act"),
    ("siglip", "text", dict(layer_norm_eps=1e-5), "layer_norm_eps = 1e-05"),
    ("siglip2", "vision", dict(attention_dropout=0.1), "attention_dropout = 0.1"),
    ("siglip", "vision", dict(num_channels=1), "num_channels = 1.*be 3"),
    ("siglip", "vision", dict(vision_use_head=False), "vision_use_head = False"),
    ("siglip", "vision", dict(patch_size=[4, 2]), r"patch_size = \[4, 2\]"),
    ("siglip", "vision", dict(num_attention_heads=3), "heads = 3.*size = 16"),
    ("siglip2", "vision", dict(num_patches=17), "num_patches = 17.*a square"),
    ("siglip", "vision", dict(image_size=22), r"position_embedding.*\(9, 16\).*\(25"),
    ("siglip", "text", dict(num_hidden_layers=2), "missing text_model.*11 more"),
    ("siglip", "vision", dict(num_hidden_layers=1), "unknown vision_model.enc"),
  ],
)  # fmt: skip
def test_unsupported_settings(tmp_path, name, tower, change, message):
  _, hf_config, tensors = read(name)
  (hf_config[f"{tower}_config"] if tower else hf_config).update(change)
  path = save(tmp_path, tensors, hf_config)
  with pytest.raises(ValueError, match=message):
    huggingface_files.load(path)


def test_unsupported_tensors():
  _, hf_config, tensors = read("siglip")
  key = "text_model.head.weight"
  with pytest.raises(ValueError, match="unknown text_model.lora$|lora\\."):
    huggingface.to_params({**tensors, "text_model.lora": 0}, hf_config)
  with pytest.raises(ValueError, match=f"missing {key}"):
    rest = {k: x for k, x in tensors.items() if k != key}
    huggingface.to_params(rest, hf_config)
  with pytest.raises(ValueError, match=f"{key}.*int8.*quantized"):
    int8 = {key: tensors[key].astype(np.int8)}
    huggingface.to_params({**tensors, **int8}, hf_config)
  # Buffers of old files.
  ids = {"vision_model.embeddings.position_ids": np.arange(9)[None]}
  huggingface.to_params({**tensors, **ids}, hf_config)


def test_the_other_image_model():
  for name, model in (("siglip", naflex_vit), ("siglip2", vit)):
    path, _, _ = read(name)
    model = model.__name__.removeprefix("big_vision.models.")
    with pytest.raises(
      ValueError, match=f"{name} has .*but the config.*{model}"
    ):
      two_towers.load(None, path, dict(image_model=model))
    two_towers.load(None, {"text": path}, dict(image_model=model))


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(image_model="mlp_mixer"), "config.model.image_model = 'mlp_mixer'"),
    (dict(text_model="bert"), "config.model.text_model = 'bert'"),
    (dict(image=dict(pool_type="gap")), "image.pool_type = 'gap'.*'map'"),
    (dict(image={}), "image.pool_type = 'gap'"),
    (dict(image=dict(pool_type="map", rep_size=True)), "image.rep_size = True"),
    (dict(image=dict(pool_type="map", posemb="sincos2d")), "posemb = 'sincos2d'"),
    (dict(text=dict(pool_type="first")), "text.pool_type = 'first'.*'last'"),
    (dict(text=dict(pad_token=0)), "text.pad_token = 0.*None"),
  ],
)  # fmt: skip
def test_models_that_can_not_be_exported(change, message):
  _, hf_config, tensors = read("siglip")
  params = huggingface.to_params(tensors, hf_config)
  config = {**huggingface.model_config(hf_config), **change}
  with pytest.raises(ValueError, match=message):
    huggingface.from_params(params, config)


def test_parameters_that_can_not_be_exported():
  _, hf_config, tensors = read("siglip")
  config = huggingface.model_config(hf_config)
  make = lambda **kw: {**huggingface.to_params(tensors, hf_config), **kw}
  img, txt = (make()[key] for key in ("img", "txt"))
  head = {k: v for k, v in txt.items() if k != "head"}
  kernel = np.zeros((4, 2, 3, 16), np.float32)
  for params, kw, message in (
    (make(img={**img, "head": {"bias": np.zeros(3)}}), {}, "unknown img/head/bias"),
    (make(txt=head), {}, r"parameter txt/head/bias.*out_dim = \(None, "),
    (dict(img=img, t=np.zeros(1)), {}, "has no txt: .*both towers"),
    (make(), dict(image_size=16), "image_size = 16: .* 4 rows .* has 3"),
    (make(img={**img, "pos_embedding": np.zeros((1, 8, 16))}), {}, "8 positions"),
    (make(img={**img, "embedding": {"kernel": kernel}}), {}, r"\(4, 2\) with 9"),
    (make(t=np.zeros(2)), {}, r"parameter t is \(2,\), but .* \(1,\)"),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=message):
      huggingface.from_params(params, config, **kw)
  _, hf_config, tensors = read("siglip2")
  params = huggingface.to_params(tensors, hf_config)
  config = huggingface.model_config(hf_config)
  with pytest.raises(ValueError, match="image_size = 8: NaFlex"):
    huggingface.from_params(params, config, image_size=8)
