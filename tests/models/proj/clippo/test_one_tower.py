"""One tower for images and rendered texts: what it returns, loading."""

import jax
import ml_collections
import numpy as np
import pytest

from big_vision import trees
from big_vision.models import vit
from big_vision.models.proj.clippo import one_tower

pytestmark = pytest.mark.usefixtures("quick_compilation")
IMAGE = dict(variant="mu/16", pool_type="map")


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def images(num=2, size=32):
  k = np.arange(num * size * size * 3, dtype=np.float32)
  return np.sin(0.01 * k).reshape(num, size, size, 3)


def make(image=IMAGE, **kw):
  """As trainers do, from a config."""
  return one_tower.Model(**ml_collections.ConfigDict(dict(image=image, **kw)))


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


def test_known_numbers():
  model = make(out_dim=16)
  params = init(model, images(), 0.5 * images())
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
  assert sum(x.size for x in leaves) == 50_705
  total = sum(np.abs(x).sum() for x in leaves)
  np.testing.assert_allclose(total, 3736.03, rtol=2e-6)
  np.testing.assert_allclose(params["t"], np.log([10.0]), rtol=1e-6)
  zimg, ztxt, _ = apply(model, perturbed(params), images(), 0.5 * images())
  for z, size, first in (
    (zimg, 0.219954, (0.10186, 0.34327, 0.26908)),
    (ztxt, 0.223915, (0.31554, 0.30522, 0.014283)),
  ):
    assert z.shape == (2, 16)
    np.testing.assert_allclose(np.abs(z).mean(), size, rtol=2e-5)
    np.testing.assert_allclose(z[0, :3], first, rtol=1e-4)


def test_both_inputs_see_the_same_tower():
  config = dict(variant="mu/16")
  model = make(config, out_dim=8, temperature_init=3.0)
  texts = 0.5 * images()
  params = filled(model, images())
  tower = vit.Model(8, **config)
  run_tower = jax.jit(lambda p, x: tower.apply({"params": p}, x))
  assert named(params["img"]).keys() == (
    named(filled(tower, images())).keys()
  ) and params.keys() == {"img", "t"}

  zimg, ztxt, out = apply(model, params, images(), texts)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  for name, z, inputs in (("img", zimg, images()), ("txt", ztxt, texts)):
    want, tower_out = run_tower(params["img"], inputs)
    norm = np.linalg.norm(want, axis=1, keepdims=True)
    close(z, want / norm)
    close(out[f"{name}/norm"], norm)
    np.testing.assert_array_equal(z, out[f"{name}/normalized"])
    for key, x in tower_out.items():
      jax.tree.map(close, out[f"{name}/{key}"], x)
  close(out["t"], np.exp(params["t"]))
  close(out["t/parameter"], params["t"])


@pytest.mark.parametrize("has_image", [True, False])
def test_one_input(has_image):
  model = make(out_dim=8)
  inputs = (images(),) if has_image else (None, images())
  params = filled(model, *inputs)
  assert params.keys() == {"img", "t"}  # The same for both.
  zimg, ztxt, out = apply(model, params, *inputs)
  assert (ztxt if has_image else zimg) is None
  assert (zimg if has_image else ztxt).shape == (2, 8)
  absent = "txt/" if has_image else "img/"
  assert not any(name.startswith(absent) for name in out)


def test_arguments_of_the_tower():
  model = make(image=dict(**IMAGE, num_classes=5), out_dim=8)
  zimg = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.PRNGKey(0), x)[0][0], images()
  )
  assert zimg.shape == (2, 5)
  with pytest.raises(ValueError, match="config.model.image_model.*'vitt'"):
    init(make(image_model="vitt"), images())


def test_dropout():
  model = make(image=dict(variant="mu/16", dropout=0.5), out_dim=8)
  params = filled(model, images())
  run = jax.jit(
    lambda key: model.apply(
      {"params": params}, images(), images(), train=True, rngs={"dropout": key}
    )[:2]
  )
  zimg, ztxt = run(jax.random.PRNGKey(1))
  assert np.abs(zimg - ztxt).max() > 1e-3  # Each input has its own noise.


CONFIG = ml_collections.ConfigDict(dict(image=IMAGE, out_dim=8))


@pytest.fixture(scope="module")
def params():
  return filled(one_tower.Model(**CONFIG), images())


@pytest.fixture
def ckpt(params, tmp_path):
  path = str(tmp_path / "x.npz")
  np.savez(path, **{f"params/{k}": v for k, v in named(params).items()})
  return path


def other_values(params):
  return jax.tree.map(lambda x: np.full_like(x, 7), params)


def same(a, b):
  assert named(a).keys() == named(b).keys()
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_load_everything(params, ckpt):
  start = other_values(params)
  same(one_tower.load(start, ckpt, CONFIG), params)
  assert start["t"] == 7  # Not changed.
  same(one_tower.load(start, ckpt, CONFIG.to_dict()), params)
  same(one_tower.load(None, ckpt, CONFIG), params)
  same(one_tower.load(None, ckpt, None), params)


def test_load_parts(params, ckpt):
  start = other_values(params)
  for name in ("img", "image"):
    out = one_tower.load(start, {name: f"{ckpt}:img"}, CONFIG)
    same(out, {**start, "img": params["img"]})
  for name in ("t", "temperature"):
    files = ml_collections.ConfigDict({name: f"{ckpt}:t"})
    out = one_tower.load(start, files, CONFIG)
    same(out, {**start, "t": params["t"]})
    assert out["img"] is start["img"]
  out = one_tower.load(None, {"t": f"{ckpt}:t"}, CONFIG)
  assert out["img"] is None and out["t"].shape == (1,)


def test_load_keywords_and_shapes(params, ckpt):
  """Another resolution, head, and blocks stacked for scan."""
  config = CONFIG.copy_and_resolve_references()
  config.image.scan, config.out_dim = True, 9
  start = jax.eval_shape(
    one_tower.Model(**config).init, jax.random.PRNGKey(0), images(size=48)
  )["params"]
  out = one_tower.load(
    start, ckpt, config, img_load_kw={"dont_load": ["head/.*"]}
  )
  assert out["img"]["head"]["bias"] is start["img"]["head"]["bias"]
  assert jax.tree.map(np.shape, out) == jax.tree.map(np.shape, start)
  np.testing.assert_array_equal(out["t"], params["t"])


def test_load_errors(params, ckpt):
  with pytest.raises(AssertionError, match="config.model_init.*imag.*'image'"):
    one_tower.load(params, {"imag": ckpt}, CONFIG)
  with pytest.raises(AssertionError, match="config.model_init.*txt"):
    one_tower.load(params, {"txt": ckpt}, CONFIG)
  with pytest.raises(ValueError, match="config.model.image_model.*'vitt'"):
    one_tower.load(params, ckpt, {**CONFIG, "image_model": "vitt"})
  with pytest.raises(ValueError, match=" - Transformer/"):
    one_tower.load(params, {"img": f"{ckpt}:img/head"}, CONFIG)
