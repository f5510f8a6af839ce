"""Tests for two towers: golden values, what they return, loading."""

import importlib.machinery
import json
import pathlib
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from big_vision import trees
from big_vision.models import vit
from big_vision.models.proj.image_text import two_towers

pytestmark = pytest.mark.usefixtures("quick_compilation")
GOLDEN = pathlib.Path(__file__).parents[3] / "golden" / "image_text_init.json"
IMAGE = dict(variant="mu/16", pool_type="map")
TEXT = dict(variant="mu", vocab_size=50)
SIGLIP = dict(temperature_init=10.0, bias_init=-10.0)


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def images(num=2, size=32):
  k = np.arange(num * size * size * 3, dtype=np.float32)
  return np.sin(0.01 * k).reshape(num, size, size, 3)


def tokens(num=2, length=6, vocab=50):
  k = np.arange(num * length, dtype=np.int32)
  return ((7 * k + 3) % vocab).reshape(num, length)


def make(image=IMAGE, text=TEXT, **kw):
  """As trainers do, from a config."""
  config = ml_collections.ConfigDict(dict(image=image, text=text, **kw))
  return two_towers.Model(**config)


def init(model, *inputs):
  variables = jax.jit(model.init)(jax.random.PRNGKey(0), *inputs)
  return jax.tree.map(np.asarray, variables["params"])


def filled(model, *inputs):
  """Parameters without compiling anything; no two values are the same."""
  shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), *inputs)["params"]
  rng = np.random.default_rng(0)
  fill = lambda x: np.float32(0.1 * rng.standard_normal(x.shape))
  return jax.tree.map(fill, shapes)


def perturbed(params):
  """Leaves plus a sine: nothing is at a neutral value any more."""
  wave = lambda x: np.float32(0.05 * np.sin(np.arange(x.size))).reshape(x.shape)
  return jax.tree.map(lambda x: x + wave(x), params)


def apply(model, params, *inputs, **kw):
  return jax.jit(lambda p, *x: model.apply({"params": p}, *x, **kw))(
    params, *inputs
  )


def test_initial_values():
  """Checkpoints and published results depend on names and order of calls."""
  expected = json.loads(GOLDEN.read_text())["two_towers"]
  text = dict(width=32, depth=2, mlp_dim=64, num_heads=4, vocab_size=64)
  model = make(text=text, out_dim=24, **SIGLIP)
  got = named(init(model, images(), tokens(3, 9, 64)))
  assert got.keys() == expected.keys()
  for name, x in got.items():
    want = expected[name]
    assert list(x.shape) == want["shape"] and x.dtype == np.float32, name
    first = np.asarray(want["first"], np.float32)
    np.testing.assert_array_equal(x.ravel()[:4], first, err_msg=name)
    x = np.asarray(x, np.float64)
    stats = [want["mean"], want["std"]]
    np.testing.assert_allclose([x.mean(), x.std()], stats, atol=1e-7)


def test_known_numbers():
  model = make(out_dim=(None, 32), **SIGLIP)
  params = init(model, images(), tokens())
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
  assert sum(x.size for x in leaves) == 65_794
  total = sum(np.abs(x).sum() for x in leaves)
  np.testing.assert_allclose(total, 5671.34, 2e-6)
  zimg, ztxt, _ = apply(model, perturbed(params), images(), tokens())
  for z, size, first in (
    (zimg, 0.146777, (0.060487, 0.16043, -0.28642)),
    (ztxt, 0.143009, (0.2233, -0.024142, 0.24218)),
  ):
    assert z.shape == (2, 32)
    np.testing.assert_allclose(np.abs(z).mean(), size, rtol=2e-5)
    np.testing.assert_allclose(z[0, :3], first, rtol=1e-4)


def test_towers_are_the_models():
  model = make(out_dim=(None, 16), **SIGLIP)
  params = init(model, images(), tokens(3))
  assert "head" not in params["img"] and sorted(params) == [
    "b", "img", "t", "txt",
  ]  # fmt: skip
  zimg, ztxt, out = apply(model, params, images(), tokens(3))

  tower, tower_out = apply(vit.Model(**IMAGE), params["img"], images())
  tower = np.asarray(tower)
  norm = np.linalg.norm(tower, axis=1, keepdims=True)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  close(out["img/norm"], norm)
  close(zimg, tower / norm)
  close(np.linalg.norm(ztxt, axis=1), np.ones(3))
  for z, name in ((zimg, "img"), (ztxt, "txt")):
    np.testing.assert_array_equal(z, out[f"{name}/normalized"])
  for name, x in tower_out.items():
    jax.tree.map(close, out[f"img/{name}"], x)
  assert out["txt/logits"].shape == (3, 16) and "txt/block00" in out

  close(params["t"], np.log([10.0]))
  close(out["t/parameter"], params["t"])
  np.testing.assert_allclose(out["t"], [10.0], rtol=1e-6)
  np.testing.assert_array_equal(out["b"], [-10.0])


