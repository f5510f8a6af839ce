"""Positions of images that are no squares, in every model that has positions."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pytest
import scipy.ndimage

from big_vision import models, trees
from big_vision.models import positions, stored_grid, vit
from big_vision.models.proj.clippo import one_tower
from big_vision.models.proj.flexi import vit as flexi_vit
from big_vision.models.proj.image_text import two_towers
from tests import toy

VIT = dict(width=8, depth=1, mlp_dim=8, num_heads=2, patch_size=(4, 4))
TEXT = dict(width=8, depth=1, mlp_dim=8, num_heads=2, vocab_size=9)
TOWERS = dict(image=VIT, text=TEXT, out_dim=8)
CLIPPO = dict(image=VIT, out_dim=8)
TOKENS = jax.ShapeDtypeStruct((1, 4), jnp.int32)


def image(height, width):
  return jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)


def shapes(model, *inputs):
  return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def filled(tree):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32), tree
  )


def save(params, path):
  path.parent.mkdir(exist_ok=True)
  flat = trees.tree_flatten_with_names(params)[0]
  np.savez(path, **dict(flat))
  return str(path)


def zoom(posemb, old, new):
  """Resizes positions with SciPy, which keeps the corners, too."""
  grid = posemb.reshape(*old, -1)
  factors = (new[0] / old[0], new[1] / old[1], 1)
  out = scipy.ndimage.zoom(grid, factors, order=1)
  return out.reshape(1, -1, posemb.shape[-1])


@pytest.fixture
def square(tmp_path):
  """(parameters, file) of a ViT with 4x4 positions."""
  params = filled(shapes(vit.Model(3, **VIT), image(16, 16)))
  return params, save(params, tmp_path / "square.npz")


def test_16_positions_are_not_2x8_positions(square):
  params, file = square
  config = dict(model_name="vit", model=VIT, model_init=file)
  for size, grid in [((8, 32), (2, 8)), ((32, 8), (8, 2)), ((4, 64), (1, 16))]:
    model, load = models.build(config, num_classes=3, image_size=size)
    out = load(shapes(model, image(*size)))["pos_embedding"]
    want = zoom(params["pos_embedding"], (4, 4), grid)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)


def test_equal_lengths_without_a_grid_and_equal_grids_stay(square):
  params, file = square
  init = shapes(vit.Model(3, **VIT), image(8, 32))
  for kw in ({}, dict(grid=(4, 4)), dict(grid=(2, 8), from_grid=(2, 8))):
    out = vit.load(init, file, VIT, **kw)["pos_embedding"]
    np.testing.assert_array_equal(out, params["pos_embedding"])
  kept = vit.load(init, file, VIT, ["pos_embedding"], grid=(2, 8))
  assert kept["pos_embedding"] is init["pos_embedding"]


def test_between_other_lengths(tmp_path):
  params = filled(shapes(vit.Model(3, **VIT), image(8, 12)))  # 2x3
  file = save(params, tmp_path / "a.npz")
  init = shapes(vit.Model(3, **VIT), image(16, 20))  # 4x5
  out = vit.load(init, file, VIT, grid=(4, 5), from_grid=(2, 3))
  want = zoom(params["pos_embedding"], (2, 3), (4, 5))
  np.testing.assert_allclose(out["pos_embedding"], want, rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match=r"from_grid=\(rows, columns\)"):
    vit.load(init, file, VIT, grid=(4, 5))
  for bad in (dict(grid=(5, 5)), dict(from_grid=(4, 4)), dict(grid=(20,))):
    with pytest.raises(
      ValueError, match=r"config.model_load.*should be \(rows"
    ):
      vit.load(init, file, VIT, **bad)


@pytest.mark.parametrize(
  "name, cfg, texts",
  [
    ("proj.image_text.two_towers", TOWERS, TOKENS),
    ("proj.clippo.one_tower", CLIPPO, image(16, 16)),
  ],
)
def test_towers(tmp_path, name, cfg, texts):
  params = filled(
    shapes(
      models.build(dict(model_name=name, model=cfg))[0], image(16, 16), texts
    )
  )
  file = save(params, tmp_path / "towers.npz")
  config = dict(model_name=name, model=cfg, model_init=file)
  texts = texts if texts is TOKENS else image(8, 32)
  model, load = models.build(config, image_size=(8, 32))
  out = load(shapes(model, image(8, 32), texts))["img"]["pos_embedding"]
  want = zoom(params["img"]["pos_embedding"], (4, 4), (2, 8))
  np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)
  assert {two_towers, one_tower}  # Both are imported, for their `image_grid`.


def test_flexivit(square):
  """Its config says which grid it stores, for images of any size."""
  params, file = square
  cfg = dict(VIT, posemb_size=(2, 8))
  config = dict(model_name="proj.flexi.vit", model=cfg, model_init=file)
  model, load = models.build(config, num_classes=3, image_size=(16, 16))
  init = shapes(model, image(16, 16))
  want = zoom(params["pos_embedding"], (4, 4), (2, 8))
  np.testing.assert_allclose(load(init)["pos_embedding"], want, rtol=1e-5)
  same = flexi_vit.load(init, file, mlc.ConfigDict(cfg))["pos_embedding"]
  np.testing.assert_array_equal(same, params["pos_embedding"])


@pytest.mark.tf
def test_a_run_tells_the_grid_of_its_checkpoints(square, tmp_path):
  """Who trained with 2x8 positions continues with them."""
  params, _ = square
  init = shapes(vit.Model(3, **VIT), image(8, 32))
  run = dict(
    model_name="vit",
    model=VIT,
    input=dict(
      pp="decode_jpeg_and_inception_crop(8)|resize((8, 32))|flip_lr"
      '|value_range(-1, 1)|onehot(3)|keep("image", "labels")'
    ),
  )
  file = save(params, tmp_path / "run" / "checkpoint.npz")
  (tmp_path / "run" / "config.json").write_text(json.dumps(run))
  assert stored_grid.find(file, 16) == (2, 8)
  assert stored_grid.find(file, 25) is None
  out = vit.load(init, file, VIT, grid=(2, 8))["pos_embedding"]
  np.testing.assert_array_equal(out, params["pos_embedding"])
  out = vit.load(init, file, VIT, grid=(8, 2))["pos_embedding"]
  want = zoom(params["pos_embedding"], (2, 8), (8, 2))
  np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)
  # A file does not get to import what it names.
  run["model_name"] = "this_module_does_not_exist"
  (tmp_path / "run" / "config.json").write_text(json.dumps(run))
  assert stored_grid.find(file, 16) is None


def test_a_run_passes_the_grid_of_its_images(square, tmp_path):
  params, file = square
  config = mlc.ConfigDict(dict(model_name="vit", model=VIT, model_init=file))
  setup = dataclasses.replace(
    toy.setup(toy.config(**config)), batch_shapes={"image": image(8, 32)}
  )
  model, load = setup.make_model(num_classes=3)
  assert setup.make_model(num_classes=3)[0] is model
  want = zoom(params["pos_embedding"], (4, 4), (2, 8))
  out = load(shapes(model, image(8, 32)))["pos_embedding"]
  np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)


def test_a_model_of_ones_own_gets_no_grid(tmp_path, monkeypatch):
  (tmp_path / "bvgridless.py").write_text(
    "from big_vision.models.vit import Model, image_grid\n"
    "def load(params, init, cfg, dont_load=()): return 'loaded'\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  config = dict(model_name="bvgridless", model=VIT, model_init="file")
  assert models.build(config, image_size=(8, 32))[1]({}) == "loaded"


def test_patches_and_images(caplog):
  config = dict(model_name="vit", model=dict(VIT, patch_size=(14, 14)))
  with caplog.at_level("INFO", "absl"):
    models.build(config, image_size=(224, 224))
    assert not caplog.records
    models.build(config, image_size=(384, 384))
  (line,) = [r.getMessage() for r in caplog.records]
  assert line == (
    "config.model: the patches of an image of 384x384 pixels leave out its last "
    "6 rows and 6 columns of pixels."
  )
  with pytest.raises(
    ValueError, match="config.model.patch_size: a patch of 14x"
  ):
    models.build(config, image_size=(13, 64))
  model = two_towers.Model(**TOWERS)
  with pytest.raises(
    ValueError, match="config.model.image.patch_size: a patch"
  ):
    shapes(model, image(3, 8), TOKENS)
  with pytest.raises(ValueError, match=r"=16 should be \(height, width\)"):
    shapes(vit.Model(3, **dict(VIT, patch_size=16)), image(32, 32))
  assert positions.image_grid((9, 8), [4, 4]) == ((2, 2), (1, 0))


@pytest.mark.tf
@pytest.mark.parametrize(
  "config",
  [
    dict(model_name="proj.image_text.two_towers", model={"image_model": "bvbad"}),
    dict(model_name="vit", model={"variant": "Z/9"}),
    dict(model_name=["vit"]),
    dict(model_name="vit", input={"pp": "nonsense(|("}),
    dict(model_name="vit", input={"pp": 5}),
    dict(model_name="vit", input=[1]),
  ],
)  # fmt: skip
def test_configs_of_others(tmp_path, monkeypatch, config):
  """They are a hint: nothing of theirs is imported, and nothing is raised."""
  (tmp_path / "bvbad.py").write_text("raise SystemExit('imported')")
  monkeypatch.syspath_prepend(tmp_path)
  config = {"input": {"pp": "decode|resize(16)"}, **config}
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert stored_grid.find(f"{tmp_path}/checkpoint.bv", 16) is None
