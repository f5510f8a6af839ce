"""Patches as codes: against scikit-learn, there and back, bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import decomposition

from big_vision import lookup
from big_vision.models.proj.jetformer import patch_pca

SMALL = dict(input_size=(8, 12), patch_size=(4, 2))
GRID, PATCH = (2, 6), 24
KEY = jax.random.key(0)


def images(num=2, channels=3):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (num, 8, 12, channels)).astype(np.float32)


def patches(x):
  """Values of patches [B, n, P], cut one by one."""
  rows = [
    x[:, 4 * i : 4 * i + 4, 2 * j : 2 * j + 2].reshape(len(x), -1)
    for i in range(2)
    for j in range(6)
  ]
  return np.stack(rows, 1)


def fitted(path, num=PATCH, channels=3):
  """(path of a PCA, scikit-learn's own)."""
  x = patches(images(20, channels)).reshape(-1, 8 * channels)
  pca = decomposition.PCA(num).fit(x * np.linspace(0.2, 1, 8 * channels)[None])
  names = ("components_", "explained_variance_", "mean_")
  file = str(path / f"pca{num}.npz")
  np.savez(file, **{k: getattr(pca, k) for k in names})
  return file, pca


def encode(model, x, **kw):
  return model.apply({}, x, method="encode", **kw)


@pytest.mark.parametrize("whiten", [False, True])
def test_codes_are_those_of_scikit_learn(tmp_path, whiten):
  file, pca = fitted(tmp_path, 5)
  pca.whiten = whiten
  model = patch_pca.Model(5, pca_init_file=file, whiten=whiten, **SMALL)
  x = images()
  z, logvar = encode(model, x)
  want = pca.transform(patches(x).reshape(-1, PATCH)).reshape(2, 12, 5)
  np.testing.assert_allclose(z, want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(logvar, np.full(z.shape, np.log(1e-4)), rtol=1e-6)
  back = model.apply({}, z, method="decode")
  want = pca.inverse_transform(want.reshape(-1, 5)).reshape(2, 12, PATCH)
  np.testing.assert_allclose(patches(back), np.clip(want, -1, 1), atol=1e-5)


@pytest.mark.parametrize(
  "kw", [{}, dict(whiten=False), dict(depth_to_seq=2), dict(depth_to_seq=4)]
)
def test_all_components_lose_nothing(tmp_path, kw):
  file, _ = fitted(tmp_path)
  model = patch_pca.Model(pca_init_file=file, **SMALL, **kw)
  x = images()
  z, _ = jax.jit(lambda x: encode(model, x))(x)
  f = model.depth_to_seq
  assert z.shape == (2, 12 * f, PATCH // f)
  plain, _ = encode(model.clone(depth_to_seq=1), x)
  for i in range(f):  # The first components of all patches come first.
    part = plain[..., i * PATCH // f : (i + 1) * PATCH // f]
    np.testing.assert_allclose(z[:, 12 * i : 12 * i + 12], part, rtol=1e-5)
  back = model.apply({}, z, method="decode")
  np.testing.assert_allclose(back, x, atol=2e-5)


def test_without_pca():
  model = patch_pca.Model(skip_pca=True, noise_std=0.0, **SMALL)
  assert not model.init(KEY, images())
  x, out = model.apply({"params": {}}, images(), train=True)
  np.testing.assert_array_equal(x, images())
  np.testing.assert_array_equal(out["z"], patches(images()))
  np.testing.assert_array_equal(out["logvar"], 0 * out["z"])
  x, _ = model.apply({}, images(channels=1))
  np.testing.assert_array_equal(x, images(channels=1))


def test_images_of_one_channel(tmp_path):
  file, _ = fitted(tmp_path, 8, channels=1)
  model = patch_pca.Model(pca_init_file=file, **SMALL)
  x, _ = model.apply({}, images(channels=1))
  np.testing.assert_allclose(x, images(channels=1), atol=2e-5)


def test_noise():
  kw = dict(skip_pca=True, add_dequant_noise=True, **SMALL)
  model = patch_pca.Model(noise_std=0.0, **kw)
  z, _ = encode(model, images(), rngs={"dropout": KEY})
  added = (z - patches(images())) * 127.5
  assert -1e-4 < added.min() < 0.01 and 0.99 < added.max() < 1.0001
  np.testing.assert_allclose(added.mean(), 0.5, atol=0.03)
  again, _ = encode(model, images(), rngs={"dropout": KEY})
  np.testing.assert_array_equal(z, again)
  draw = lambda m: m.apply(
    {}, jnp.zeros((2, 9)), jnp.full((2, 9), 2 * np.log(0.3)), KEY,
    method="reparametrize",
  )  # fmt: skip
  assert not draw(model).any()
  want = 0.3 * jax.random.normal(KEY, (2, 9))
  np.testing.assert_allclose(draw(model.clone(noise_std=0.01)), want, rtol=1e-5)


def test_a_new_file_is_read(tmp_path):
  file, _ = fitted(tmp_path, 5)
  model = patch_pca.Model(pca_init_file=file, **SMALL)
  before, _ = encode(model, images())
  with np.load(file) as old:
    new = {**old, "mean_": old["mean_"] + 1}
    new["explained_variance_"] = np.append(new["explained_variance_"], [])
  np.savez_compressed(file, **new)
  after, _ = encode(model, images())
  assert np.abs(after - before).max() > 0.1


def test_there_is_nothing_to_load():
  assert patch_pca.load({}, "nowhere", None, dont_load=("x",)) == {}


@pytest.mark.parametrize(
  "kw, match",
  [
    ({}, r"patch_pca\.pca_init_file is empty.*skip_pca"),
    (dict(patch_size=(5, 2)), r"patch_pca\.patch_size = \(5, 2\)"),
    (dict(input_size=(8, 8)), r"patch_pca\.input_size = \(8, 8\).*\(8, 12\)"),
    (
      dict(skip_pca=True, depth_to_seq=2),
      r"patch_pca\.depth_to_seq = 2 needs a PCA",
    ),
  ],
)
def test_bad_settings(kw, match):
  model = patch_pca.Model(**{**SMALL, **kw})
  with pytest.raises(lookup.ConfigError, match=match):
    encode(model, images())


def test_bad_files(tmp_path):
  file, _ = fitted(tmp_path, 5)
  model = patch_pca.Model(pca_init_file=file, **SMALL)
  with pytest.raises(lookup.ConfigError, match="24 values, but a patch has 8"):
    encode(model, images(channels=1))
  with pytest.raises(lookup.ConfigError, match="does not divide the 5 comp"):
    encode(model.clone(depth_to_seq=2), images())
  np.savez(tmp_path / "other.npz", mean_=np.zeros(3))
  model = patch_pca.Model(pca_init_file=str(tmp_path / "other.npz"), **SMALL)
  with pytest.raises(lookup.ConfigError, match="has no components_, explained"):
    encode(model, images())
  with pytest.raises(FileNotFoundError):
    encode(model.clone(pca_init_file=str(tmp_path / "no.npz")), images())
