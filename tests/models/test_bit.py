"""Tests for BiT-ResNet, against a forward pass in NumPy and golden numbers."""

import convnets
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from convnets import apply, images, init, named, perturbed, save

from big_vision.models import bit

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = dict(width=0.5, depth=(1, 1))


@pytest.fixture(scope="module")
def params():
  model = bit.Model(10, **SMALL)
  return perturbed(init(model, 2, 32, 32, 3)["params"])


def test_initial_values():
  variables = init(bit.Model(10, **SMALL), 2, 32, 32, 3)
  convnets.assert_golden_init("bit/init", variables)
  assert not variables["params"]["block1"]["unit1"]["gn3"]["scale"].any()


def test_known_numbers():
  first = (-0.12194, -0.49738, -0.41553)
  model = bit.Model(10, depth=(1, 2), width=1)
  convnets.assert_known_numbers(model, 34609.1, 0.294148, first)


def reference_forward(p, image):
  """The network in float64 NumPy."""

  def conv(p, x, stride=1):
    w = p["kernel"] - p["kernel"].mean((0, 1, 2))
    return convnets.conv(x, w / (w.std((0, 1, 2)) + 1e-5), stride)

  norm = lambda p, x: convnets.group_norm(p, x, 1e-6)
  relu = convnets.relu

  def unit(p, x, stride):
    y = relu(norm(p["gn1"], conv(p["conv1"], x)))
    y = relu(norm(p["gn2"], conv(p["conv2"], y, stride)))
    y = norm(p["gn3"], conv(p["conv3"], y))
    if "conv_proj" in p:
      x = norm(p["gn_proj"], conv(p["conv_proj"], x, stride))
    return relu(x + y)

  x = relu(norm(p["gn_root"], conv(p["conv_root"], image, 2)))
  x = convnets.max_pool(x)
  for i in (1, 2, 3):
    for j in range(1, 1 + len(p.get(f"block{i}", {}))):
      stride = 2 if (i > 1 and j == 1) else 1
      x = unit(p[f"block{i}"][f"unit{j}"], x, stride)
  x = x.mean((1, 2))
  return x @ p["head"]["kernel"] + p["head"]["bias"]


def test_reference_forward():
  """Odd sizes: SAME padding, also with stride."""
  model = bit.Model(10, width=0.5, depth=(2, 1))
  params = perturbed(init(model, 2, 33, 40, 3)["params"])
  image = images(2, 33, 40, 3)
  out, _ = apply(model, params, image)
  double = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  expected = reference_forward(double, image.astype(np.float64))
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_parameters_and_outputs():
  model = bit.Model(10, depth=[1, 1])
  shapes = convnets.shapes(model, 2, 64, 64, 3)
  assert convnets.count(shapes) == 469_066
  shapes = {k: v.shape for k, v in named(shapes).items()}
  for name, shape in {
    "conv_root/kernel": (7, 7, 3, 64),
    "gn_root/scale": (64,),
    "block1/unit1/conv2/kernel": (3, 3, 64, 64),
    "block1/unit1/conv_proj/kernel": (1, 1, 64, 256),
    "block1/unit1/gn_proj/bias": (256,),
    "block2/unit1/conv1/kernel": (1, 1, 256, 128),
    "block2/unit1/gn3/scale": (512,),
    "head/kernel": (512, 10),
  }.items():
    assert shapes[name] == shape
  (x, out), _ = jax.eval_shape(
    model.init_with_output, jax.random.key(0), images(2, 64, 64, 3)
  )
  assert {k: v.shape for k, v in out.items()} == {
    "stem": (2, 16, 16, 64),
    "stage1": (2, 16, 16, 256),
    "stage2": (2, 8, 8, 512),
    "pre_logits_2d": (2, 8, 8, 512),
    "pre_logits": (2, 512),
    "logits_2d": (2, 8, 8, 10),
    "logits": (2, 10),
  }
  (x, out), _ = jax.eval_shape(
    bit.Model(**SMALL).init_with_output, jax.random.key(0), images(1, 32, 32, 3)
  )
  assert x.shape == (1, 256) and "logits" not in out


@pytest.mark.parametrize(
  "depth, n",
  [(26, 15_995_176), (50, 25_557_032), (152, 60_192_808)],
)
def test_number_of_parameters(depth, n):
  model = bit.Model(1000, depth=depth)
  assert convnets.count(convnets.shapes(model, 1, 64, 64, 3)) == n


