"""The image-to-sequence model: names, cache, loading."""

import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from big_vision import lookup, trees
from big_vision.models import cached_attention, common, vit
from big_vision.models.proj.uvim import vtt

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = dict(
  patches=dict(size=(8, 8)),
  num_heads=2,
  num_layers=2,
  mlp_dim=32,
  emb_dim=16,
  vocab_size=20,
  seq_len=6,
  input_size=(16, 16),
  posemb_type="learn",
)
B, L, V = 3, 6, 20


def image():
  return np.sin(np.arange(B * 16 * 16 * 3)).reshape(B, 16, 16, 3)


def tokens():
  return (7 * np.arange(B * L).reshape(B, L) + 3) % V


@functools.cache
def model_and_params(**kw):
  model = vtt.Model(**{**SMALL, **kw})
  shapes = jax.eval_shape(model.init, jax.random.key(0), image(), tokens())
  return model, random_like(shapes)


@functools.cache
def encoded():
  model, params = model_and_params()
  return jax.jit(functools.partial(model.apply, method="encode"))(
    params, image()
  )


@functools.cache
def compiled(**kw):
  """`(variables, encoded, tokens) -> (logits, cache)` of `decode`."""
  model, _ = model_and_params()
  fn = functools.partial(model.apply, mutable=["cache"], method="decode", **kw)
  return jax.jit(fn)


def call(tokens, encoded, cache=None, **kw):
  """(logits, cache) of `decode`."""
  variables = {**model_and_params()[1], **(cache or {})}
  return compiled(**kw)(variables, encoded, tokens)


@functools.cache
def teacher_forced(**kw):
  """Function of tokens, compiled."""
  model, params = model_and_params()
  model = model.clone(**kw)
  return jax.jit(lambda tokens: model.apply(params, image(), tokens))


def test_names_and_shapes():
  params = model_and_params()[1]["params"]
  shapes = {
    name: x.shape for name, x in trees.tree_flatten_with_names(params)[0]
  }
  assert sum(np.prod(s) for s in shapes.values()) == 14852
  assert set(params) == {
    "pos_embedding_encoder",
    "pos_embedding_decoder",
    "EmbedPatches",
    "encoder",
    "decoder",
  }
  assert shapes["pos_embedding_decoder"] == (1, 6, 16)
  assert shapes["decoder/EncDecBlock1/CrossAttn/query/kernel"] == (16, 2, 8)
  assert shapes["decoder/EncDecBlock0/SelfAttn/out/kernel"] == (2, 8, 16)
  assert "decoder/EncDecBlock0/SelfAttn/out/bias" not in shapes


def test_initial_values():
  model = vtt.Decoder(16, 32, 2, 1, output_vocab_size=5000)
  args = np.zeros([B, 4, 16]), tokens(), np.zeros([1, L, 16])
  decoder = jax.jit(model.init)(jax.random.key(0), *args)["params"]
  assert not decoder["LogitsDense"]["kernel"].any()
  assert abs(decoder["EmbedTargets"]["embedding"].std() - 1) < 0.02
  kernel = decoder["EncDecBlock0"]["SelfAttn"]["query"]["kernel"]
  assert abs(kernel.std() - 16**-0.5) < 0.05


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_shift_right(axis):
  x = np.arange(24).reshape(2, 3, 4) + 1
  want = np.roll(x, 1, axis)
  np.moveaxis(want, axis, 0)[0] = 0
  np.testing.assert_array_equal(vtt.shift_right(jnp.asarray(x), axis), want)


@pytest.mark.parametrize(
  "patches",
  [
    ConfigDict({"size": [8, 8]}),
    flax.core.freeze({"size": (8, 8)}),
    vtt.Patches((8, 8)),
  ],
)
def test_equal_models_have_equal_hashes(patches):
  """Programs are compiled once per model, and `jax.jit` hashes it."""
  model = vtt.Model(**{**SMALL, "patches": patches, "input_size": [16, 16]})
  assert model.patches.size == (8, 8)
  assert model == vtt.Model(**SMALL) and hash(model) == hash(vtt.Model(**SMALL))


