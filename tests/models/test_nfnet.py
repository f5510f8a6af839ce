"""Tests for NFNet, against the formulas of the papers in NumPy."""

import math

import convnets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convnets import images, named, perturbed, save

from big_vision import trees
from big_vision.models import nfnet

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def initial():
  model = nfnet.Model(10, "mu")
  return convnets.init(model, 2, 32, 32, 3)["params"]


@pytest.fixture(scope="module")
def params(initial):
  """Residual branches count, and everything else is not neutral, either."""
  return perturbed(replace(initial, ".*/skip_gain", 0.9))


def replace(params, regex, value):
  """Fills matching parameters with a value."""
  (mask,) = trees.make_mask_trees(params, regex)
  return jax.tree.map(
    lambda x, m: jnp.full_like(x, value) if m else x, params, mask
  )


def standardized(p):
  """Scaled weight standardization, Brock et al. 2021b, equation 1."""
  w = p["kernel"]
  fan_in = math.prod(w.shape[:3])
  w = (w - w.mean((0, 1, 2))) / (w.std((0, 1, 2)) * np.sqrt(fan_in))
  return w * p["gain"]


def scaled_gelu(x):
  return 1.7015043497085571 * convnets.gelu(x)


def block(p, x, *, beta, alpha, stride, groups):
  """One residual block in float64 NumPy; the stages differ in arguments."""

  def conv(p, x, stride=1, groups=1):
    y = convnets.conv(x, standardized(p), stride, groups=groups)
    return y + p["bias"]

  def squeeze_excite(p, x):
    x = x.mean((1, 2), keepdims=True)
    x = convnets.relu(x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
    x = x @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]
    return 2 / (1 + np.exp(-x))

  y = scaled_gelu(x / beta)
  shortcut = x
  if "conv_proj" in p:
    shortcut = y
    if stride == 2:  # Means of 2x2, of fewer at an odd border.
      values = convnets.windows(y, 2, 2, None, np.nan)
      shortcut = np.nanmean(values, axis=(-2, -1))
    shortcut = conv(p["conv_proj"], shortcut)
  y = conv(p["conv1"], y)
  y = conv(p["conv2"], scaled_gelu(y), stride, groups)
  y = conv(p["conv3"], scaled_gelu(y), 1, groups)
  y = conv(p["conv4"], scaled_gelu(y))
  y = squeeze_excite(p["se"], y) * y
  return shortcut + alpha * p["skip_gain"] * y


