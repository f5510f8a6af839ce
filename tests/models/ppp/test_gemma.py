"""Gemma against NumPy and the numbers of the specification; caches; loading."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import trees
from big_vision.lookup import ConfigError
from big_vision.models import common
from big_vision.models.ppp import gemma

pytestmark = pytest.mark.usefixtures("quick_compilation")
B, V, D, N, H = 2, 20, 16, 4, 8
TINY = dict(
  variant="tiny", width=D, depth=2, mlp_dim=24, num_heads=N, num_kv_heads=2,
  head_dim=H, norm_eps=1e-6, vocab_size=V,
)  # fmt: skip
SCAN = dict(scan=True)
# All that Gemma 2 has, and as many keys as queries.
SECOND = dict(
  num_kv_heads=4, post_norms=True, attn_logits_softcap=50.0,
  final_logits_softcap=30.0, query_pre_attn_norm="rsqrt_emb_per_head",
)  # fmt: skip
REMAT = dict(remat_policy="nothing_saveable")


def tokens(length=5):
  return (7 * np.arange(B * length).reshape(B, length) + 3) % V


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


@functools.cache
def initial(**kw):
  model = gemma.Model(**TINY | kw)
  init = jax.jit(lambda key: model.init(key, tokens()))
  return model, init(jax.random.PRNGKey(0))["params"]


@functools.cache
def shapes(**kw):
  model = gemma.Model(**TINY | kw)
  init = lambda: model.init(jax.random.key(0), tokens())
  return model, jax.eval_shape(init)["params"]


@functools.cache
def random(**kw):
  """Parameters without compiling anything; no two values are the same."""
  model, params = shapes(**kw)
  rng = np.random.default_rng(0)
  fill = lambda x: (0.4 * rng.standard_normal(x.shape)).astype(x.dtype)
  return model, jax.tree.map(fill, params)


@functools.cache
def jitted(model):
  return jax.jit(
    lambda p, *args, **kw: model.apply({"params": p}, *args, **kw),
    static_argnames="deterministic",
  )


def apply(model, params, *args, **kw):
  return jitted(model)(params, *args, **kw)


@pytest.mark.parametrize(
  "name, size, num",
  [
    ("gemma_2b", (2048, 18, 16_384, 8, 1, 256), 2_506_172_416),
    ("gemma_7b", (3072, 28, 24_576, 16, 16, 256), 8_537_680_896),
    ("gemma2_2b", (2304, 26, 9216, 8, 4, 256), 2_614_341_888),
    ("gemma2_9b", (3584, 42, 14_336, 16, 8, 256), 9_241_705_984),
    ("gemma2_27b", (4608, 46, 36_864, 32, 16, 128), 27_227_128_320),
  ],
)
def test_published_sizes(name, size, num):
  config = gemma.get_config(name)
  keys = ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
  assert tuple(config[k] for k in keys) == size
  more = {k: v for k, v in config.items() if k not in keys}
  want = dict(variant=name, norm_eps=1e-6, vocab_size=256_000, **SCAN, **REMAT)
  if name.startswith("gemma2"):
    want |= dict(post_norms=True, attn_logits_softcap=50.0)
    want |= dict(final_logits_softcap=30.0)
  if name == "gemma2_27b":
    want |= dict(query_pre_attn_norm="rsqrt_emb_per_head")
  assert more == want
  init = lambda: gemma.Model(**config).init(jax.random.key(0), tokens())
  params = jax.eval_shape(init)["params"]
  assert sum(x.size for x in jax.tree.leaves(params)) == num
  config.width = 1
  assert gemma.get_config(name).width == size[0]


def test_unknown_size():
  with pytest.raises(ValueError, match="gemma_3b.*gemma_2b"):
    gemma.get_config("gemma_3b")


@pytest.mark.parametrize(
  "kw, count, total, size, first",
  [
    ({}, 5776, 1094.56, 0.931578, (-0.25607, -1.4314, 0.56598)),
    (SCAN, 5776, 1082.02, 0.884098, (0.41256, -1.0307, -1.4694)),
    (SCAN | SECOND | REMAT, 6864, 1290.17,
     0.867304, (1.5683, 0.27997, -0.63543)),
  ],
)  # fmt: skip
def test_known_numbers(kw, count, total, size, first):
  model, params = initial(**kw)
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
  assert sum(x.size for x in leaves) == count
  np.testing.assert_allclose(sum(np.abs(x).sum() for x in leaves), total, 5e-6)
  wave = lambda x: np.float32(0.05 * np.sin(np.arange(x.size))).reshape(x.shape)
  params = jax.tree.map(lambda x: np.asarray(x) + wave(x), params)
  logits, _ = apply(model, params, tokens())
  assert logits.shape == (B, 5, V)
  np.testing.assert_allclose(np.abs(logits).mean(), size, rtol=2e-5)
  np.testing.assert_allclose(logits[0, 0, :3], first, rtol=1e-4)


def test_names_of_parameters():
  found = {k: x.shape for k, x in named(shapes(**SCAN)[1]).items()}
  block = {
    "pre_attention_norm/scale": (D,),
    "attn/q_einsum/w": (N, D, H),
    "attn/kv_einsum/w": (2, 2, D, H),
    "attn/attn_vec_einsum/w": (N, H, D),
    "pre_ffw_norm/scale": (D,),
    "mlp/gating_einsum": (2, D, 24),
    "mlp/linear": (24, D),
  }
  rest = {"embedder/input_embedding": (V, D), "final_norm/scale": (D,)}
  stacked = {f"layers/{k}": (2, *shape) for k, shape in block.items()}
  assert found == stacked | rest
  found = {k: x.shape for k, x in named(shapes()[1]).items()}
  apart = {f"layers/{i}/{k}": s for k, s in block.items() for i in "01"}
  assert found == apart | rest
  found = {k: x.shape for k, x in named(shapes(**SCAN | SECOND)[1]).items()}
  for name in ("attn/q_einsum/w", "attn/kv_einsum/w"):
    del stacked[f"layers/{name}"]
  assert found == stacked | rest | {
    "layers/attn/qkv_einsum/w": (2, 3, 4, D, H),
    "layers/post_attention_norm/scale": (2, D),
    "layers/post_ffw_norm/scale": (2, D),
  }


def layers_of(params):
  """The parameters of each layer."""
  layers = params["layers"]
  if "0" in layers:
    return [layers[str(i)] for i in range(len(layers))]
  num = len(layers["pre_ffw_norm"]["scale"])
  at = lambda i: jax.tree.map(lambda x: x[i], layers)
  return [at(i) for i in range(num)]


def norm(x, params, eps=1e-6):
  rms = np.sqrt(np.mean(x**2, -1, keepdims=True) + eps)
  return x / rms * (1 + params["scale"])


def turned(x, positions):
  """Rotary positions, by complex numbers: [B, T, H]."""
  half = x.shape[-1] // 2
  speed = 10_000.0 ** (-np.arange(half) / half)
  z = x[..., :half] + 1j * x[..., half:]
  z = z * np.exp(1j * positions[..., None] * speed)
  return np.concatenate([z.real, z.imag], -1)


def plain_attention(x, p, positions, mask, cap, factor):
  """Attention, one head after the other."""
  if "qkv_einsum" in p:
    q, k, v = p["qkv_einsum"]["w"]
  else:
    q, (k, v) = p["q_einsum"]["w"], p["kv_einsum"]["w"]
  out = 0
  for n in range(len(q)):
    shared = n // (len(q) // len(k))
    query = turned(x @ q[n], positions) * factor
    key, value = turned(x @ k[shared], positions), x @ v[shared]
    logits = np.einsum("btk,bsk->bts", query, key)
    if cap:
      logits = cap * np.tanh(logits / cap)
    weights = np.exp(logits - logits.max(-1, keepdims=True)) * mask
    weights /= weights.sum(-1, keepdims=True)
    out = out + weights @ value @ p["attn_vec_einsum"]["w"][n]
  return out


def plain_block(x, p, *args, eps=1e-6):
  post = lambda y, name: norm(y, p[name], eps) if name in p else y
  y = plain_attention(norm(x, p["pre_attention_norm"], eps), p["attn"], *args)
  x = x + post(y, "post_attention_norm")
  y = norm(x, p["pre_ffw_norm"], eps)
  g, y = (y @ w for w in p["mlp"]["gating_einsum"])
  gelu = g / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)))
  y = (gelu * y) @ p["mlp"]["linear"]
  return x + post(y, "post_ffw_norm")


def plain(model, params, ids, positions=None, mask=None):
  """Logits in NumPy; positions [B, T], mask [B, T, T]."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  length = ids.shape[1]
  positions = np.arange(length)[None] if positions is None else positions
  mask = np.tri(length)[None] if mask is None else mask
  per = H if model.query_pre_attn_norm == "rsqrt_head_dim" else D // N
  back = np.arange(length)[:, None] - np.arange(length)
  x = p["embedder"]["input_embedding"][ids] * np.sqrt(D)
  for i, layer in enumerate(layers_of(p)):
    near = (
      back < model.sliding_window if model.sliding_window and not i % 2 else 1
    )
    x = plain_block(
      x, layer, positions, mask * near, model.attn_logits_softcap,
      per**-0.5, eps=model.norm_eps,
    )  # fmt: skip
  x = norm(x, p["final_norm"], model.norm_eps)
  logits = x @ p["embedder"]["input_embedding"].T
  cap = model.final_logits_softcap
  return cap * np.tanh(logits / cap) if cap else logits


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
  "kw, length",
  [
    ({}, 5),
    (dict(num_kv_heads=1, norm_eps=0.5), 5),
    (SECOND, 5),
    (SECOND | dict(sliding_window=3, depth=3), 8),
  ],
)
def test_values_are_those_of_numpy(kw, length, scan):
  """Also sliding windows, which only layers 0, 2, ... have."""
  model, params = random(scan=scan, **kw)
  logits, out = apply(model, params, tokens(length))
  want = plain(model, params, tokens(length))
  np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(out["logits"], logits)
  assert np.abs(want).max() > 2
  if "sliding_window" in kw:
    whole = plain(model.clone(sliding_window=0), params, tokens(length))
    np.testing.assert_allclose(whole[:, :3], want[:, :3])
    assert (np.abs(whole - want)[:, 3:].max(-1) > 1e-2).all()


