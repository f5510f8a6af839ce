"""Tests for ViT, against a forward pass in NumPy and golden initial values."""

import functools
import json
import math
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import scipy.ndimage

from big_vision import trees
from big_vision.models import vit, vit_checkpoints

pytestmark = pytest.mark.usefixtures("quick_compilation")
GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "vit_init.json"
SMALL = dict(width=32, depth=2, mlp_dim=64, num_heads=4, patch_size=(8, 8))


def apply(model, params, image, **kw):
  """The compiled model; op by op takes much longer."""
  return jax.jit(lambda p, x: model.apply({"params": p}, x, **kw))(
    params, image
  )


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def images(*shape):
  return np.sin(0.01 * np.arange(math.prod(shape), dtype=np.float32)).reshape(
    shape
  )


def init(model, *shape):
  return jax.jit(model.init)(jax.random.PRNGKey(0), images(*shape))


def perturbed(params):
  """Leaves plus a sine: nothing is at a neutral value any more."""
  wave = lambda x: np.float32(0.05 * np.sin(np.arange(x.size))).reshape(x.shape)
  return jax.tree.map(lambda x: np.asarray(x, np.float32) + wave(x), params)


@pytest.mark.parametrize(
  "case, kw",
  [
    ("init", {}),
    ("init_map_repsize",
     dict(pool_type="map", rep_size=True, head_zeroinit=False)),
    ("init_tok_scan", dict(pool_type="tok", scan=True)),
  ],
)  # fmt: skip
def test_initial_values(case, kw):
  """Checkpoints and published results depend on names and order of calls."""
  expected = json.loads(GOLDEN.read_text())[case]
  got = named(init(vit.Model(10, **SMALL, **kw), 2, 32, 32, 3))
  assert got.keys() == expected.keys()
  for name, x in got.items():
    want = expected[name]
    assert list(x.shape) == want["shape"] and x.dtype == jnp.float32, name
    first = np.asarray(want["first"], np.float32)
    np.testing.assert_array_equal(x.ravel()[:4], first, err_msg=name)
    stats = [want["mean"], want["std"]]
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose([x.mean(), x.std()], stats, atol=1e-7)


@pytest.mark.parametrize(
  "kw, count, total, size, first",
  [
    (dict(variant="mu/16", pool_type="map", rep_size=8,
          head_zeroinit=False),
     50530, 3772.17, 0.423713, (0.027422, 1.0103, -0.16038)),
    (dict(variant="mu/8", depth=3, pool_type="tok", posemb="sincos2d"),
     44714, 4841.73, 0.129497, (0.029747, 0.15515, 0.13791)),
    (dict(variant="mu/16", depth=3, scan=True),
     63242, 5235.21, 0.138197, (0.14, 0.18558, 0.060546)),
    (dict(variant="mu/16", dropout=0.3),
     37834, 2252.73, 0.0954436, (0.052672, 0.19682, 0.16001)),
    (dict(variant="mu/16", depth=2, scan=True, dropout=0.3),
     50538, 3743.31, 0.0807177, (0.05532, 0.065594, 0.015561)),
  ],
)  # fmt: skip
def test_known_numbers(kw, count, total, size, first):
  model = vit.Model(10, **kw)
  params = init(model, 2, 32, 32, 3)["params"]
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
  assert sum(x.size for x in leaves) == count
  np.testing.assert_allclose(sum(np.abs(x).sum() for x in leaves), total, 2e-6)
  train = "dropout" in kw
  rngs = {"dropout": jax.random.PRNGKey(7)} if train else None
  image = images(2, 32, 32, 3)
  out, _ = apply(model, perturbed(params), image, train=train, rngs=rngs)
  assert out.shape == (2, 10)
  np.testing.assert_allclose(np.abs(out).mean(), size, rtol=2e-5)
  np.testing.assert_allclose(out[0, :3], first, rtol=1e-4)


