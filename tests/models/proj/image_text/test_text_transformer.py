"""Tests for the text tower: golden values, its parts, loading."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import trees
from big_vision.models import vit
from big_vision.models.proj.image_text import text_transformer

pytestmark = pytest.mark.usefixtures("quick_compilation")
GOLDEN = pathlib.Path(__file__).parents[3] / "golden" / "image_text_init.json"
SMALL = dict(width=32, depth=2, mlp_dim=64, num_heads=4, vocab_size=64)


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def tokens(num, length, vocab):
  k = np.arange(num * length, dtype=np.int32)
  return ((7 * k + 3) % vocab).reshape(num, length)


def init(model, text):
  variables = jax.jit(model.init)(jax.random.PRNGKey(0), text)
  return jax.tree.map(np.asarray, variables["params"])


def perturbed(params):
  """Leaves plus a sine: nothing is at a neutral value any more."""
  wave = lambda x: np.float32(0.05 * np.sin(np.arange(x.size))).reshape(x.shape)
  return jax.tree.map(lambda x: x + wave(x), params)


def apply(model, params, text, **kw):
  return jax.jit(lambda p, x: model.apply({"params": p}, x, **kw))(params, text)


def test_initial_values():
  """Checkpoints and published results depend on names and order of calls."""
  expected = json.loads(GOLDEN.read_text())["text_transformer"]
  got = named(init(text_transformer.Model(16, **SMALL), tokens(3, 9, 64)))
  assert got.keys() == expected.keys()
  for name, x in got.items():
    want = expected[name]
    assert list(x.shape) == want["shape"] and x.dtype == np.float32, name
    first = np.asarray(want["first"], np.float32)
    np.testing.assert_array_equal(x.ravel()[:4], first, err_msg=name)
    x = np.asarray(x, np.float64)
    stats = [want["mean"], want["std"]]
    np.testing.assert_allclose([x.mean(), x.std()], stats, atol=1e-7)


@pytest.mark.parametrize(
  "kw, count, total, size, first",
  [
    ({}, 15088, 1848.42, 0.773377, (-1.1167, -1.251, -0.64294)),
    (dict(pool_type="map"),
     27760, 3309.34, 0.924025, (1.2289, 0.29229, 0.24466)),
    (dict(depth=2, pool_type="mean", scan=True),
     27792, 3311.75, 0.578695, (-0.90429, 0.1937, -0.21855)),
  ],
)  # fmt: skip
def test_known_numbers(kw, count, total, size, first):
  model = text_transformer.Model(16, variant="mu", vocab_size=50, **kw)
  text = tokens(2, 6, 50)
  params = init(model, text)
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
  assert sum(x.size for x in leaves) == count
  np.testing.assert_allclose(sum(np.abs(x).sum() for x in leaves), total, 2e-6)
  out, _ = apply(model, perturbed(params), text)
  assert out.shape == (2, 16)
  np.testing.assert_allclose(np.abs(out).mean(), size, rtol=2e-5)
  np.testing.assert_allclose(out[0, :3], first, rtol=1e-4)


def test_parts():
  """Each intermediate follows from the one before."""
  text = tokens(3, 9, 64)
  model = text_transformer.Model(16, **SMALL)
  params = perturbed(init(model, text))
  x, out = apply(model, params, text)
  table = params["Embed_0"]["embedding"]
  np.testing.assert_array_equal(out["embedded"], table[text])

  encoder = vit.Encoder(depth=2, mlp_dim=64, num_heads=4)
  transformed, encoder_out = apply(
    encoder, params["Encoder_0"], table[text] + params["pos_embedding"]
  )
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5)
  close(out["transformed"], transformed)
  for name in ("block00", "block01", "pre_ln"):
    jax.tree.map(close, out[name], encoder_out[name])

  transformed = np.asarray(transformed)
  close(out["vocab_logits"], transformed @ table.T)
  close(out["pre_logits"], transformed[:, -1])
  head = params["head"]
  close(out["logits"], transformed[:, -1] @ head["kernel"] + head["bias"])
  np.testing.assert_array_equal(x, out["logits"])


@pytest.mark.parametrize(
  "pool_type, pool",
  [
    ("last", lambda x: x[:, -1]),
    ("first", lambda x: x[:, 0]),
    ("mean", lambda x: x.mean(1)),
    ("gap", lambda x: x.mean(1)),
    ("max", lambda x: x.max(1)),
    ("gmp", lambda x: x.max(1)),
  ],
)
def test_pooling(pool_type, pool):
  text = tokens(2, 5, 64)
  model = text_transformer.Model(
    None, **{**SMALL, "depth": 1}, pool_type=pool_type
  )
  params = init(model, text)
  assert "head" not in params
  x, out = apply(model, params, text)
  assert x.shape == (2, 32) and "logits" not in out
  np.testing.assert_allclose(x, pool(np.asarray(out["transformed"])), atol=1e-6)


def test_attention_is_bidirectional():
  text = tokens(1, 6, 64)
  model, params = model_and_params(text, pool_type="first")
  other = text.copy()
  other[0, -1] = 0  # Not even padding is masked.
  first, changed = (apply(model, params, t)[0] for t in (text, other))
  assert np.abs(first - changed).max() > 1e-3


def test_dropout_only_in_training():
  text = tokens(1, 6, 64)
  model, params = model_and_params(text, dropout=0.5)
  without = text_transformer.Model(4, **SMALL)
  calm = apply(without, params, text)[0]
  np.testing.assert_array_equal(apply(model, params, text)[0], calm)
  run = jax.jit(
    lambda key: model.apply(
      {"params": params}, text, train=True, rngs={"dropout": key}
    )[0]
  )
  one, two = (run(jax.random.PRNGKey(i)) for i in (1, 2))
  assert np.abs(one - two).max() > 1e-2
  assert np.abs(one - calm).max() > 1e-2


def test_errors_of_the_model():
  text = tokens(1, 4, 64)
  with pytest.raises(NotImplementedError, match="'lst'.*'last'"):
    init(text_transformer.Model(4, **SMALL, pool_type="lst"), text)
  with pytest.raises(ValueError, match="text.variant: 'mu/16'.*use 'mu'"):
    text_transformer.Model(4, variant="mu/16")
  with pytest.raises(KeyError, match="Huge"):
    text_transformer.Model(4, variant="Huge")
  with pytest.raises(TypeError, match="patchsize"):
    text_transformer.Model(4, patchsize=3)


def save(path, params):
  np.savez(path, **{f"params/{k}": v for k, v in named(params).items()})
  return str(path)


def model_and_params(text=None, **kw):
  """Without compiling anything; no two values are the same."""
  text = tokens(2, 5, 64) if text is None else text
  model = text_transformer.Model(4, **SMALL, **kw)
  shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), text)["params"]
  rng = np.random.default_rng(0)
  fill = lambda x: np.float32(0.1 * rng.standard_normal(x.shape))
  return model, jax.tree.map(fill, shapes)


def other_values(params):
  return jax.tree.map(lambda x: np.full_like(x, 7), params)


def same(a, b):
  assert named(a).keys() == named(b).keys()
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_load(tmp_path):
  _, params = model_and_params()
  path = save(tmp_path / "x.npz", params)
  same(text_transformer.load(other_values(params), path, None), params)
  same(text_transformer.load(None, path, None), params)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
  )
  out = text_transformer.load(shapes, path, {}, dont_load=["head/.*"])
  assert out["head"]["kernel"] is shapes["head"]["kernel"]
  np.testing.assert_array_equal(out["pos_embedding"], params["pos_embedding"])


@pytest.mark.parametrize(
  "pool",
  [
    "map",
    *(pytest.param(p, marks=pytest.mark.slow) for p in ("last", "mean", "max")),
  ],
)
def test_padding_can_be_masked(pool):
  """Then a text gives the same as without any, but for the last token's."""
  kw = dict(SMALL, depth=1, pool_type=pool)
  text = np.array([[3, 9, 4, 0, 0], [3, 9, 4, 7, 5], [0, 0, 0, 0, 0]], np.int32)
  model = text_transformer.Model(8, **kw, pad_token=0)
  params = perturbed(init(model, text))
  plain = text_transformer.Model(8, **kw)
  same_names = jax.eval_shape(plain.init, jax.random.key(0), text)["params"]
  assert named(params).keys() == named(same_names).keys()
  got, out = apply(model, params, text)
  assert np.isfinite(got).all()
  short = {**params, "pos_embedding": params["pos_embedding"][:, :3]}
  want, want_out = apply(plain, short, text[:, :3])
  np.testing.assert_allclose(
    out["transformed"][0, :3], want_out["transformed"][0], atol=1e-5
  )
  if pool != "last":
    np.testing.assert_allclose(got[0], want[0], atol=1e-5)