def test_positions_masks_and_prefixes():
  model, params = random()
  rng = np.random.default_rng(1)
  mask = (rng.random((B, 5, 5)) < 0.5) | np.eye(5, dtype=bool)[None]
  positions = rng.integers(30, size=(B, 5))
  got, out = apply(model, params, tokens(), positions=positions, mask=mask)
  want = plain(model, params, tokens(), positions, mask)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
  table = params["embedder"]["input_embedding"]
  prefix = table[tokens()[:, :3]] * np.sqrt(np.float32(D))
  again, _ = apply(
    model, params, tokens()[:, 3:], embedded_prefix=prefix,
    positions=positions, mask=mask[:, None],
  )  # fmt: skip
  np.testing.assert_allclose(again, got, rtol=1e-5, atol=1e-5)
  embedded = model.apply({"params": params}, tokens(), embed_only=True)
  np.testing.assert_allclose(embedded[:, :3], prefix, rtol=1e-6)
  logits, _ = model.apply({"params": params}, None, pre_logits=out["encoded"])
  np.testing.assert_allclose(logits, out["encoded"] @ table.T, rtol=1e-4)


def test_only_final_logits_are_capped():
  model, params = random(final_logits_softcap=2.0)
  logits, out = apply(model, params, tokens())
  uncapped, _ = model.apply(
    {"params": params}, None, pre_logits=out["pre_logits"]
  )
  np.testing.assert_allclose(out["logits_pre_norm"], uncapped, rtol=1e-5)
  np.testing.assert_allclose(logits, 2 * np.tanh(uncapped / 2), rtol=1e-5)
  assert np.abs(logits).max() < 2 < np.abs(uncapped).max()