def reference_forward(p, image, patch, heads, pool):
  """ViT in float64 NumPy, as the papers describe it."""
  dense = lambda p, x: x @ p["kernel"] + p["bias"]

  def norm(p, x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * p["scale"] + p["bias"]

  def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

  def mlp(p, x):
    return dense(p["Dense_1"], gelu(dense(p["Dense_0"], x)))

  def attend(p, q, kv):
    proj = lambda n, x: (
      np.einsum("btd,dhk->bhtk", x, p[n]["kernel"]) + (p[n]["bias"][:, None])
    )
    q, k, v = proj("query", q), proj("key", kv), proj("value", kv)
    logits = np.einsum("bhqk,bhtk->bhqt", q, k) / np.sqrt(q.shape[-1])
    w = np.exp(logits - logits.max(-1, keepdims=True))
    w = w / w.sum(-1, keepdims=True)
    y = np.einsum("bhqt,bhtk->bqhk", w, v)
    return np.einsum("bqhk,hkd->bqd", y, p["out"]["kernel"]) + p["out"]["bias"]

  n, height, width, _ = image.shape
  ph, pw = patch
  x = image.reshape(n, height // ph, ph, width // pw, pw, 3)
  x = np.einsum("nhpwqc,pqcd->nhwd", x, p["embedding"]["kernel"])
  x = (x + p["embedding"]["bias"]).reshape(n, -1, x.shape[-1])
  x = x + p["pos_embedding"]
  if pool == "tok":
    x = np.concatenate([np.repeat(p["cls"], n, 0), x], 1)
  enc = p["Transformer"]
  for i in range(len(enc) - 1):
    b = enc[f"encoderblock_{i}"]
    y = norm(b["LayerNorm_0"], x)
    x = x + attend(b["MultiHeadDotProductAttention_0"], y, y)
    x = x + mlp(b["MlpBlock_0"], norm(b["LayerNorm_1"], x))
  x = norm(enc["encoder_norm"], x)
  if pool == "gap":
    x = x.mean(1)
  elif pool in ("tok", "0"):
    x = x[:, 0]
  elif pool == "map":
    m = p["MAPHead_0"]
    probe = np.repeat(m["probe"], n, 0)
    x = attend(m["MultiHeadDotProductAttention_0"], probe, x)
    x = (x + mlp(m["MlpBlock_0"], norm(m["LayerNorm_0"], x)))[:, 0]
  return dense(p["head"], np.tanh(dense(p["pre_logits"], x)))


@pytest.mark.parametrize(
  "pool, scan",
  [("gap", False), ("map", True), ("tok", False), ("0", False), ("none", True)],
)
def test_forward(pool, scan):
  kw = SMALL | dict(patch_size=[8, 16], num_heads=2)
  model = vit.Model(10, pool_type=pool, scan=scan, rep_size=24, **kw)
  params = perturbed(init(model, 2, 32, 48, 3)["params"])
  image = images(2, 32, 48, 3)
  out, _ = apply(model, params, image)
  loop = vit.scan_to_pyloop(params) if scan else params
  loop = jax.tree.map(lambda x: np.asarray(x, np.float64), loop)
  expected = reference_forward(loop, image, (8, 16), 2, pool)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_intermediates():
  model = vit.Model(10, variant="mu/16", pool_type="map", rep_size=True)
  variables = init(model, 2, 64, 64, 3)
  assert sum(x.size for x in jax.tree.leaves(variables)) == 51946
  x, out = jax.eval_shape(model.apply, variables, images(2, 64, 64, 3))
  shapes = {k: v.shape for k, v in named(out).items()}
  tokens, grid, pooled = (2, 16, 32), (2, 4, 4, 32), (2, 32)
  block = {f"encoder/block00/{k}": tokens for k in ("sa", "+sa", "mlp", "+mlp")}
  assert shapes == block | {
    "stem": grid,
    "with_posemb": tokens,
    "encoder/pre_ln": tokens,
    "encoded": tokens,
    "head_input": pooled,
    "pre_logits_2d": grid,
    "pre_logits": pooled,
    "logits_2d": (2, 4, 4, 10),
    "logits": (2, 10),
  }
  assert x.shape == (2, 10)


def test_intermediates_of_class_token_and_no_pooling():
  _, out = jax.eval_shape(
    vit.Model(variant="mu/16", pool_type="tok").init_with_output,
    jax.random.key(0), images(2, 32, 32, 3),
  )[0]  # fmt: skip
  assert out["encoded"].shape == (2, 5, 32)
  assert out["pre_logits_2d"].shape == (2, 2, 2, 32)
  x, out = jax.eval_shape(
    vit.Model(3, variant="mu/16", pool_type="none").init_with_output,
    jax.random.key(0), images(2, 32, 32, 3),
  )[0]  # fmt: skip
  assert x.shape == (2, 4, 3) and "head_input" not in out


def test_scan_is_the_same_function():
  kw = SMALL | dict(pool_type="map")
  loop = vit.Model(10, **kw)
  scan = vit.Model(10, scan=True, **kw)
  params = perturbed(init(loop, 2, 16, 16, 3)["params"])
  stacked = vit.pyloop_to_scan(params)
  assert "encoderblock_0" in params["Transformer"]  # The input is left alone.
  shapes = jax.eval_shape(scan.init, jax.random.key(0), images(2, 16, 16, 3))
  assert jax.tree.map(np.shape, stacked) == jax.tree.map(
    np.shape, shapes["params"]
  )
  back = vit.scan_to_pyloop(
    params_scan=vit.pyloop_to_scan(params_pyloop=params)
  )
  assert jax.tree.map(np.shape, back) == jax.tree.map(np.shape, params)
  with pytest.raises(TypeError, match="by one of their two names"):
    vit.pyloop_to_scan()
  back = vit.scan_to_pyloop(stacked)
  jax.tree.map(np.testing.assert_array_equal, back, params)
  image = images(2, 16, 16, 3)

  def loss(model, params):
    x, out = model.apply({"params": params}, image)
    return jnp.sum(x**2), out

  grad = jax.value_and_grad(loss, argnums=1, has_aux=True)
  grad = jax.jit(grad, static_argnums=0)
  (a, out_a), grad_a = grad(loop, params)
  (b, out_b), grad_b = grad(scan, stacked)
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
  close(a, b)
  jax.tree.map(close, out_a, out_b)
  jax.tree.map(close, vit.pyloop_to_scan(grad_a), grad_b)


def test_conversions_of_jax_arrays_under_jit():
  _, params = model_and_params()
  there_and_back = lambda p: vit.scan_to_pyloop(vit.pyloop_to_scan(p))
  out = jax.jit(there_and_back)(params)
  jax.tree.map(np.testing.assert_array_equal, out, params)


def test_bfloat16():
  model = vit.Model(10, **SMALL, dtype_mm="bfloat16", pool_type="tok")
  (x, out), variables = jax.eval_shape(
    model.init_with_output, jax.random.key(0), images(2, 32, 32, 3)
  )
  low = {k for k, v in named(out).items() if v.dtype == jnp.bfloat16}
  block = {f"encoder/block0{i}/{k}" for i in (0, 1)
           for k in ("sa", "+sa", "mlp", "+mlp")}  # fmt: skip
  assert low == block | {"stem", "with_posemb", "encoder/pre_ln"}
  assert x.dtype == jnp.float32
  low = {k for k, v in named(variables).items() if v.dtype != jnp.float32}
  assert low == {"params/pos_embedding", "params/cls"}


def test_bfloat16_values():
  full, half = vit.Model(10, variant="mu/16"), vit.Model(
    10, variant="mu/16", dtype_mm="bfloat16")  # fmt: skip
  params = perturbed(init(full, 2, 32, 32, 3)["params"])
  image = images(2, 32, 32, 3)
  x, y = (apply(m, params, image)[0] for m in (full, half))
  assert 0 < np.abs(x - y).max() < 0.02


@pytest.mark.parametrize("scan", [False, True])
def test_dropout(scan):
  model = vit.Model(10, **SMALL, scan=scan, dropout=0.5, head_zeroinit=False)
  variables = init(model, 2, 16, 16, 3)

  @functools.partial(jax.jit, static_argnums=1)
  def out(seed, train):
    rngs = {"dropout": jax.random.key(seed)}
    return model.apply(variables, images(2, 16, 16, 3), train=train, rngs=rngs)[
      0
    ]

  np.testing.assert_array_equal(out(0, False), out(1, False))
  assert not np.allclose(out(0, True), out(1, True))
  np.testing.assert_array_equal(out(0, True), out(0, True))


def test_remat_policies_change_nothing():
  kw = SMALL | dict(scan=True, head_zeroinit=False)
  image = images(2, 16, 16, 3)
  params = init(vit.Model(3, **kw), 2, 16, 16, 3)["params"]

  def grad(policy):
    model = vit.Model(3, remat_policy=policy, **kw)
    loss = lambda p: model.apply({"params": p}, image)[0].sum()
    return jax.jit(jax.grad(loss))(params)

  want = grad("everything_saveable")
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  for policy in ("dots_with_no_batch_dims_saveable", None):
    jax.tree.map(close, grad(policy), want)


@pytest.mark.parametrize(
  "kw, error, message",
  [
    (dict(pool_type="map2"), ValueError, "config.model.pool_type.*'map'"),
    (dict(posemb="sincos"), ValueError, "config.model.posemb.*sincos2d"),
    (dict(scan=True, remat_policy="dots"), ValueError, "remat_policy"),
    (dict(pool_typ="map"), TypeError, "pool_typ"),
    (dict(variant="X/16"), KeyError, "config.model.variant.*So400m"),
    (dict(variant="S0400m/14"), KeyError, "Did you mean 'So400m'"),
    (dict(variant="B/16/2"), ValueError, "config.model.variant.*B/16"),
    (dict(variant="B/large"), ValueError, "config.model.variant"),
  ],
)
def test_errors(kw, error, message):
  with pytest.raises(error, match=message):
    model = vit.Model(10, **SMALL | kw if "variant" not in kw else kw)
    jax.eval_shape(model.init, jax.random.key(0), images(1, 16, 16, 3))


@pytest.mark.parametrize(
  "variant, gap, map_head",
  [
    ("mu/16", 76_648, 56_320),
    ("Ti/16", 5_717_032, 5_968_704),
    ("S/16", 22_049_896, 23_438_976),
    ("M/16", 38_836_712, 41_475_584),
    ("B/16", 86_566_120, 92_884_224),
    ("L/16", 304_324_584, 315_894_784),
    ("So400m/14", 413_595_352, 427_680_704),
    ("H/14", 632_043_240, 650_438_400),
    ("g/14", 1_012_608_616, 1_036_448_384),
    ("g-opt/16", 1_136_283_112, 1_163_076_096),
    ("G/16", 1_844_637_032, 1_881_332_096),
    ("G-opt/16", 1_665_023_464, 1_698_109_952),
    ("e/16", 3_807_425_768, 3_873_557_760),
  ],
)
def test_number_of_parameters(variant, gap, map_head):
  def count(model):
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))

  assert count(vit.Model(1000, variant=variant, scan=True)) == gap
  model = vit.Model(None, variant=variant, pool_type="map", scan=True)
  assert count(model) == map_head