def test_outputs_do_not_see_scale_and_offset_of_kernels(params):
  image = images(2, 32, 32, 3)

  def change(name, x):
    is_conv = "conv" in name and "head" not in name
    return 3.0 * x - 0.7 if is_conv else x

  changed = jax.tree.unflatten(
    jax.tree.structure(params), [change(k, v) for k, v in named(params).items()]
  )
  model = bit.Model(10, **SMALL)
  x, y = (apply(model, p, image)[0] for p in (params, changed))
  np.testing.assert_allclose(x, y, rtol=1e-2, atol=1e-4)


def test_weight_standardize():
  w = np.random.default_rng(0).normal(3.0, 2.0, (3, 3, 4, 5))
  out = bit.weight_standardize(jnp.asarray(w, jnp.float32), [0, 1, 2], 0.5)
  expected = (w - w.mean((0, 1, 2))) / (w.std((0, 1, 2)) + 0.5)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16(params):
  model = bit.Model(10, **SMALL, dtype_mm="bfloat16")
  image = images(2, 32, 32, 3)
  x, out = apply(model, params, image)
  low = {k for k, v in out.items() if v.dtype == jnp.bfloat16}
  assert low == {"stem", "stage1", "stage2", "pre_logits_2d"}
  fresh = named(convnets.shapes(model, 1, 32, 32, 3))
  assert all(v.dtype == jnp.float32 for v in fresh.values())
  full, _ = apply(bit.Model(10, **SMALL), params, image)
  assert x.dtype == jnp.float32
  assert 0 < np.abs(x - full).max() < 0.05 * np.abs(full).max()


def test_options(params):
  model = bit.Model(10, **SMALL)
  program = lambda train: jax.make_jaxpr(
    lambda p, x: model.apply({"params": p}, x, train=train)[0]
  )(params, images(2, 32, 32, 3))
  assert str(program(True)) == str(program(False))
  model = bit.Model(10, width=0.5, depth=(1,), head_zeroinit=False)
  assert init(model, 1, 32, 32, 3)["params"]["head"]["kernel"].any()


def test_get_block_desc():
  assert list(bit.get_block_desc(200)) == [3, 24, 36, 3]
  assert bit.get_block_desc([1, 2]) == (1, 2)
  assert bit.get_block_desc((3,)) == (3,)
  assert bit.get_block_desc(34) == 34
  for depth in (34, "50"):
    with pytest.raises(ValueError, match="config.model.depth.*50"):
      convnets.shapes(bit.Model(10, depth=depth), 1, 32, 32, 3)


def test_load(tmp_path, params):
  path = save(tmp_path / "x.npz", params)
  cfg = ml_collections.ConfigDict(dict(depth=[1, 1]))
  out = bit.load(None, path, cfg)
  jax.tree.map(np.testing.assert_array_equal, out, params)
  fresh = convnets.shapes(bit.Model(7, **SMALL), 1, 32, 32, 3)
  out = bit.load(fresh, path, cfg, dont_load=["head/.*"])
  assert out["head"]["kernel"] is fresh["head"]["kernel"]
  np.testing.assert_array_equal(
    out["block2"]["unit1"]["gn2"]["bias"],
    params["block2"]["unit1"]["gn2"]["bias"],
  )
  other = convnets.shapes(bit.Model(10, width=0.5, depth=(1,)), 1, 32, 32, 3)
  with pytest.raises(ValueError, match=r" \+ block2/unit1/conv1/kernel"):
    bit.load(other, path, None)


def test_load_of_old_layout(tmp_path, params):
  """Normalizations had four dimensions, modules other numbers."""

  def old(name, x):
    return x.reshape(1, 1, 1, -1) if "/gn" in "/" + name else x

  tree = {k: old(k, v) for k, v in named(params).items()}
  path = str(tmp_path / "x.npz")
  np.savez(path, **{f"opt/target/{k}": v for k, v in tree.items()})
  out = bit.load(params, path, {})
  jax.tree.map(np.testing.assert_array_equal, out, params)
  assert out["gn_root"]["scale"].shape == (32,)
  one = {"gn1": {"scale": np.ones((1, 1, 1, 1))}, "Foo_3": {"w": np.ones(2)}}
  out = bit.fix_old_checkpoints(one)
  assert out["gn1"]["scale"].shape == (1,) and "Foo_0" in out