@pytest.mark.parametrize("has_image", [True, False])
def test_one_input(has_image):
  model = make(out_dim=8)
  inputs = (images(),) if has_image else (None, tokens())
  params = filled(model, *inputs)
  params["t"] = np.zeros(1, np.float32)
  assert params.keys() == {"t", "img" if has_image else "txt"}
  zimg, ztxt, out = apply(model, params, *inputs)
  assert (ztxt if has_image else zimg) is None
  assert (zimg if has_image else ztxt).shape == (2, 8)
  absent = "txt/" if has_image else "img/"
  assert not any(name.startswith(absent) for name in out)
  assert "b" not in out and out["t"] == 1


@pytest.mark.parametrize(
  "kw, image_dim, text_dim",
  [
    (dict(out_dim=8), 8, 8),
    (dict(out_dim=[8, 4]), 8, 4),
    (dict(out_dim=(None, None)), 32, 32),
    (dict(text=dict(**TEXT, num_classes=5), out_dim=8), 8, 5),
  ],
)
def test_out_dim(kw, image_dim, text_dim):
  model = make(**kw)
  zimg, ztxt, _ = jax.eval_shape(
    lambda *x: model.init_with_output(jax.random.PRNGKey(0), *x)[0],
    images(),
    tokens(),
  )
  assert (zimg.shape, ztxt.shape) == ((2, image_dim), (2, text_dim))


def test_gradient_of_a_zero_head():
  """A ViT's head starts with zeros: all embeddings are 0 at first."""
  model = make(out_dim=8)
  params = filled(model, images())
  head = jax.tree.map(np.zeros_like, params["img"]["head"])

  def loss(head):
    tower = {**params["img"], "head": head}
    zimg, _, _ = model.apply({"params": {**params, "img": tower}}, images())
    return zimg.sum(), zimg

  (_, zimg), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(head)
  np.testing.assert_array_equal(zimg, np.zeros((2, 8)))
  # As of the formula z / (|z| + 1e-8), where the norm does not change.
  np.testing.assert_allclose(grad["bias"], np.full(8, 2e8), rtol=1e-5)


class Toy(nn.Module):
  """A tower of a user."""

  num_classes: int

  @nn.compact
  def __call__(self, x, *, train=False):
    x = nn.Dense(self.num_classes, name="head")(x.reshape(len(x), -1))
    return x, {"train": train}


def test_own_model(monkeypatch):
  """Found by its dotted path; gets all keywords."""
  module = types.ModuleType("my_towers")
  module.Model = Toy
  module.__spec__ = importlib.machinery.ModuleSpec("my_towers", None)
  monkeypatch.setitem(sys.modules, "my_towers", module)
  model = make(image={}, image_model="my_towers", out_dim=3)
  params = init(model, images())
  assert params["img"]["head"]["kernel"].shape == (32 * 32 * 3, 3)
  zimg, _, out = model.apply({"params": params}, images(), train=True)
  assert zimg.shape == (2, 3) and out["img/train"] is True


def test_errors_of_the_model():
  with pytest.raises(ValueError, match="config.model.image_model.*'vitt'"):
    init(make(image_model="vitt"), images())
  with pytest.raises(ValueError, match="config.model.text_model.*'texts'"):
    init(make(text_model="texts"), None, tokens())
  with pytest.raises(ValueError, match=r"config.model.out_dim.*\(1, 2, 3\)"):
    init(make(out_dim=(1, 2, 3)), images())


CONFIG = ml_collections.ConfigDict(
  dict(image=IMAGE, text=TEXT, out_dim=8, **SIGLIP)
)


@pytest.fixture(scope="module")
def params():
  return filled(two_towers.Model(**CONFIG), images(), tokens())


@pytest.fixture
def ckpt(params, tmp_path):
  return save(tmp_path / "x.npz", params)


def save(path, params):
  np.savez(path, **{f"params/{k}": v for k, v in named(params).items()})
  return str(path)


def other_values(params):
  return jax.tree.map(lambda x: np.full_like(x, 7), params)


def same(a, b):
  assert named(a).keys() == named(b).keys()
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_load_everything(params, ckpt):
  start = other_values(params)
  same(two_towers.load(start, ckpt, CONFIG), params)
  assert start["t"] == 7  # Not changed.
  same(two_towers.load(start, ckpt, CONFIG.to_dict()), params)


@pytest.mark.parametrize("bias", [{}, {"bias_init": None}])
def test_load_without_bias(params, tmp_path, bias):
  params = {k: v for k, v in params.items() if k != "b"}
  path = save(tmp_path / "x.npz", params)
  config = {k: v for k, v in CONFIG.items() if k != "bias_init"}
  start = other_values(params)
  same(two_towers.load(start, path, {**config, **bias}), params)