def test_decode_variant():
  assert vit.decode_variant(None) == {}
  b = dict(width=768, depth=12, mlp_dim=3072, num_heads=12)
  assert vit.decode_variant("B") == b
  assert vit.decode_variant("B/16") == b | dict(patch_size=(16, 16))
  model = vit.Model(10, variant="B/16", depth=3, patch_size=(4, 8))
  assert (model.depth, model.width, model.patch_size) == (3, 768, (4, 8))


@pytest.mark.parametrize("old, new", [(4, 9), (49, 196), (16, 4), (9, 1),
                                      (1, 4), (25, 36)])  # fmt: skip
def test_resample_posemb_like_scipy(old, new):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, old, 5)).astype(np.float32)
  out = vit.resample_posemb(x, jax.ShapeDtypeStruct((1, new, 5), jnp.float32))
  a, b = math.isqrt(old), math.isqrt(new)
  expected = scipy.ndimage.zoom(
    x.reshape(a, a, 5), (b / a, b / a, 1), order=1
  ).reshape(1, new, 5)
  assert isinstance(out, np.ndarray) and out.dtype == np.float32
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_resample_posemb():
  x = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
  nine = np.zeros((1, 9, 2))
  expected = [0, 1, 1, 2, 2, 3, 2, 3, 3, 4, 4, 5, 4, 5, 5, 6, 6, 7]
  np.testing.assert_allclose(vit.resample_posemb(x, nine).ravel(), expected)
  assert vit.resample_posemb(x, x + 1) is x
  low = vit.resample_posemb(jnp.asarray(x, jnp.bfloat16), nine)
  assert low.dtype == jnp.bfloat16 and low.shape == (1, 9, 2)
  np.testing.assert_allclose(low.astype(np.float32).ravel(), expected)
  for bad in (np.zeros((1, 8, 2)), np.zeros((1, 5, 2))):
    with pytest.raises(ValueError, match="square"):
      vit.resample_posemb(x, bad)
    with pytest.raises(ValueError, match="square"):
      vit.resample_posemb(bad, x)


