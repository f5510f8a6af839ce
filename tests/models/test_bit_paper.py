"""Tests for BiT, against a forward pass in NumPy and golden numbers."""

import convnets
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from convnets import apply, images, init, named, perturbed, save

from big_vision import checkpoints
from big_vision.models import bit_paper

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = dict(width=0.5, depth=(1, 1))


@pytest.fixture(scope="module")
def params():
  model = bit_paper.Model(10, **SMALL)
  return perturbed(init(model, 2, 32, 32, 3)["params"])


@pytest.mark.parametrize(
  "case, kw",
  [
    ("init", SMALL),
    (
      "init_head_zeroinit_false",
      dict(width=0.5, depth=(1,), head_zeroinit=False),
    ),
  ],
)
def test_initial_values(case, kw):
  variables = init(bit_paper.Model(10, **kw), 2, 32, 32, 3)
  convnets.assert_golden_init(f"bit_paper/{case}", variables)


def test_known_numbers():
  first = (-0.012286, 0.0033804, 0.015939)
  model = bit_paper.Model(10, depth=(1, 2), width=1)
  convnets.assert_known_numbers(model, 35106.3, 0.0250303, first)


def reference_forward(p, image):
  """The network in float64 NumPy."""

  def conv(p, x, stride=1, pad=(0, 0)):
    w = p["kernel"] - p["kernel"].mean((0, 1, 2))
    w = w / np.sqrt((w**2).mean((0, 1, 2)) + 1e-10)
    return convnets.conv(x, w, stride, pad)

  act = lambda p, x: convnets.relu(convnets.group_norm(p, x, 1e-5))

  def unit(p, x, stride):
    y = act(p["gn1"], x)
    if "conv_proj" in p:
      x = conv(p["conv_proj"], y, stride)
    y = act(p["gn2"], conv(p["conv1"], y))
    y = act(p["gn3"], conv(p["conv2"], y, stride, (1, 1)))
    return conv(p["conv3"], y) + x

  x = conv(p["root_block"]["conv_root"], image, 2, (3, 3))
  x = convnets.max_pool(x, (1, 1))
  for i in (1, 2, 3):
    for j in range(1, 1 + len(p.get(f"block{i}", {}))):
      stride = 2 if (i > 1 and j == 1) else 1
      x = unit(p[f"block{i}"][f"unit{j:02d}"], x, stride)
  x = act(p["norm-pre-head"], x).mean((1, 2))
  return x @ p["head"]["kernel"] + p["head"]["bias"]


def test_reference_forward():
  """Odd sizes: padding on both sides, also with stride."""
  model = bit_paper.Model(10, width=0.5, depth=(2, 1))
  params = perturbed(init(model, 2, 33, 40, 3)["params"])
  image = images(2, 33, 40, 3)
  out, _ = apply(model, params, image)
  double = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  expected = reference_forward(double, image.astype(np.float64))
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_parameters_and_outputs():
  model = bit_paper.Model(10, depth=[1, 2])
  shapes = convnets.shapes(model, 2, 64, 64, 3)
  assert convnets.count(shapes) == 747_594
  shapes = {k: v.shape for k, v in named(shapes).items()}
  for name, shape in {
    "root_block/conv_root/kernel": (7, 7, 3, 64),
    "block1/unit01/gn3/scale": (1, 1, 1, 64),
    "block2/unit01/conv_proj/kernel": (1, 1, 256, 512),
    "block2/unit02/gn1/bias": (1, 1, 1, 512),
    "norm-pre-head/scale": (1, 1, 1, 512),
  }.items():
    assert shapes[name] == shape
  assert "block2/unit02/conv_proj/kernel" not in shapes
  (_, out), _ = jax.eval_shape(
    model.init_with_output, jax.random.key(0), images(2, 64, 64, 3)
  )
  assert {k: v.shape for k, v in named(out).items()} == {
    "stem": (2, 16, 16, 64),
    "stage1/unit01": (2, 16, 16, 256),
    "stage2/unit01": (2, 8, 8, 512),
    "stage2/unit02": (2, 8, 8, 512),
    "norm_pre_head": (2, 8, 8, 512),
    "pre_logits_2d": (2, 8, 8, 512),
    "pre_logits": (2, 512),
    "logits_2d": (2, 8, 8, 10),
    "logits": (2, 10),
  }


@pytest.mark.parametrize("depth, n", [(50, 25_549_352), (101, 44_541_480)])
def test_number_of_parameters(depth, n):
  model = bit_paper.Model(1000, depth=depth)
  assert convnets.count(convnets.shapes(model, 1, 64, 64, 3)) == n


def test_group_norm():
  rng = np.random.default_rng(0)
  x = rng.normal(5.0, 1e-2, (2, 3, 4, 12)).astype(np.float32)
  scale, bias = rng.standard_normal((2, 1, 1, 1, 12)).astype(np.float32)
  params = dict(scale=scale, bias=bias)
  norm = bit_paper.GroupNorm(ngroups=4)
  out = norm.apply({"params": params}, x)
  expected = convnets.group_norm(params, x.astype(np.float64), 1e-5, groups=4)
  np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
  out = norm.apply({"params": params}, jnp.asarray(x, jnp.bfloat16))
  assert out.dtype == jnp.float32  # Parameters are.
  with pytest.raises(ValueError, match="config.model.width"):
    bit_paper.GroupNorm(5).init(jax.random.key(0), x)


