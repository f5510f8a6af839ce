"""Tests for positions, against NumPy, SciPy and `jax.image.resize`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from big_vision.models import positions

pytestmark = pytest.mark.usefixtures("quick_compilation")


def rand(*shape):
  x = np.random.default_rng(0).standard_normal(shape)
  return x.astype(np.float32)


def test_posemb_sincos_2d():
  sincos = jax.jit(positions.posemb_sincos_2d, static_argnums=(0, 1, 2, 3))
  pos = sincos(1, 2, 8)
  expected = [0.841471, 1e-4, 0.540302, 1, 0, 0, 1, 1]
  np.testing.assert_allclose(pos[0, 1], expected, rtol=1e-5)
  h, w, d, t = 3, 5, 12, 100.0
  pos = np.asarray(sincos(h, w, d, t))
  assert pos.shape == (1, h * w, d)
  for y in range(h):
    for x in range(w):
      omega = t ** (-np.arange(3) / 2)
      expected = [np.sin(x * omega), np.cos(x * omega),
                  np.sin(y * omega), np.cos(y * omega)]  # fmt: skip
      np.testing.assert_allclose(
        pos[0, y * w + x], np.concatenate(expected), atol=1e-6
      )
  low = jax.eval_shape(
    lambda: positions.posemb_sincos_2d(2, 2, 8, dtype=jnp.bfloat16)
  )
  assert low.dtype == jnp.bfloat16
  assert np.isfinite(sincos(2, 2, 4)).all()
  with pytest.raises(AssertionError, match="width"):
    positions.posemb_sincos_2d(2, 2, 6)


def test_get_posemb():
  class Module(nn.Module):
    typ: str

    @nn.compact
    def __call__(self):
      return positions.get_posemb(self, self.typ, 6, 64, "pos", jnp.bfloat16)

  variables = Module("learn").init(jax.random.key(0))
  pos = variables["params"]["pos"]
  assert pos.shape == (1, 6, 64) and pos.dtype == jnp.bfloat16
  assert abs(float(pos.astype(jnp.float32).std()) - 1 / 8) < 0.02
  with pytest.raises(ValueError, match=r"config\.model\.posemb"):
    Module("none").init(jax.random.key(0))


@pytest.mark.parametrize("size", [(6, 9), (3, 2), (1, 5), (4, 5)])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_corners_keep_their_values(batch, size):
  grid = rand(*batch, 4, 5, 3)
  got = positions.resample(grid, size, method="corners")
  zoom = (1,) * len(batch) + (size[0] / 4, size[1] / 5, 1)
  want = scipy.ndimage.zoom(grid, zoom, order=1)
  assert isinstance(got, np.ndarray) and got.dtype == np.float32
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def half_pixel_weights(old, new):
  """[new, old] triangles around the centers of the new pixels."""
  scale = old / new
  center = (np.arange(new) + 0.5) * scale - 0.5
  distance = np.abs(center[:, None] - np.arange(old)[None])
  weights = np.maximum(1 - distance / max(scale, 1), 0)
  return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [(3, 5), (1, 9), (12, 2)])
def test_linear(size, dtype):
  """All at once, and each embedding for itself."""
  grid = rand(4, 6, 8).astype(dtype)
  rows, columns = (
    half_pixel_weights(o, n) for o, n in zip((4, 6), size, strict=True)
  )
  want = np.einsum("ya,xb,abd->yxd", rows, columns, grid.astype(np.float64))
  all_at_once = jax.jit(lambda x: positions.resample(x[None], size)[0])
  y, x = np.mgrid[: size[0], : size[1]].reshape(2, 1, -1)
  sizes = tuple(np.array([n]) for n in size)
  one = jax.jit(lambda *a: positions.resample(grid, a[:2], at=a[2:]))
  each = one(*sizes, y, x)
  tol = 1e-6 if dtype == np.float32 else 2e-2
  for got in (all_at_once(grid), each.reshape(want.shape)):
    assert got.dtype == dtype and got.shape == want.shape
    np.testing.assert_allclose(np.asarray(got, np.float64), want, tol, tol)


@pytest.mark.multidevice
def test_each_for_itself_needs_no_communication():
  mesh = jax.make_mesh((8,), ("data",))
  sharding = jax.sharding.NamedSharding(mesh, jax.P("data"))
  y, x = np.mgrid[:2, :3].reshape(2, 1, -1).repeat(8, 1)
  size = np.full(8, 3)
  args = [jax.device_put(a, sharding) for a in (size, size, y, x)]
  fn = jax.jit(lambda *a: positions.resample(rand(4, 4, 8), a[:2], at=a[2:]))
  text = fn.lower(*args).compile().as_text()
  assert "all-" not in text and "collective" not in text
  assert fn(*args).sharding.is_equivalent_to(sharding, 3)


def test_unknown_method():
  with pytest.raises(ValueError, match="'corner'.*Did you mean 'corners'"):
    positions.resample(rand(2, 2, 3), (3, 3), method="corner")