def test_tokens_see_those_before_them_only():
  other = tokens()
  other[:, 3] = (other[:, 3] + 1) % V
  differ = np.abs(teacher_forced()(other) - teacher_forced()(tokens()))
  assert differ[:, :4].max() == 0
  assert differ[:, 4:].max(axis=(0, 2)).min() > 1e-3


def test_zero_decoder_seq():
  blind = teacher_forced(zero_decoder_seq=True)
  np.testing.assert_array_equal(blind(tokens()), blind(0 * tokens()))


@pytest.mark.parametrize("with_memory", [False, True])
def test_cached_decoding_equals_teacher_forcing(with_memory):
  model, params = model_and_params()
  x = encoded()
  if with_memory:
    x = model.apply(params, x, method="cross_memory")
  zeros = jax.tree.map(jnp.zeros_like, x)
  _, cache = call(tokens(), zeros, decode=True)
  shapes = {
    name: (x.shape, str(x.dtype))
    for name, x in trees.tree_flatten_with_names(cache["cache"])[0]
  }
  of_block = {
    "cached_key": ((B, L, 2, 8), "float32"),
    "cached_value": ((B, L, 2, 8), "float32"),
    "cache_index": ((), "int32"),
  }
  assert shapes == {
    "decoder/PosEmbedTargets/cache_index": ((), "uint32"),
    **{
      f"decoder/EncDecBlock{i}/SelfAttn/{k}": v
      for i in range(2)
      for k, v in of_block.items()
    },
  }
  assert not any(x.any() for x in jax.tree.leaves(cache))
  read = np.pad(tokens(), [(0, 0), (1, 0)])
  for i in range(L):
    logits, cache = call(read[:, i : i + 1], x, cache, decode=True)
    np.testing.assert_allclose(
      logits[:, 0], teacher_forced()(tokens())[:, i], atol=1e-5, rtol=1e-5
    )


def test_prefill_then_tokens():
  _, cache = call(tokens()[:, :1], encoded(), decode=True, max_decode_length=L)
  logits, cache = call(tokens()[:, :3], encoded(), cache, prefill=True)
  np.testing.assert_allclose(
    logits, teacher_forced()(tokens())[:, :3], atol=1e-5
  )
  logits, cache = call(tokens()[:, 2:3], encoded(), cache, decode=True)
  np.testing.assert_allclose(
    logits[:, 0], teacher_forced()(tokens())[:, 3], atol=1e-5
  )
  logits, _ = call(tokens()[:, 3:5], encoded(), cache, decode=True)  # Two.
  np.testing.assert_allclose(
    logits, teacher_forced()(tokens())[:, 4:], atol=1e-5
  )


def test_attention_equals_that_of_flax():
  """With a cache, a bias and dropout."""
  kw = dict(num_heads=2, dropout_rate=0.3, use_bias=True)
  theirs = nn.MultiHeadDotProductAttention(**kw, broadcast_dropout=False)
  ours = cached_attention.CachedAttention(**kw)
  x, y = np.random.default_rng(0).normal(size=(2, B, L, 16)).astype(np.float32)
  params = ours.init(jax.random.key(0), x, y)
  params = jax.tree.map(lambda x: x + 0.1, params)
  rngs = {"dropout": jax.random.key(1)}
  want = theirs.apply(params, x, y, deterministic=False, rngs=rngs)
  got = ours.apply(params, x, y, deterministic=False, rngs=rngs)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  memory = cached_attention.memory(params["params"], y)
  np.testing.assert_allclose(
    ours.apply(params, x, memory), ours.apply(params, x, y), rtol=1e-5
  )


