"""What the tests of convolutional models share: layers in float64 NumPy."""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import trees

GOLDEN = pathlib.Path(__file__).parent / "golden/convnets_init.json"


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def images(*shape):
  wave = np.sin(0.01 * np.arange(math.prod(shape), dtype=np.float32))
  return wave.reshape(shape)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(model, shape):
  return model.init(jax.random.PRNGKey(0), jnp.zeros(shape))


def init(model, *shape):
  return _init(model, shape)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _apply(model, params, image, rngs, train):
  return model.apply({"params": params}, image, rngs=rngs, train=train)


def apply(model, params, image, *, rngs=None, train=False):
  """The compiled model, once for all tests; op by op takes much longer."""
  return _apply(model, params, image, rngs, train)


def perturbed(params):
  """Leaves plus a sine: nothing is at a neutral value any more."""
  wave = lambda x: np.float32(0.05 * np.sin(np.arange(x.size))).reshape(x.shape)
  return jax.tree.map(lambda x: np.asarray(x, np.float32) + wave(x), params)


def shapes(model, *shape):
  """Shapes of the parameters, without computing them."""
  image = jax.ShapeDtypeStruct(shape, jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def count(tree):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def save(path, params, prefix="params/"):
  """Writes an npz file, returns its name."""
  flat = {prefix + k: np.asarray(v) for k, v in named(params).items()}
  np.savez(path, **flat)
  return str(path)


def assert_golden_init(case, variables):
  """Checkpoints and published results depend on names and order of calls."""
  expected = json.loads(GOLDEN.read_text())[case]
  got = named(variables)
  assert got.keys() == expected.keys()
  for name, x in got.items():
    want = expected[name]
    assert list(x.shape) == want["shape"] and x.dtype == jnp.float32, name
    first = np.asarray(want["first"], np.float32)
    np.testing.assert_array_equal(x.ravel()[:4], first, err_msg=name)
    x = np.asarray(x, np.float64)
    stats = [want["mean"], want["std"]]
    np.testing.assert_allclose([x.mean(), x.std()], stats, atol=1e-7)


def assert_known_numbers(model, total, size, first):
  """Initial parameters and outputs of perturbed ones, for 32 pixels."""
  params = init(model, 2, 32, 32, 3)["params"]
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
  np.testing.assert_allclose(sum(np.abs(x).sum() for x in leaves), total, 2e-6)
  out, _ = apply(model, perturbed(params), images(2, 32, 32, 3))
  assert out.shape == (2, 10)
  # CPUs with other instruction sets differ by up to 2e-5.
  np.testing.assert_allclose(np.abs(out).mean(), size, rtol=5e-5)
  # The known numbers have rounding errors of this size, too.
  np.testing.assert_allclose(out[0, :3], first, rtol=1e-4, atol=1e-4 * size)


def relu(x):
  return np.maximum(x, 0)


def gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def same(size, window, stride):
  """Pixels before and after, so that there are ceil(size / stride) windows."""
  total = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
  return total // 2, total - total // 2


def windows(x, window, stride, pad, fill=0.0):
  """[B, H, W, C] -> [B, h, w, C, window, window]; pad None is SAME."""
  pads = [pad or same(n, window, stride) for n in x.shape[1:3]]
  x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
  x = np.lib.stride_tricks.sliding_window_view(x, (window, window), (1, 2))
  return x[:, ::stride, ::stride]


def conv(x, kernel, stride=1, pad=None, groups=1):
  """Convolution of x [B, H, W, C] with a kernel [k, k, C / groups, O]."""
  x = windows(x, kernel.shape[0], stride, pad)
  parts = zip(
    np.split(x, groups, axis=3), np.split(kernel, groups, axis=3), strict=True
  )
  y = [np.einsum("bhwcij,ijco->bhwo", a, b, optimize=True) for a, b in parts]
  return np.concatenate(y, axis=-1)


def max_pool(x, pad=None):
  return windows(x, 3, 2, pad, -np.inf).max((-1, -2))


def group_norm(p, x, eps, groups=32):
  n, h, w, c = x.shape
  x = x.reshape(n, h, w, groups, c // groups)
  mean, var = (f((1, 2, 4), keepdims=True) for f in (x.mean, x.var))
  x = ((x - mean) / np.sqrt(var + eps)).reshape(n, h, w, c)
  return x * p["scale"].reshape(-1) + p["bias"].reshape(-1)