def test_fix_old_checkpoints():
  rng = np.random.default_rng(0)
  pos, cls = rng.standard_normal((1, 5, 4)), rng.standard_normal((1, 1, 4))
  block = {"encoderblock_0": {"LayerNorm_2": 1, "LayerNorm_0": 0}}
  fix = vit.fix_old_checkpoints
  for transformer in (
    block | {"posembed_input": {"pos_embedding": pos}},
    block | {"pos_embedding": pos},
  ):
    out = fix({"Transformer": transformer, "cls": cls})
    assert out["Transformer"] == {
      "encoderblock_0": {"LayerNorm_0": 0, "LayerNorm_1": 1}
    }
    np.testing.assert_array_equal(out["pos_embedding"], pos[:, 1:])
    np.testing.assert_array_equal(out["cls"], cls + pos[:, :1])
    assert "pos_embedding" in transformer or "posembed_input" in transformer
  # Without a class token it is only cut off; other lengths are kept.
  assert fix({"Transformer": {}, "pos_embedding": pos})[
    "pos_embedding"].shape == (1, 4, 4)  # fmt: skip
  for keep in (pos[:, :4], pos[:, :3]):
    assert fix({"pos_embedding": keep})["pos_embedding"] is keep
  # A model with five positions and no class token.
  assert fix({"pos_embedding": pos}, 5)["pos_embedding"] is pos