def test_load_parts(params, ckpt):
  start = other_values(params)
  out = two_towers.load(start, {"image": f"{ckpt}:img"}, CONFIG)
  same(out, {**start, "img": params["img"]})
  assert out["txt"] is start["txt"]
  files = ml_collections.ConfigDict(
    dict(txt=f"{ckpt}:txt", temperature=f"{ckpt}:t", b=f"{ckpt}:b")
  )
  same(two_towers.load(start, files, CONFIG), {**params, "img": start["img"]})
  assert len(files) == 3  # The config stays as it is.
  # The long name wins.
  files = dict(t="/not/there", temperature=f"{ckpt}:t", img=None)
  out = two_towers.load(start, files, CONFIG)
  same(out, {**start, "t": params["t"]})


def test_load_keywords_and_shapes(params, ckpt):
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
  )
  out = two_towers.load(
    shapes,
    ckpt,
    CONFIG,
    img_load_kw={"dont_load": ["head/.*"]},
    txt_load_kw=ml_collections.ConfigDict({"dont_load": ["pos_embedding"]}),
  )
  kept = {k for k, v in named(out).items() if not isinstance(v, np.ndarray)}
  assert kept == {"img/head/kernel", "img/head/bias", "txt/pos_embedding"}
  assert out["img"]["head"]["bias"] is shapes["img"]["head"]["bias"]


def test_load_adapts_the_towers(params, ckpt):
  """Another resolution, and blocks stacked for scan."""
  config = CONFIG.copy_and_resolve_references()
  config.image.scan = config.text.scan = True
  model = two_towers.Model(**config)
  start = filled(model, images(size=48), tokens())
  out = two_towers.load(start, ckpt, config)
  expected = vit.resample_posemb(
    params["img"]["pos_embedding"], start["img"]["pos_embedding"]
  )
  np.testing.assert_allclose(out["img"]["pos_embedding"], expected, rtol=1e-6)
  jax.tree.map(
    lambda x, want: np.testing.assert_array_equal(x[0], want),
    out["txt"]["Encoder_0"]["encoderblock"],
    params["txt"]["Encoder_0"]["encoderblock_0"],
  )
  assert jax.tree.map(jnp.shape, out) == jax.tree.map(jnp.shape, start)


def test_load_without_parameters(params, ckpt):
  same(two_towers.load(None, ckpt, CONFIG), params)
  out = two_towers.load(None, {"txt": f"{ckpt}:txt"}, None)
  assert out["img"] is None
  same(out["txt"], params["txt"])


def test_load_errors(params, ckpt):
  with pytest.raises(AssertionError, match="config.model_init.*imag.*'image'"):
    two_towers.load(params, {"imag": ckpt}, CONFIG)
  with pytest.raises(ValueError, match="config.model_init.*'SigLIP B/16 256'"):
    two_towers.load(params, "SigLIP B/16 265", CONFIG)
  only_image = {k: params[k] for k in ("img", "t")}
  with pytest.raises(ValueError, match="text tower.*it has img, t"):
    two_towers.load(only_image, ckpt, CONFIG)
  with pytest.raises(ValueError, match="config.model.image_model.*'vitt'"):
    two_towers.load(params, ckpt, {**CONFIG, "image_model": "vitt"})
  with pytest.raises(ValueError, match=r" \+ Embed_0/embedding"):
    two_towers.load(params, {"img": f"{ckpt}:txt"}, CONFIG)


def test_vanity_names(monkeypatch):
  names = two_towers.VANITY_NAMES
  assert len(names) == 26
  base = "gs://big_vision/"
  for name, file in {
    "SigLIP B/16 224": "siglip/webli_en_b16_224_63724782.npz",
    "SigLIP B/16-i18n 256": "siglip/webli_i18n_b16_256_66117334.npz",
    "SigLIP2 B/32 256": "siglip2/siglip2_b32_256.npz",
    "SigLIP2 So400m/14 384": "siglip2/siglip2_so400m14_384.npz",
    "SigLIP2 g-opt/16 384": "siglip2/siglip2_g-opt16_384.npz",
    "SigLIP2 So400m/16 NaFlex": "siglip2/siglip2_so400m16_naflex.npz",
  }.items():
    assert names[name] == base + file
  # Also as image models on their own.
  assert {k: f"{v}:img" for k, v in names.items()}.items() <= (
    vit.VANITY_NAMES.items()
  )

  asked = []

  def load_params(path):
    asked.append(path)
    return {} if path.endswith(("img", "txt")) else np.zeros(1)

  monkeypatch.setattr(two_towers.checkpoints, "load_params", load_params)
  two_towers.load(None, "SigLIP2 B/32 256", CONFIG)
  path = base + "siglip2/siglip2_b32_256.npz"
  assert asked == [f"{path}:{k}" for k in ("img", "txt", "t", "b")]