def test_load_changes_the_stacking(tmp_path):
  """The config need not tell how the blocks are stored in the file."""
  text = tokens(2, 5, 64)
  loop, loop_params = model_and_params()
  scan, scan_params = model_and_params(scan=True)
  path = save(tmp_path / "loop.npz", loop_params)
  out = text_transformer.load(scan_params, path, {"scan": True})
  assert named(out).keys() == named(scan_params).keys()
  np.testing.assert_allclose(
    apply(scan, out, text)[0], apply(loop, loop_params, text)[0], atol=1e-5
  )
  path = save(tmp_path / "scan.npz", out)
  same(text_transformer.load(other_values(loop_params), path, {}), loop_params)
  same(text_transformer.load(None, path, {}), out)  # As it is.


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_load_adds_positions_of_the_encoder(tmp_path, dtype):
  _, params = model_and_params()
  old = jax.tree.map(lambda x: x.astype(dtype), params)
  extra = np.ones_like(old["pos_embedding"])
  old["Encoder_0"]["pos_embedding"] = extra
  # Before linen, numbers counted the modules of all classes.
  for i in range(2):
    block = old["Encoder_0"][f"encoderblock_{i}"]
    block["LayerNorm_2"] = block.pop("LayerNorm_1")
    block["MlpBlock_3"] = block.pop("MlpBlock_0")
  out = text_transformer.load(params, save(tmp_path / "x.npz", old), None)
  expected = jax.tree.map(lambda x: x.astype(dtype), params)
  expected["pos_embedding"] = expected["pos_embedding"] + extra
  same(out, expected)


def test_load_errors(tmp_path):
  _, params = model_and_params()
  path = save(tmp_path / "x.npz", params)
  _, longer = model_and_params(tokens(1, 8, 64))
  message = r"x.npz.*\(1, 5, 32\).*\(1, 8, 32\).*checkpoint, 5"
  with pytest.raises(ValueError, match=message):
    text_transformer.load(longer, path, None)
  out = text_transformer.load(longer, path, None, dont_load="pos_embedding")
  assert out["pos_embedding"] is longer["pos_embedding"]

  _, pooled = model_and_params(pool_type="map")
  with pytest.raises(ValueError, match=" - MAPHead_0/probe"):
    text_transformer.load(pooled, path, None)
  del params["head"]
  with pytest.raises(ValueError, match=r" \+ head/kernel"):
    text_transformer.load(params, path, None)