def test_fix_old_checkpoints_moves_the_map_head():
  head = {"probe": 1, "MlpBlock_0": {"a": 2}, "LayerNorm_0": {"b": 3},
          "MultiHeadDotProductAttention_0": {"c": 4}}  # fmt: skip
  out = vit.fix_old_checkpoints({"Transformer": {}, "head": 5} | head)
  assert out == {"Transformer": {}, "head": 5, "MAPHead_0": head}


def save(path, params, prefix="params/"):
  flat = {prefix + k: np.asarray(v) for k, v in named(params).items()}
  np.savez(path, **flat)
  return str(path)


CONFIG = dict(SMALL, pool_type="tok")


@functools.cache
def _init(num_classes, size, kw):
  model = vit.Model(num_classes, **{**CONFIG, **dict(kw)})
  return model, perturbed(init(model, 1, size, size, 3)["params"])


def model_and_params(num_classes=10, size=16, **kw):
  model, params = _init(num_classes, size, tuple(kw.items()))
  return model, jax.tree.map(lambda x: x, params)


def test_load_round_trip_and_new_head(tmp_path):
  _, params = model_and_params()
  path = save(tmp_path / "x.npz", params)
  out = vit.load(params, path, CONFIG)
  jax.tree.map(np.testing.assert_array_equal, out, params)
  assert vit.load(None, path, None)["head"]["bias"].shape == (10,)

  model = vit.Model(7, **CONFIG)
  fresh = jax.eval_shape(model.init, jax.random.key(0), images(1, 16, 16, 3))
  fresh = fresh["params"]
  kw = dict(dont_load=["head/.*"])
  out = vit.load(fresh, path, ml_collections.ConfigDict(CONFIG), **kw)
  assert out["head"]["kernel"] is fresh["head"]["kernel"]
  np.testing.assert_array_equal(out["cls"], params["cls"])


