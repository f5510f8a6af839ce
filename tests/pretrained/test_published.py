"""Published checkpoints by name: models, preprocessing, changes, mistakes."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import checkpoint_npz, lookup, models, pretrained
from big_vision.models import mlp_mixer, positions, vit
from big_vision.models.proj.image_text import two_towers
from big_vision.models.weights import processors
from big_vision.pretrained import published
from big_vision.pretrained.pixels import Preprocess
from big_vision.tools import convert

pytestmark = pytest.mark.usefixtures("quick_compilation")
WEIGHTS = pathlib.Path(__file__).parents[1] / "golden" / "weights"


def expected(name):
  return dict(np.load(WEIGHTS / name / "expected.npz"))


def apply(m, *inputs):
  return jax.jit(lambda p, *x: m.model.apply({"params": p}, *x))(
    m.params, *inputs
  )


@pytest.mark.parametrize(
  "name, kind",
  [
    ("transformers/dinov2_classes", pretrained.Classifier),
    ("transformers/dinov3", pretrained.Backbone),
    ("timm/deit_distilled", pretrained.Classifier),
    ("timm/mixer", pretrained.Classifier),
    ("transformers/clip_image_projected", pretrained.Backbone),
  ],
)
def test_models(name, kind):
  want, path = expected(name), WEIGHTS / name
  m = pretrained.load(str(path))
  assert type(m) is kind
  output, _ = apply(m, want["image"])
  np.testing.assert_allclose(
    output, want.get("output", want.get("zimg")), atol=1e-4
  )
  picture = np.zeros((9, 11, 3), np.uint8)
  assert m.features([picture]).ndim == 2
  if kind is pretrained.Classifier:
    assert len(m.predict([picture], topk=2)[0]) == 2
  # The same by a config, as in training.
  config = m.config
  assert config.model_init == str(path)
  model, load = models.build(
    config,
    image_size=want["image"].shape[1:3],
    num_classes=config.get("num_classes"),
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0), want["image"])
  jax.tree.map(np.testing.assert_array_equal, load(shapes["params"]), m.params)


def test_two_towers_without_their_tokenizer():
  path, want = WEIGHTS / "transformers" / "clip", expected("transformers/clip")
  m = pretrained.load(str(path))
  texts = np.array([[1, 5, 3, 3, 3], [1, 7, 19, 6, 3], [4, 3, 8, 2, 2]])
  zimg, ztxt, out = apply(m, want["image"], texts)
  logits = out["t"][:, None] * (zimg @ ztxt.T)
  np.testing.assert_allclose(logits, want["logits"], atol=1e-4)
  assert m.pp == 'decode()|resize(6, "bicubic", pil=True)|clip_value_range'
  with pytest.raises(ValueError, match=r"no file .*tokenizer\.json"):
    m.embedder.texts(["a"])
  tower = pretrained.load(f"{path}:img")
  z, _ = apply(tower, want["image"])
  norm = np.linalg.norm(z, axis=1, keepdims=True)
  np.testing.assert_allclose(z / norm, zimg, atol=1e-5)
  # A tower of one's own, with the text tower of the checkpoint.
  config = dict(m.config.model.to_dict(), out_dim=(None, 10))
  config["image"] = dict(width=8, depth=1, num_heads=2, patch_size=(2, 2))
  model = two_towers.Model(**config)
  shapes = jax.eval_shape(model.init, jax.random.key(0), want["image"], texts)[
    "params"
  ]
  loaded = two_towers.load(shapes, {"text": str(path)}, config)
  assert loaded["img"] == shapes["img"]
  jax.tree.map(np.testing.assert_array_equal, loaded["txt"], m.params["txt"])


@pytest.mark.parametrize("name", ["clip_text", "clip_text_projected"])
def test_text_tower_alone(name):
  path, want = WEIGHTS / "transformers" / name, expected(f"transformers/{name}")
  m = pretrained.load(path)
  texts = np.array([[1, 5, 3, 3, 3], [1, 7, 19, 6, 3], [4, 3, 8, 2, 2]])
  got, _ = apply(m, texts)
  np.testing.assert_allclose(
    got, want.get("output", want.get("ztxt")), atol=1e-5
  )
  with pytest.raises(ValueError, match=r"no file .*tokenizer\.json"):
    m.features(["a"])
  with pytest.raises(ValueError, match="in a list"):
    m.features("a")


def test_another_size_number_of_classes_and_dtype():
  path = str(WEIGHTS / "transformers" / "dinov2_registers")
  m = pretrained.load(path)
  new = pretrained.load(
    path, image_size=10, num_classes=7, scan=True, dtype_mm="bfloat16"
  )
  assert new.pp.startswith("decode()|resize(10, 'bicubic', pil=True)|")
  old = m.params["pos_embedding"].reshape(3, 3, -1)
  np.testing.assert_allclose(
    new.params["pos_embedding"].reshape(5, 5, -1),
    positions.resample(old, (5, 5), method="bicubic_antialias"),
    atol=1e-6,
  )
  assert new.class_names == tuple("0123456")
  assert not np.any(new.params["head"]["kernel"])
  block = new.params["Transformer"]["encoderblock"]["MlpBlock_0"]["Dense_0"]
  assert block["kernel"].shape[0] == 2 and new.model.dtype_mm == "bfloat16"
  headless = pretrained.load(path, num_classes=0)
  assert type(headless) is pretrained.Backbone
  picture = np.full((9, 9, 3), 99, np.uint8)
  np.testing.assert_allclose(
    headless.features([picture]), m.features([picture]), atol=1e-6
  )
  assert headless.tokens([picture]).shape == (1, 1 + 3 + 9, 12)


def test_pixels_are_those_of_the_library():
  stored = np.load(WEIGHTS / "pixels.npz")
  configs = json.loads((WEIGHTS / "pixels.json").read_text())
  for name, config in configs.items():
    steps = processors.of_transformers(config)
    pp = processors.write(steps)
    got = Preprocess(pp)(stored["picture"])
    difference = np.abs(got - stored[name]).mean()
    # Which axis comes first, some versions of Pillow choose by the sizes.
    assert difference < (0.3 if name == "siglip" else 0.02) / 255, (name, pp)
    assert processors.parse(pp) == steps, name
    again = processors.to_transformers(steps, name)
    assert processors.of_transformers(again) == steps, name


def test_sizes_of_other_libraries():
  steps = processors.of_timm(dict(input_size=(3, 224, 224), crop_pct=0.9))
  assert processors.write(steps) == (
    'resize_small(248, "bicubic", pil=True)|central_crop(224)|vgg_value_range'
  )
  assert processors.of_timm(processors.to_timm(steps)) == steps
  steps = processors.of_open_clip(dict(resize_mode="squash"), (240, 240))
  assert processors.write(steps) == (
    'resize(240, "bicubic", pil=True)|clip_value_range'
  )
  with_size = published.with_size
  pp = "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"
  assert with_size(pp, 448) == (
    "decode|resize_small(512)|central_crop(448)|value_range(-1, 1)"
  )
  with pytest.raises(lookup.ConfigError, match="no resize and no crop"):
    with_size("decode|value_range(-1, 1)", 224)


MODELS = {
  "vit": (
    vit.Model(5, width=8, depth=2, num_heads=2, patch_size=(4, 4), rep_size=3,
              pool_type="tok"),
    (8, 8),
  ),
  "scanned": (
    vit.Model(None, width=8, depth=2, num_heads=2, patch_size=(4, 2),
              pool_type="map", scan=True, posemb="sincos2d"),
    (8, 8),
  ),
  "options": (
    vit.Model(5, width=8, depth=1, num_heads=2, patch_size=(4, 4), registers=2,
              pool_type="tok+gap", layerscale=0.1, glu=True, qk_norm="rms",
              attn_bias="qo", mlp_bias=False, head_bias=False, pre_norm=True,
              norm="rms"),
    (8, 8),
  ),
  "mixer": (
    mlp_mixer.Model(5, num_blocks=1, hidden_dim=4, tokens_mlp_dim=3,
                    channels_mlp_dim=6, patch_size=(4, 4)),
    (8, 8),
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_files_of_this_package(name, tmp_path):
  """What the model is follows from names and shapes alone."""
  model, size = MODELS[name]
  image = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("f")
  params = jax.jit(model.init)(jax.random.key(0), image)["params"]
  params = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params
  )
  path = str(tmp_path / "model.npz")
  checkpoint_npz.save_checkpoint({"params": params}, path)
  m = pretrained.load(path)
  assert m.config.model_init == path
  want = model.apply({"params": params}, image)[0]
  np.testing.assert_allclose(apply(m, image)[0], want, atol=1e-6)


def test_checkpoints_of_a_run_have_its_config(tmp_path):
  """Its activation does not show in the parameters."""
  source = str(WEIGHTS / "transformers" / "dinov2_classes")
  args = ["--from", source, "--to", str(tmp_path / "run"), "--format", "orbax"]
  assert convert.main(args) == 0
  checkpoint = str(tmp_path / "run" / "checkpoint.bv")
  for path in (checkpoint, f"{checkpoint}-000000000"):
    m = pretrained.load(path)
    assert m.model.act == "gelu_erf" and m.name == str(tmp_path / "run")
  (tmp_path / "alone").mkdir()
  shutil.copytree(f"{checkpoint}-000000000", tmp_path / "alone" / "checkpoint")
  m = pretrained.load(tmp_path / "alone" / "checkpoint")
  assert m.model.act == "gelu" and m.model.pool_type == "tok+gap"


def test_names():
  assert "hf://facebook/dinov2-base" in pretrained.list("dino*")
  assert pretrained.list("HOWTO-i21k-B/32") == ["howto-i21k-B/32"]
  assert pretrained.list("timm/vit_base_patch16_224.augreg_in21k")
  assert not pretrained.list("resnet50")


def test_mistakes(tmp_path):
  source = WEIGHTS / "transformers" / "vit_classes"
  weights = tmp_path / "model.safetensors"
  shutil.copy(source / "model.safetensors", weights)
  for path in (tmp_path, weights):
    with pytest.raises(lookup.ConfigError, match=r"config\.json has to be"):
      pretrained.load(path)

  def fails(message, **change):
    config = json.loads((source / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(lookup.ConfigError, match=message) as e:
      pretrained.load(tmp_path)
    assert "\n" not in str(e.value)

  fails("model_type = 'bert' is of none", model_type="bert")
  fails("10000000 blocks, but there are only", num_hidden_layers=10**7)
  fails("hidden_act = 'mish' is not supported", hidden_act="mish")
  fails(r"projection.weight .*\(12, 3, 2, 2\).*\(24, 3", hidden_size=24)
  weights.unlink()
  fails("There are no weights")
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps(dict(weight_map=dict(x="../x.safetensors"))))
  fails(r"'\.\./x\.safetensors', which is not in its folder")
  with pytest.raises(lookup.ConfigError, match="init='x' is for workdirs"):
    pretrained.load(source, init="x")
  with pytest.raises(ValueError, match=r"has two towers; .*:img"):
    pretrained.load(WEIGHTS / "transformers" / "clip", num_classes=3)


def test_a_model_of_other_settings_is_said(caplog):
  source = str(WEIGHTS / "transformers" / "vit")
  config = pretrained.load(source).config
  config.model.act = "gelu"
  model, load = models.build(config)
  image = jnp.zeros((1, 8, 4, 3))
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
  with caplog.at_level("WARNING", "absl"):
    load(shapes)
  assert "act='gelu_erf' (config.model.act='gelu')" in caplog.text
