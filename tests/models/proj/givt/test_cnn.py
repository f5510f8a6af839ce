"""Convolutional VAE: recorded numbers, grids of codes, bad settings."""

import functools

import jax
import numpy as np
import pytest

from big_vision import checkpoints, lookup
from big_vision.models.proj.givt import cnn

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = dict(
  codeword_dim=4, filters=32, num_res_blocks=1, channel_multipliers=(1, 2)
)
IMAGE = np.sin(0.01 * np.arange(2 * 16 * 16 * 3)).astype(np.float32)
IMAGE = IMAGE.reshape(2, 16, 16, 3)


def shapes(x=IMAGE, **kw):
  model = cnn.Model(**{**SMALL, **kw})
  return model, jax.eval_shape(model.init, jax.random.key(0), x)


def filled(tree, seed=0):
  r = np.random.default_rng(seed)
  draw = lambda s: r.normal(0, 0.05, s.shape).astype(np.float32)
  return jax.tree.map(draw, tree)


def test_recorded_numbers():
  """Those of the original code, for the same parameters and inputs."""
  model = cnn.Model(**SMALL)
  params = jax.jit(lambda: model.init(jax.random.PRNGKey(0), IMAGE))()["params"]
  leaves = jax.tree.leaves(params)
  assert sum(x.size for x in leaves) == 370699
  total = sum(np.abs(np.asarray(x, np.float64)).sum() for x in leaves)
  assert total == pytest.approx(14791, rel=1e-4)
  move = lambda x: np.float32(
    x + 0.05 * np.sin(np.arange(x.size, dtype=np.float64)).reshape(x.shape)
  )
  params = jax.tree.map(move, params)
  x, out = jax.jit(model.apply)({"params": params}, IMAGE)
  for got, size, mean, first in (
    (out["mu"], (2, 64, 4), 0.520644, [0.58769, 0.47512]),
    (x, (2, 16, 16, 3), 0.440166, [0.28499, 0.16775]),
  ):
    assert got.shape == size
    assert np.abs(got).mean() == pytest.approx(mean, rel=5e-5)
    np.testing.assert_allclose(np.ravel(got)[:2], first, rtol=5e-4)


def test_codes_of_several_cells():
  """Channels first, then rows and columns, as loops say it."""
  model = cnn.Model(codeword_dim=3, pixel_shuffle_patch_size=(2, 1))
  x = np.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
  got = np.asarray(model._codes(x))
  assert got.shape == (2, 8, 6)
  for row in range(2):
    for column in range(4):
      for c in range(3):
        for p in range(2):
          np.testing.assert_array_equal(
            got[:, 4 * row + column, 2 * c + p],
            x[:, 2 * row + p, column, c],
          )


def test_decode_takes_the_same_codes():
  """Codes of several cells are those of one cell, rearranged."""
  one, variables = shapes()
  two = cnn.Model(**SMALL, pixel_shuffle_patch_size=(1, 2))
  variables = filled(variables)
  z = np.random.default_rng(1).normal(size=(1, 16, 4)).astype(np.float32)
  codes = two._codes(z.reshape(1, 4, 4, 4))
  assert codes.shape == (1, 8, 8)
  decode = jax.jit(functools.partial(one.apply, method="decode"))
  want = decode(variables, z)
  got = jax.jit(functools.partial(two.apply, method="decode"))(variables, codes)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_grids():
  assert cnn.get_h_w_pixelshuffle(256, (1, 1)) == (16, 16)
  assert cnn.get_h_w_pixelshuffle(512, (1, 2)) == (32, 16)
  assert cnn.get_h_w_pixelshuffle(64, (2, 2)) == (8, 8)
  for num, patch in ((8, (1, 1)), (4, (1, 2))):
    with pytest.raises(AssertionError, match="not a square"):
      cnn.get_h_w_pixelshuffle(num, patch)