def test_standardize():
  x = np.random.default_rng(0).normal(3.0, 2.0, (2, 3, 4))
  out = bit_paper.standardize(jnp.asarray(x, jnp.float32), [0, 2], 0.5)
  mean, var = (f((0, 2), keepdims=True) for f in (x.mean, x.var))
  np.testing.assert_allclose(out, (x - mean) / np.sqrt(var + 0.5), atol=1e-5)


def test_bfloat16(params):
  model = bit_paper.Model(10, **SMALL, dtype_mm="bfloat16")
  image = images(2, 32, 32, 3)
  x, out = apply(model, params, image)
  high = {k for k, v in named(out).items() if v.dtype == jnp.float32}
  assert high == {"pre_logits", "logits_2d", "logits"}
  fresh = named(convnets.shapes(model, 1, 32, 32, 3))
  assert all(v.dtype == jnp.float32 for v in fresh.values())
  full, _ = apply(bit_paper.Model(10, **SMALL), params, image)
  assert 0 < np.abs(x - full).max() < 0.05 * np.abs(full).max()


def published(params):
  """The names in the published files."""
  out = {}
  for name, x in named(params).items():
    *path, last = name.split("/")
    if path[0] == "root_block":
      new = "root_block/standardized_conv2d/kernel"
    elif path[0] == "norm-pre-head":
      new = "group_norm/" + dict(scale="gamma", bias="beta")[last]
      x = x.reshape(-1)
    elif path[0] == "head":
      new = f"head/conv2d/{last}"
      x = x[None, None] if last == "kernel" else x
    elif path[-1].startswith("gn"):
      part = dict(gn1="a", gn2="b", gn3="c")[path[-1]]
      affine = dict(scale="gamma", bias="beta")[last]
      new = f"{'/'.join(path[:-1])}/{part}/group_norm/{affine}"
      x = x.reshape(-1)
    else:
      part = dict(conv_proj="a/proj", conv1="a", conv2="b", conv3="c")
      unit = "/".join(path[:-1])
      number = f"_{len(out)}" if path[-1] != "conv1" else ""
      new = f"{unit}/{part[path[-1]]}/standardized_conv2d{number}/kernel"
    out[f"resnet/{new}"] = x
  return out


def test_load_published_format(tmp_path, params):
  path = str(tmp_path / "x.npz")
  np.savez(path, **published(params))
  for init_params in (params, None):
    out = bit_paper.load(init_params, path, {})
    jax.tree.map(np.testing.assert_array_equal, out, params)
  # What nobody knows is left out.
  np.savez(path, **published(params), **{"resnet/global_step": np.ones(())})
  assert named(bit_paper.load(None, path, {})).keys() == named(params).keys()


def test_load(tmp_path, params):
  path = save(tmp_path / "x.npz", params)
  cfg = ml_collections.ConfigDict(dict(SMALL, depth=[1, 1]))
  out = bit_paper.load(None, path, cfg)
  jax.tree.map(np.testing.assert_array_equal, out, params)
  fresh = convnets.shapes(bit_paper.Model(7, **SMALL), 1, 32, 32, 3)
  out = bit_paper.load(fresh, path, cfg, dont_load=["head/.*"])
  assert out["head"]["kernel"] is fresh["head"]["kernel"]
  with pytest.raises(ValueError, match=r" - head/bias"):
    bit_paper.load(
      fresh, save(tmp_path / "y.npz", {"block1": params["block1"]}), cfg
    )


@pytest.fixture
def asked(monkeypatch):
  """What is read, instead of reading it."""
  files = []
  monkeypatch.setattr(
    checkpoints, "load_params", lambda f: files.append(f) or {"x": 1}
  )
  return files


@pytest.mark.parametrize(
  "name, cfg, expected",
  [
    ("M", dict(depth=50, width=1), "gs://bit_models/BiT-M-R50x1.npz"),
    ("S-imagenet2012", dict(depth=152, width=4.0),
     "gs://bit_models/BiT-S-R152x4-ILSVRC2012.npz"),
    ("L-ILSVRC2012", {}, "gs://bit_models/BiT-L-R50x1-ILSVRC2012.npz"),
    ("M-run0-caltech101", dict(depth=101, width=3),
     "gs://bit_models/BiT-M-R101x3-run0-caltech101.npz"),
    ("FunMatch-224px-i1k82.8", {}, "gs://bit_models/distill/R50x1_224.npz"),
    ("FunMatch-160px-i1k80.5", None, "gs://bit_models/distill/R50x1_160.npz"),
    # Paths, whatever they start with.
    ("Models/x.npz", {}, "Models/x.npz"),
    ("S/x.npz", dict(depth=50), "S/x.npz"),
    ("L.npz", {}, "L.npz"),
    ("/a/M-y.npz:img", {}, "/a/M-y.npz:img"),
  ],
)  # fmt: skip
def test_names(asked, name, cfg, expected):
  if cfg is not None:
    cfg = ml_collections.ConfigDict(cfg)
  assert bit_paper.load(None, name, cfg) == {"x": 1}
  assert asked == [expected]


@pytest.mark.parametrize("cfg", [dict(depth=26), dict(depth=[3, 4, 6, 3]),
                                 dict(width=2)])  # fmt: skip
def test_sizes_that_were_not_published(asked, cfg):
  with pytest.raises(ValueError, match="R50x1"):
    bit_paper.load(None, "M", cfg)
  assert not asked