def test_load_of_another_model(tmp_path):
  _, params = model_and_params()
  path = save(tmp_path / "x.npz", params)
  _, other = model_and_params(rep_size=8)
  with pytest.raises(ValueError, match=" - pre_logits/bias"):
    vit.load(other, path, CONFIG)
  del params["head"]
  path = save(tmp_path / "y.npz", {"img": params, "t": np.ones(1)})
  _, headless = model_and_params(None)
  out = vit.load(headless, path + ":img", CONFIG)
  np.testing.assert_array_equal(out["cls"], params["cls"])


@pytest.mark.parametrize("from_scan", [False, True])
@pytest.mark.parametrize("to_scan", [False, True])
def test_load_between_loop_and_scan(tmp_path, from_scan, to_scan):
  _, source = model_and_params(scan=from_scan)
  _, target = model_and_params(scan=to_scan)
  path = save(tmp_path / "x.npz", source)
  out = vit.load(target, path, dict(CONFIG, scan=to_scan))
  plain = vit.load(None, path, dict(scan=to_scan))
  # That both layouts are the same function is checked further up.
  kernel = "MlpBlock_0/Dense_1/kernel"

  def blocks(tree, scan):
    tree = named(tree["Transformer"])
    if scan:
      return tree[f"encoderblock/{kernel}"]
    return [tree[f"encoderblock_{i}/{kernel}"] for i in range(SMALL["depth"])]

  for loaded in (out, plain):
    assert ("encoderblock" in loaded["Transformer"]) == to_scan
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, target)
    np.testing.assert_array_equal(
      blocks(loaded, to_scan), blocks(source, from_scan)
    )
    np.testing.assert_array_equal(loaded["cls"], source["cls"])


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_load_old_names_at_another_resolution(tmp_path, dtype):
  _, params = model_and_params(size=16)  # 2 x 2 positions.
  pos = params["pos_embedding"].astype(dtype)
  old = jax.tree.map(lambda x: x, params)
  # The class token had a position, and the numbers counted all modules.
  zero = np.zeros((1, 1, 32), dtype)
  old["Transformer"]["posembed_input"] = {
    "pos_embedding": np.concatenate([zero, pos], axis=1)
  }
  del old["pos_embedding"]
  for i in range(2):
    block = old["Transformer"][f"encoderblock_{i}"]
    block["LayerNorm_2"] = block.pop("LayerNorm_1")
    block["MlpBlock_3"] = block.pop("MlpBlock_0")
  path = save(tmp_path / "x.npz", old, prefix="")
  _, large = model_and_params(size=32)
  out = vit.load(large, path, CONFIG)
  expected = vit.resample_posemb(pos, large["pos_embedding"])
  assert out["pos_embedding"].dtype == dtype
  np.testing.assert_array_equal(out["pos_embedding"], expected)
  del out["pos_embedding"], params["pos_embedding"]
  jax.tree.map(np.testing.assert_array_equal, out, params)