def test_published_ones_see_another_range():
  """Images in [0, 1] inside, and bounded variances."""
  kw = dict(num_res_blocks=0, channel_multipliers=(1,))
  plain, variables = shapes(**kw)
  malib = cnn.Model(**{**SMALL, **kw}, malib_ckpt=True)
  variables = filled(variables)
  head = variables["params"]["cnn_encoder"]["Conv_1"]
  head["bias"][4:] = [100, -100, 0, 0]
  encode, decode = (
    lambda model, x, m=method: jax.jit(
      functools.partial(model.apply, method=m)
    )(variables, x)
    for method in ("encode", "decode")
  )
  mu, logvar = encode(malib, IMAGE)
  want, _ = encode(plain, (IMAGE + 1) / 2)
  np.testing.assert_allclose(mu, want, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(logvar[..., 0], 20)
  np.testing.assert_array_equal(logvar[..., 1], -30)
  x, y = decode(plain, 0.1 * mu), decode(malib, 0.1 * mu)
  np.testing.assert_allclose(y, np.clip(2 * x - 1, -1, 1), atol=1e-5)


def test_averages_of_parts_of_cells():
  """Pooling at the border of an odd size is over what is there."""
  x = np.arange(9.0, dtype=np.float32).reshape(1, 3, 3, 1)
  one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
  center = np.zeros([3, 3, 1, 1], np.float32)
  center[1, 1] = 1
  params = {
    "Conv_0": {"kernel": center},
    "BatchNorm_0": {"scale": one, "bias": zero},
    "Conv_1": {"kernel": np.ones([1, 1, 1, 1], np.float32), "bias": zero},
  }
  stats = {"BatchNorm_0": {"mean": zero, "var": one - 1e-5}}
  encoder = cnn.Encoder(
    1, 0, (1, 1), 1, norm_type="BN", activation_fn_str="relu"
  )
  out = encoder.apply({"params": params, "batch_stats": stats}, x)
  np.testing.assert_allclose(out[0, ..., 0], [[2, 3.5], [6.5, 8]], rtol=1e-5)


def test_batch_norm_learns_averages():
  kw = dict(norm_type="BN", filters=4, channel_multipliers=(1,))
  model, variables = shapes(**kw)
  assert set(variables) == {"params", "batch_stats"}
  variables = {
    "params": filled(variables["params"]),
    "batch_stats": jax.tree.map(
      lambda s: np.ones(s.shape, np.float32), variables["batch_stats"]
    ),
  }
  rngs = {"dropout": jax.random.key(0)}
  step = functools.partial(model.apply, train=True, mutable=["batch_stats"])
  _, new = jax.jit(step)(variables, IMAGE, rngs=rngs)
  stem = variables["params"]["cnn_encoder"]["Conv_0"]["kernel"]
  x = jax.lax.conv_general_dilated(
    IMAGE, stem, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  got = new["batch_stats"]["cnn_encoder"]["ResBlock_0"]["BatchNorm_0"]
  x = np.asarray(x).reshape(-1, 4)
  np.testing.assert_allclose(got["mean"], 0.9 + 0.1 * x.mean(0), rtol=1e-5)
  np.testing.assert_allclose(got["var"], 0.9 + 0.1 * x.var(0), rtol=1e-5)


def test_dtypes():
  """Codes and images are float32, whatever is computed in between."""
  for kw in (dict(dtype="bfloat16"), dict(dtype_mm="bfloat16")):
    model, variables = shapes(num_res_blocks=0, **kw)
    x, out = jax.eval_shape(model.apply, variables, IMAGE)
    assert {x.dtype, out["mu"].dtype, out["logvar"].dtype} == {
      np.dtype("float32")
    }
    assert all(v.dtype == np.float32 for v in jax.tree.leaves(variables))
    text = str(jax.make_jaxpr(model.apply)(filled(variables), IMAGE))
    assert "bf16" in text


def test_load(tmp_path):
  _, variables = shapes(channel_multipliers=(1,))
  params = filled(variables["params"])
  path = str(tmp_path / "vae.npz")
  checkpoints.save_checkpoint({"params": params}, path)
  for init in (None, variables["params"]):
    loaded = cnn.load(init, path, {})
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
  kept = cnn.load(variables["params"], path, dont_load="cnn_decoder/.*")
  assert kept["cnn_decoder"] == variables["params"]["cnn_decoder"]
  with pytest.raises(AssertionError, match="use_ema_params.*malib_ckpt"):
    cnn.load(None, path, use_ema_params=True)


@pytest.mark.parametrize(
  ("kw", "x", "match"),
  [
    (dict(codeword_dim=None), IMAGE, "codeword_dim"),
    (dict(channel_multipliers=()), IMAGE, "channel_multipliers"),
    (dict(filters=40), IMAGE, "filters=40"),
    (dict(norm_type="IN"), IMAGE, "norm_type"),
    (dict(activation_fn="sigmoid"), IMAGE, "activation_fn"),
    (dict(dtype_mm="int8"), IMAGE, "dtype_mm"),
    (dict(), IMAGE[:, :8], "must be square"),
    (dict(pixel_shuffle_patch_size=(3, 1)), IMAGE, "pixel_shuffle"),
  ],
)
def test_bad_settings(kw, x, match):
  with pytest.raises(lookup.ConfigError, match=match):
    shapes(x, **kw)