@pytest.mark.parametrize(
  ("fn", "error", "text"),
  [
    (lambda: vtt.Model(patches=None), lookup.ConfigError, "model.patches=None"),
    (
      lambda: call(np.zeros([B, L + 1]), encoded()),
      lookup.ConfigError,
      "seq_len=6 .* has 7",
    ),
    (
      lambda: call(tokens(), encoded(), decode=True, max_decode_length=9),
      lookup.ConfigError,
      "seq_len=6 .* has 9",
    ),
    (
      lambda: call(tokens(), encoded(), prefill=True),
      ValueError,
      "create it with decode=True first",
    ),
    (
      lambda: model_and_params()[0].apply(
        model_and_params()[1], np.zeros([1, 24, 16, 3]), method="encode"
      ),
      lookup.ConfigError,
      r"input_size=\(16, 16\).* 24x16 pixels",
    ),
    (
      lambda: vtt.Model(**{**SMALL, "num_heads": 3}).init(
        jax.random.key(0), image(), tokens()
      ),
      lookup.ConfigError,
      "num_heads=3",
    ),
  ],
)
def test_errors(fn, error, text):
  with pytest.raises(error, match=text):
    fn()


def random_like(tree):
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32) / 3, tree
  )


def save(path, params):
  flat = trees.tree_flatten_with_names({"params": params})[0]
  np.savez(path, **dict(flat))
  return str(path)


def init_params():
  return model_and_params()[1]["params"]


@pytest.mark.parametrize(
  "wrap", [str, lambda path: common.Loaded(read(path), path)]
)
def test_load_all(tmp_path, wrap):
  want = random_like(init_params())
  path = save(tmp_path / "all.npz", want)
  got = vtt.load(init_params(), wrap(path), SMALL)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  got = vtt.load(None, path)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def read(path):
  with np.load(path) as f:
    return trees.recover_tree(
      [k.removeprefix("params/") for k in f], [f[k] for k in f]
    )


def test_load_all_but_some(tmp_path):
  want = random_like(init_params())
  path = save(tmp_path / "all.npz", want)
  got = vtt.load(init_params(), path, dont_load=["decoder/LogitsDense/.*"])
  kept = init_params()["decoder"]["LogitsDense"]["kernel"]
  assert got["decoder"]["LogitsDense"]["kernel"] is kept
  np.testing.assert_array_equal(
    got["pos_embedding_decoder"], want["pos_embedding_decoder"]
  )


@pytest.mark.parametrize("pool_type", ["gap", "tok"])
@pytest.mark.parametrize("num_classes", [None, 5])
def test_load_encoder(tmp_path, pool_type, num_classes):
  """A ViT with or without a head and a class token, of another resolution."""
  model = vit.Model(
    num_classes,
    width=16,
    depth=2,
    mlp_dim=32,
    num_heads=2,
    patch_size=(8, 8),
    pool_type=pool_type,
  )
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), np.zeros([1, 24, 24, 3]))["params"]
  )
  loaded = random_like(shapes)
  path = save(tmp_path / "vit.npz", loaded)
  init = init_params()
  got = vtt.load(init, ConfigDict({"encoder": path}), ConfigDict(SMALL))
  assert got["decoder"] is init["decoder"] and set(got) == set(init)
  jax.tree.map(
    np.testing.assert_array_equal, got["encoder"], loaded["Transformer"]
  )
  jax.tree.map(
    np.testing.assert_array_equal, got["EmbedPatches"], loaded["embedding"]
  )
  want = vit.resample_posemb(
    loaded["pos_embedding"], init["pos_embedding_encoder"]
  )
  np.testing.assert_array_equal(got["pos_embedding_encoder"], want)


def test_load_errors(tmp_path):
  with pytest.raises(ValueError, match="one key, encoder"):
    vtt.load(init_params(), {"decoder": "/a/b"})
  with pytest.raises(ValueError, match="one key, encoder"):
    vtt.load(init_params(), {"encoder": "/a/b", "decoder": "/a/b"})
  with pytest.raises(lookup.ConfigError, match="should be the path"):
    vtt.load(init_params(), 5)
  without = {k: v for k, v in init_params().items() if "pos_" not in k}
  with pytest.raises(lookup.ConfigError, match="posemb_type='learn'"):
    vtt.load(without, {"encoder": "/a/b.npz"})
  with pytest.raises(ValueError, match="not in checkpoint"):
    params = {k: v for k, v in init_params().items() if k != "EmbedPatches"}
    vtt.load(init_params(), save(tmp_path / "part.npz", params))