@pytest.mark.parametrize("stride, width", [(1, 16), (1, 24), (2, 16)])
def test_block(stride, width):
  module = nfnet.Block(width, beta=1.3, alpha=0.4, stride=stride, group_size=4)
  x = np.random.default_rng(0).standard_normal((2, 7, 6, 16))
  x = x.astype(np.float32)
  p = perturbed(jax.jit(module.init)(jax.random.key(0), x)["params"])
  p["skip_gain"] = np.float32(0.7)
  assert p["conv2"]["kernel"].shape == (3, 3, 4, width // 2)
  assert p["se"]["Dense_0"]["kernel"].shape == (width, width // 2)
  out = jax.jit(module.apply)({"params": p}, x)
  double = jax.tree.map(lambda x: np.asarray(x, np.float64), p)
  expected = block(
    double, x.astype(np.float64), beta=1.3, alpha=0.4, stride=stride,
    groups=width // 8,
  )  # fmt: skip
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_model_is_made_of_blocks(params):
  """Order, betas, strides, stem and head of the whole."""
  image = images(2, 32, 32, 3)
  out, between = convnets.apply(nfnet.Model(10, "mu"), params, image)
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x = image.astype(np.float64)

  conv = lambda p, x, stride=1: (
    convnets.conv(x, standardized(p), stride) + p["bias"]
  )
  for i, stride in enumerate((2, 1, 1, 2)):
    x = conv(p["stem"][f"conv{i + 1}"], scaled_gelu(x) if i else x, stride)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
  close(between["stem"], x)
  for i, groups in enumerate((1, 2, 3, 3)):
    # The first block has var 1; each later stage starts with 1 + 0.2^2.
    x = block(
      p[f"stage{i + 1}"]["block1"], x, beta=np.sqrt(1.04) if i else 1.0,
      alpha=0.2, stride=2 if i else 1, groups=groups,
    )  # fmt: skip
    close(between[f"stage{i + 1}"], x)
  x = scaled_gelu(conv(p["final_conv"], x)).mean((1, 2))
  close(between["pre_logits"], x)
  close(out, x @ p["head"]["kernel"] + p["head"]["bias"])


def test_number_of_parameters():
  """The numbers of the paper, in millions."""
  f0, f1 = (
    convnets.count(convnets.shapes(nfnet.Model(1000, v), 1, 32, 32, 3)) / 1e6
    for v in ("F0", "F1")
  )
  paper = [71.5, 132.6, 193.8, 254.9, 316.1, 377.2, 438.4]
  for i, n in enumerate(paper):
    depth = nfnet.Model(1000, f"F{i}").depth
    assert depth == ((i + 1), 2 * (i + 1), 6 * (i + 1), 3 * (i + 1))
    # Each step adds the same blocks.
    assert round(f0 + i * (f1 - f0), 1) == n


def test_dropout_and_resolutions():
  rates = [nfnet.Model(10, f"F{i}").dropout for i in range(7)]
  assert rates == [0.2, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5]
  assert nfnet.RESOLUTIONS["F1"] == (224, 320)
  for train, test in nfnet.RESOLUTIONS.values():
    assert train % 32 == test % 32 == 0 and train < test


def test_scaled_gelu_keeps_the_variance():
  z = np.linspace(-12, 12, 10_001)
  density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
  y = scaled_gelu(z)
  mean, square = (np.trapezoid(f * density, z) for f in (y, y**2))
  np.testing.assert_allclose(square - mean**2, 1, rtol=1e-3)
  np.testing.assert_allclose(nfnet.scaled_gelu(z), y, rtol=1e-4, atol=1e-5)


def test_constant_kernels_are_finite():
  conv = nfnet.ScaledStdConv(4, (1, 1))
  x = np.ones((1, 2, 2, 3), np.float32)
  params = convnets.init(conv, *x.shape)["params"]
  params["kernel"] = jnp.ones_like(params["kernel"])
  loss = lambda p: conv.apply({"params": p}, x).sum()
  value, grad = jax.jit(jax.value_and_grad(loss))(params)
  assert value == 0 and np.isfinite(grad["kernel"]).all()


def test_expected_stds():
  stds = nfnet.expected_stds((3, 2), 0.5)
  np.testing.assert_allclose(np.square(stds[0]), [1, 1.25, 1.5])
  np.testing.assert_allclose(np.square(stds[1]), [1.75, 1.25])


def test_variances_are_the_expected_ones():
  """White noise in, no stride: what the betas promise is true."""
  betas = nfnet.expected_stds((3,), 0.5)[0]
  stage = nfnet.Stage(
    betas, (0.0,) * 3, stride=1, block=dict(width=96, alpha=0.5, group_size=48)
  )
  x = np.random.default_rng(0).standard_normal((8, 20, 20, 64))
  params = jax.jit(stage.init)(jax.random.key(0), x)["params"]
  params = replace(params, ".*/skip_gain", 1.0)
  run = jax.jit(
    lambda p: stage.apply({"params": p}, x, capture_intermediates=True)
  )
  _, state = run(params)
  for n in (1, 2, 3):
    (out,) = state["intermediates"][f"block{n}"]["__call__"]
    inside = out[:, 6:-6, 6:-6]  # Not where zeros were padded.
    variance = jnp.var(inside, axis=(0, 1, 2)).mean()
    np.testing.assert_allclose(variance, 1 + n * 0.25, rtol=0.05)


def test_blocks_start_as_their_shortcuts(initial):
  gains = [x for k, x in named(initial).items() if k.endswith("skip_gain")]
  assert len(gains) == 4 and all(x == 0 and x.shape == () for x in gains)


def test_outputs(initial):
  model = nfnet.Model(10, "mu")
  (x, out), _ = jax.eval_shape(
    model.init_with_output, jax.random.key(0), images(2, 64, 64, 3)
  )
  assert {k: v.shape for k, v in out.items()} == {
    "stem": (2, 16, 16, 16),
    "stage1": (2, 16, 16, 32),
    "stage2": (2, 8, 8, 64),
    "stage3": (2, 4, 4, 96),
    "stage4": (2, 2, 2, 96),
    "pre_logits_2d": (2, 2, 2, 192),
    "pre_logits": (2, 192),
    "logits_2d": (2, 2, 2, 10),
    "logits": (2, 10),
  }
  assert not initial["head"]["kernel"].any()
  (x, out), _ = jax.eval_shape(
    nfnet.Model(variant="mu").init_with_output,
    jax.random.key(0),
    images(2, 64, 64, 3),
  )
  assert x.shape == (2, 192) and "logits" not in out


def test_stochastic_depth():
  module = nfnet.Block(8, beta=1.0, alpha=0.5, group_size=4, drop_p=0.3)
  x = np.random.default_rng(0).standard_normal((200, 2, 2, 8))
  params = jax.jit(module.init)(jax.random.key(0), x)["params"]
  params["skip_gain"] = jnp.ones(())
  rngs = {"dropout": jax.random.key(1)}
  run = jax.jit(
    lambda p: [
      module.apply({"params": p}, x, train=train, rngs=rngs)
      for train in (False, True)
    ]
  )
  full, out = run(params)
  dropped = np.array([np.allclose(a, b) for a, b in zip(out, x, strict=True)])
  assert abs(dropped.mean() - 0.3) < 0.1
  # What stays is as in evaluation.
  np.testing.assert_allclose(out[~dropped], full[~dropped], atol=1e-5)
  # SkipInit: the block starts as its shortcut.
  start, _ = run({**params, "skip_gain": jnp.zeros(())})
  np.testing.assert_allclose(start, x, rtol=1e-6)


def test_stochastic_depth_grows():
  model = nfnet.Model(10, "mu", depth=(1, 2, 1, 1), stoch_depth=0.5)
  seen = []

  def spy(next_fun, args, kwargs, context):
    if isinstance(context.module, nfnet.Block):
      seen.append(context.module.drop_p)
    return next_fun(*args, **kwargs)

  with nfnet.nn.intercept_methods(spy):
    convnets.shapes(model, 1, 32, 32, 3)
  np.testing.assert_allclose(seen, [0, 0.1, 0.2, 0.3, 0.4])


def test_training_is_random_only_with_dropout(params):
  image = images(2, 32, 32, 3)
  model = nfnet.Model(10, "mu", dropout=0.5)
  run = lambda seed, train: convnets.apply(
    model, params, image, train=train, rngs={"dropout": jax.random.key(seed)}
  )[0]
  assert not np.allclose(run(0, True), run(1, True))
  np.testing.assert_array_equal(run(0, True), run(0, True))
  np.testing.assert_array_equal(run(0, False), run(1, False))


def test_bfloat16(params):
  image = images(2, 32, 32, 3)
  full, _ = convnets.apply(nfnet.Model(10, "mu"), params, image)
  model = nfnet.Model(10, "mu", dtype_mm="bfloat16")
  x, out = convnets.apply(model, params, image)
  high = {k for k, v in out.items() if v.dtype == jnp.float32}
  assert high == {"pre_logits", "logits_2d", "logits"}
  fresh = named(convnets.shapes(model, 1, 32, 32, 3))
  assert all(v.dtype == jnp.float32 for v in fresh.values())
  assert 0 < np.abs(x - full).max() < 0.05 * np.abs(full).max()


def test_load(tmp_path, params):
  path = save(tmp_path / "x.npz", params)
  out = nfnet.load(None, path, None)
  jax.tree.map(np.testing.assert_array_equal, out, params)
  fresh = convnets.shapes(nfnet.Model(7, "mu"), 1, 32, 32, 3)
  out = nfnet.load(fresh, path, {}, dont_load=["head/.*"])
  assert out["head"]["kernel"] is fresh["head"]["kernel"]
  with pytest.raises(ValueError, match=" - head/kernel"):
    nfnet.load(fresh, save(tmp_path / "y.npz", {"a": np.ones(1)}), {})


@pytest.mark.parametrize(
  "kw, error, message",
  [
    (dict(variant="F9"), ValueError, "config.model.variant.*F0"),
    (dict(variant="mu", depth=(1, 2)), ValueError, "config.model.depth"),
    (dict(variant="mu", stoch_dept=0.1), TypeError, "stoch_dept"),
  ],
)
def test_errors(kw, error, message):
  with pytest.raises(error, match=message):
    convnets.shapes(nfnet.Model(10, **kw), 1, 32, 32, 3)