@pytest.mark.parametrize("scan", [False, True])
def test_a_cache_gives_the_same_numbers(scan):
  """The first tokens at once, each other one alone."""
  length, size, first = 8, 10, 4
  model, params = random(scan=scan, **SECOND, sliding_window=3)
  want = plain(model, params, tokens(length))
  mask = np.pad(np.tri(length, dtype=bool), ((0, 0), (0, size - length)))

  @jax.jit
  def step(cache, ids, positions, mask):
    (logits, _), new = model.apply(
      {"params": params, **cache}, ids, positions=positions, mask=mask,
      decode=True, mutable="cache",
    )  # fmt: skip
    return logits, new

  cache, got = {}, []
  for i, j in [(0, first)] + [(i, i + 1) for i in range(first, length)]:
    logits, cache = step(
      cache,
      tokens(length)[:, i:j],
      np.arange(i, j)[None],
      np.broadcast_to(mask[i:j], (B, j - i, size)),
    )
    got.append(logits)
  np.testing.assert_allclose(np.concatenate(got, 1), want, rtol=1e-4, atol=1e-4)
  layers = cache["cache"]["layers"]
  counts = layers["attn"] if scan else layers["0"]["attn"]
  np.testing.assert_array_equal(counts["idx"], 8)


@pytest.mark.parametrize("dtype", ["bfloat16", None])
def test_dtype_of_the_cache(dtype):
  model, params = shapes(cache_dtype=dtype)
  run = lambda params: model.apply(
    {"params": params}, tokens(), positions=np.arange(5)[None],
    mask=np.ones((B, 5, 5), bool), decode=True, mutable="cache",
  )  # fmt: skip
  _, state = jax.eval_shape(run, params)
  found = state["cache"]["layers"]["0"]["attn"]["k_cache"].dtype
  assert found == (dtype or "float32")