def test_load_keeps_dont_loaded_positions(tmp_path):
  _, params = model_and_params(size=16)
  path = save(tmp_path / "x.npz", params)
  _, large = model_and_params(size=24)
  out = vit.load(large, path, CONFIG, dont_load=["pos_embedding"])
  assert out["pos_embedding"] is large["pos_embedding"]


def test_vanity_names(monkeypatch):
  names = vit.VANITY_NAMES
  assert len(names) == 48
  assert names["howto-i21k-B/8"] == (
    "gs://vit_models/augreg/"
    "B_8-i21k-300ep-lr_0.001-aug_medium2-wd_0.1-do_0.0-sd_0.0.npz"
  )
  base = "gs://big_vision/"
  for name, file in {
    "i1k-s16-150ep": "vit_s16_i1k_150ep.npz",
    "deit3_B_384_21k": "zoo/deit3/bv_deit_3_base_384_21k.npz",
    "SigLIP B/16-i18n 256": "siglip/webli_i18n_b16_256_66117334.npz:img",
    "SigLIP So400m/14 384": "siglip/webli_en_so400m_384_58765454.npz:img",
    "SigLIP2 So400m/16 512": "siglip2/siglip2_so400m16_512.npz:img",
    "SigLIP2 g-opt/16 256": "siglip2/siglip2_g-opt16_256.npz:img",
    "SigLIP2 B/16 NaFlex": "siglip2/siglip2_b16_naflex.npz:img",
  }.items():
    assert names[name] == base + file
  asked = []
  monkeypatch.setattr(
    vit_checkpoints.checkpoints,
    "load_params",
    lambda f: asked.append(f) or {"head": 1},
  )
  vit.load(None, "i1k-s16-90ep", {})
  vit.load(None, "/some/file.npz", {})
  assert asked == [base + "vit_s16_i1k_90ep.npz", "/some/file.npz"]


def test_sharding_hints():
  """Activations follow the logical axis rules in scope."""
  mesh = jax.sharding.Mesh(jax.devices(), ("data",))
  model = vit.Model(10, variant="mu/16")
  variables = init(model, 1, 16, 16, 3)
  rules = [("act_batch", "data")]
  with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
    text = jax.jit(model.apply).lower(variables, images(8, 16, 16, 3)).as_text()
  hints = [s for s in text.splitlines() if "sharding_constraint" in s]
  assert hints and all('"data"' in s for s in hints)


@pytest.mark.parametrize("posemb", ["learn", "sincos2d"])
def test_positions_for_larger_images(posemb):
  """Tests at a higher resolution than training, with `posemb_size`."""
  kw = dict(SMALL, depth=1, posemb=posemb)
  model = vit.Model(3, posemb_size=(2, 3), **kw)
  params = perturbed(init(vit.Model(3, **kw), 1, 16, 24, 3)["params"])
  small = images(2, 16, 24, 3)
  same, plain = (
    apply(m, params, small)[1] for m in (model, vit.Model(3, **kw))
  )
  np.testing.assert_array_equal(same["logits"], plain["logits"])
  large = images(2, 32, 56, 3)
  got = apply(model, params, large)[1]
  stored = plain["with_posemb"] - plain["stem"].reshape(2, 6, 32)
  grid = np.asarray(stored)[0].reshape(1, 2, 3, 32)
  want = jax.image.resize(grid, (1, 4, 7, 32), "linear")
  positions = got["with_posemb"] - got["stem"].reshape(2, 28, 32)
  np.testing.assert_allclose(positions[0], want.reshape(28, 32), atol=1e-5)
  assert vit.image_grid(dict(kw, posemb_size=(2, 3)), (32, 56)).stored == (2, 3)


def test_refuses_a_bad_posemb_size():
  with pytest.raises(
    ValueError, match=r"posemb_size=3 should be \(rows, columns\)"
  ):
    init(vit.Model(3, posemb_size=3, **SMALL), 1, 16, 16, 3)
