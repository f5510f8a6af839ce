"""Invertible network of codes: recorded numbers, inverse, volume, bad settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import checkpoints, lookup
from big_vision.models.proj.givt import adaptor

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = dict(num_blocks=2, num_channels=8)
CODES = (
  np.sin(0.01 * np.arange(2 * 16 * 8)).astype(np.float32).reshape(2, 16, 8)
)


def made(x=CODES, **kw):
  model = adaptor.Model(**{**SMALL, **kw})
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
  r = np.random.default_rng(0)
  draw = lambda s: r.normal(0, 0.3, s.shape).astype(np.float32)
  return model, jax.tree.map(draw, shapes)


def test_recorded_numbers():
  """Those of the original code, for the same parameters and inputs."""
  model = adaptor.Model(**SMALL)
  params = jax.jit(lambda: model.init(jax.random.PRNGKey(0), CODES))()["params"]
  leaves = jax.tree.leaves(params)
  assert sum(x.size for x in leaves) == 904
  total = sum(np.abs(np.asarray(x, np.float64)).sum() for x in leaves)
  assert total == pytest.approx(137.809, rel=1e-5)
  move = lambda x: np.float32(
    x + 0.05 * np.sin(np.arange(x.size, dtype=np.float64)).reshape(x.shape)
  )
  y = jax.jit(model.apply)({"params": jax.tree.map(move, params)}, CODES)
  assert y.shape == (2, 16, 8)
  assert np.abs(y).mean() == pytest.approx(0.866508, rel=2e-5)
  np.testing.assert_allclose(np.ravel(y)[:2], [0.012344, -0.0093399], rtol=2e-4)


@pytest.mark.parametrize(
  "kw", [{}, dict(pixel_shuffle_patch_size=(1, 2)), dict(dtype_mm="bfloat16")]
)
def test_inverse(kw):
  """As exact as float32, also where what is added is not."""
  x = np.random.default_rng(1).normal(size=(2, 8, 8)).astype(np.float32)
  x = x if "pixel_shuffle_patch_size" in kw else np.concatenate([x, x], 1)
  model, variables = made(x, **kw)
  run = lambda x, **kw: jax.jit(
    functools.partial(model.apply, train=False, **kw)
  )(variables, x)
  y = run(x)
  assert y.dtype == np.float32 and not np.allclose(x, y)
  np.testing.assert_allclose(run(y, method="inverse"), x, atol=1e-5)
  np.testing.assert_array_equal(run(x, method="forward"), y)


def test_it_keeps_volumes():
  """Densities of codes stay densities without a correction."""
  x = CODES[:1, :4, :4]
  model, variables = made(x, num_channels=4)
  fn = lambda x: model.apply(variables, x.reshape(1, 4, 4), train=False).ravel()
  jacobian = jax.jit(jax.jacfwd(fn))(jnp.asarray(x.ravel()))
  assert abs(np.linalg.det(jacobian)) == pytest.approx(1, rel=1e-4)
  assert not np.allclose(abs(jacobian), np.round(abs(jacobian)))


def test_one_block_by_hand():
  """The first adds a function of the second half, which comes first then."""
  x = np.random.default_rng(1).normal(size=(1, 1, 1, 4)).astype(np.float32)
  block = adaptor.IRevNetBlock(first=True, num_channels=2, num_grps_norm=1)
  pair = x[..., :2], x[..., 2:]
  r = np.random.default_rng(2)
  kernels = [r.normal(size=(2, 2)).astype(np.float32) for _ in range(3)]
  params = {}
  for i, k in enumerate(kernels):  # Of one pixel only their centers matter.
    kernel = np.zeros([3, 3, 2, 2], np.float32)
    kernel[1, 1] = k
    params[f"Conv_{i}"] = {"kernel": kernel}
  for name in ("gn_1", "gn_2"):
    params[name] = {"scale": np.ones(2), "bias": np.zeros(2)}
  y = block.apply({"params": params}, pair, train=False)

  def norm(v):
    return np.maximum((v - v.mean()) / np.sqrt(v.var() + 1e-6), 0)

  x1, x2 = x.reshape(2, 2)
  want = norm(norm(x2 @ kernels[0]) @ kernels[1]) @ kernels[2] + x1
  np.testing.assert_array_equal(y[0], pair[1])
  np.testing.assert_allclose(y[1].ravel(), want, rtol=1e-3, atol=1e-4)


def test_dropout():
  model, variables = made(dropout_rate=0.5)
  apply, keys = jax.jit(model.apply), jax.random.split(jax.random.key(0))
  one, other = (apply(variables, CODES, rngs={"dropout": k}) for k in keys)
  assert not np.allclose(one, other)


def test_load(tmp_path):
  _, variables = made()
  path = str(tmp_path / "adaptor.npz")
  checkpoints.save_checkpoint(variables, path)
  for init in (None, variables["params"]):
    loaded = adaptor.load(init, path)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables["params"])


@pytest.mark.parametrize(
  ("kw", "x", "match"),
  [
    (dict(num_channels=5), CODES, "num_channels=5"),
    (dict(num_channels_bottleneck=6), CODES, "num_channels_bottleneck=6"),
    (dict(dtype_mm="int8"), CODES, "dtype_mm"),
    (dict(), CODES[:, :15], "not a square"),
  ],
)
def test_bad_settings(kw, x, match):
  with pytest.raises(lookup.ConfigError, match=match):
    made(x, **kw)