def trained(train=True, **kw):
  """`parameters -> a number` that depends on all logits."""
  model, params = random(dropout=0.5, **kw)

  def run(params):
    logits, _ = model.apply(
      {"params": params},
      tokens(),
      deterministic=not train,
      rngs={"dropout": jax.random.key(1)},
    )
    return jnp.mean(jnp.sin(logits))

  return run, params


def test_rematerialization_changes_no_number():
  """Nor which numbers dropout takes away."""

  def compute(**kw):
    run, params = trained(scan=True, **kw)
    return jax.jit(jax.value_and_grad(run))(params)

  want = compute()
  assert all(np.abs(x).max() > 1e-6 for x in jax.tree.leaves(want))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, compute(**REMAT), want)


def test_dropout():
  values = []
  for kw in ({}, dict(remat_policy="dots_saveable"), dict(train=False)):
    run, params = trained(depth=1, **kw)
    values.append(jax.jit(run)(params))
  assert values[1] == pytest.approx(float(values[0]), abs=1e-6)
  assert abs(values[2] - values[0]) > 1e-3


@pytest.mark.parametrize("bdims, equal", [((1,), True), ((), False)])
def test_dropout_along_axes(bdims, equal):
  """The same for all tokens: with the same tokens, all logits are equal."""
  model, params = random(dropout=0.5, dropout_bdims=bdims, depth=1)
  logits, _ = apply(
    model,
    params,
    np.full((B, 5), 3),
    positions=np.zeros((1, 5), int),
    rngs={"dropout": jax.random.key(1)},
    deterministic=False,
  )
  assert np.allclose(logits, logits[:, :1], atol=1e-5) == equal


def test_bfloat16():
  kw = SECOND | SCAN | dict(num_kv_heads=2)
  model, params = random(**kw)
  want = plain(model, params, tokens())
  model, params = random(**kw, dtype_mm="bfloat16")
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
  got, out = apply(model, params, tokens())
  assert got.dtype == jnp.float32 and out["encoded"].dtype == jnp.bfloat16
  assert 1e-4 < np.abs(got - want).mean() < 0.02 * np.abs(want).mean()
  other = model.clone(dtype_mm=None, embed_dtype="bfloat16")
  run = lambda p: other.apply({"params": p}, tokens())
  assert jax.eval_shape(run, params)[1]["encoded"].dtype == jnp.bfloat16


def test_errors():
  model, params = shapes()
  run = lambda *args, state={}, **kw: jax.eval_shape(
    lambda p, cache: model.apply({"params": p, **cache}, *args, **kw),
    params,
    state,
  )
  with pytest.raises(ValueError, match="neither tokens nor `embedded_prefix`"):
    run(None)
  with pytest.raises(ValueError, match="needs `positions` and `mask`"):
    run(tokens(), decode=True, positions=np.arange(5)[None], mutable="cache")
  with pytest.raises(ValueError, match=r"\(2, 1, 5, 4\), not \[2, 1, 5, at"):
    run(tokens(), mask=np.ones((B, 5, 4), bool))
  with pytest.raises(ValueError, match=r"\(2, 1, 5, 7\).*\(2, 1, 5, 5\)"):
    run(tokens(), mask=np.ones((B, 5, 7), bool))
  kw = dict(decode=True, positions=np.arange(5)[None], mutable="cache")
  kw["mask"] = np.ones((B, 5, 5), bool)
  _, state = run(tokens(), **kw)
  with pytest.raises(ValueError, match="5 tokens for a cache.*one by one"):
    run(tokens(), state=state, **kw)
  for kw, match in (
    (dict(query_pre_attn_norm="rsqrt"), "query_pre_attn_norm.*rsqrt_head_dim"),
    (dict(dtype_mm="bfloat61"), "bfloat61.*bfloat16"),
    (dict(remat_policy="all"), "remat_policy"),
  ):
    with pytest.raises(ValueError, match=match):
      shapes(**kw)


@pytest.mark.parametrize("variant", ["gemma_2b", "gemma2_2b"])
def test_windows_of_variants(variant):
  window = 4096 if variant == "gemma2_2b" else 0
  assert gemma.Model(**TINY | dict(variant=variant)).window == window
  model = gemma.Model(**TINY | dict(variant=variant), sliding_window=7)
  assert model.window == 7


def loaded(params):
  return common.Loaded(params, "somewhere")


def same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("scan", [False, True])
def test_load_restacks(scan):
  _, params = random(scan=scan, depth=3)
  _, init = shapes(scan=not scan, depth=3)
  got = gemma.load(init, loaded(params))
  assert {k: x.shape for k, x in named(got).items()} == {
    k: x.shape for k, x in named(init).items()
  }
  for a, b in zip(layers_of(got), layers_of(params), strict=True):
    same(a, b)
  same(gemma.load(params, loaded(got)), params)
  same(gemma.load(None, loaded(params)), params)


@pytest.mark.parametrize("cfg", [None, dict(vocab_size=2000)])
def test_load_adds_rows_for_new_tokens(cfg):
  """The same ones in all runs and processes."""
  _, params = random()
  init = shapes(vocab_size=2000)[1]
  got = gemma.load(init, loaded(params), cfg)
  same(gemma.load(init, loaded(params), cfg), got)
  table = got["embedder"]["input_embedding"]
  old = params["embedder"]["input_embedding"]
  assert table.shape == (2000, D) and table.dtype == old.dtype
  np.testing.assert_array_equal(table[:V], old)
  np.testing.assert_allclose(table[V:].std(), 0.02, rtol=0.02)
  assert abs(table[V:].mean()) < 0.001
  assert len(np.unique(table[V:])) > 0.99 * table[V:].size
  same(got["layers"], params["layers"])


def test_load_keeps_the_dtype_of_rows():
  _, params = random()
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  got = gemma.load(None, loaded(half), dict(vocab_size=V + 3))
  assert got["embedder"]["input_embedding"].shape == (V + 3, D)
  assert got["embedder"]["input_embedding"].dtype == jnp.bfloat16


@pytest.mark.parametrize("cfg", [None, dict(vocab_size=10)])
def test_load_removes_no_tokens(cfg):
  _, params = random()
  init = shapes(vocab_size=10)[1]
  with pytest.raises(ConfigError, match="vocab_size = 10 .*20.*somewhere"):
    gemma.load(init, loaded(params), cfg)


def test_load_leaves_parameters_out():
  _, params = random(**SCAN)
  _, init = initial(**SCAN)
  got = gemma.load(init, loaded(params), dont_load=["final_norm/.*"])
  same(got["final_norm"], init["final_norm"])
  same(got["layers"], params["layers"])
  with pytest.raises(ValueError, match="post_ffw_norm"):
    gemma.load(shapes(**SCAN, post_norms=True)[1], loaded(params))


def published(params, swap):
  """The layout of Google's first release."""
  layers = {}
  for i, block in enumerate(layers_of(params)):
    gating = block["mlp"]["gating_einsum"]
    mlp = {
      "gating_einsum": {"w": np.swapaxes(gating, 1, 2) if swap else gating},
      "linear": {"w": block["mlp"]["linear"]},
    }
    layers[f"layer_{i}"] = {**block, "mlp": mlp}
  rest = {k: v for k, v in params.items() if k != "layers"}
  return {"transformer": {**layers, **rest}}


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_load_what_is_published(scan, swap, tmp_path):
  """Twelve layers: their numbers are no order of names."""
  _, params = random(scan=scan, depth=12)
  same(gemma.load(params, loaded(published(params, swap))), params)
  flat = named(published(params, swap))
  np.savez(tmp_path / "it.npz", **flat)
  same(gemma.load(params, str(tmp_path / "it.npz")), params)


def test_load_removes_the_padding_of_what_is_published():
  params = random(depth=1, width=2)[1]
  table = np.random.default_rng(0).random((256_128, 2), np.float32)
  params = {**params, "embedder": {"input_embedding": table}}
  got = gemma.load(None, loaded(published(params, False)))
  found = got["embedder"]["input_embedding"]
  np.testing.assert_array_equal(found, table[:256_000])
