"""Adapters: initial values, products, and what a config may ask for."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from big_vision import lookup, lora, trees

# Name of a kernel, its shape, and that of the matrices: (front, I, O).
KERNELS = {
  "b/query/kernel": ((6, 2, 3), ((), 6, 6)),
  "b/out/kernel": ((2, 3, 5), ((), 6, 5)),
  "b/MlpBlock_0/Dense_0/kernel": ((6, 8), ((), 6, 8)),
  "s/key/kernel": ((4, 6, 2, 3), ((4,), 6, 6)),
  "s/out/kernel": ((4, 2, 3, 6), ((4,), 6, 6)),
  "s/MlpBlock_0/Dense_1/kernel": ((4, 8, 6), ((4,), 8, 6)),
  "conv/kernel": ((3, 3, 2, 7), ((), 18, 7)),
}


def settings(**kw):
  return lora.settings(ml_collections.ConfigDict(dict(lora=kw)))


def random(seed, shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_matrices(name):
  shape, want = KERNELS[name]
  assert lora.matrix(name, shape)[:3] == want
  front, num_in, num_out = want
  params = lora.init(jax.random.PRNGKey(0), name, shape, 64)
  a, b = params.values()
  folder = name.removesuffix("kernel")
  assert list(params) == [f"{folder}lora_a", f"{folder}lora_b"]
  assert a.shape == (*front, num_in, 64) and b.shape == (*front, 64, num_out)
  assert not np.any(b)
  bound = 1 / np.sqrt(num_in)  # Kaiming's with gain sqrt(2 / (1 + 5)).
  assert 0.95 * bound < np.abs(a).max() <= bound
  np.testing.assert_allclose(np.std(a), bound / np.sqrt(3), rtol=0.1)


@pytest.mark.parametrize("name", KERNELS)
def test_merged_is_unmerged(name):
  """x W + alpha / rank * (x A) B, computed in float64."""
  shape, (front, num_in, num_out) = KERNELS[name]
  folder = name.removesuffix("/kernel")
  w = random(0, shape)
  a, b = random(1, (*front, num_in, 3)), random(2, (*front, 3, num_out))
  base = trees.tree_unflatten([(name, w), ("norm/scale", np.ones(2))])
  trained = trees.tree_unflatten(
    [
      (f"{folder}/lora_a", a),
      (f"{folder}/lora_b", b),
      ("head/bias", np.ones(3)),
    ]
  )
  scale = settings(rank=3, alpha=6).scale
  got = lora.merge(base, trained, scale)
  named = dict(trees.tree_flatten_with_names(got)[0])
  assert set(named) == {name, "norm/scale", "head/bias"}
  x = random(3, (*front, 5, num_in)).astype(np.float64)
  flat = w.reshape(*front, num_in, num_out).astype(np.float64)
  want = x @ flat + 2.0 * (x @ a) @ b
  kernel = np.asarray(named[name]).reshape(*front, num_in, num_out)
  np.testing.assert_allclose(x @ kernel, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("name", "shape", "delta"),
  [
    ("llm/layers/attn/q_einsum/w", (3, 4, 6, 5), "ldr,lrnh->lndh"),
    ("llm/layers/0/attn/q_einsum/w", (4, 6, 5), "dr,rnh->ndh"),
    ("llm/layers/attn/kv_einsum/w", (3, 2, 1, 6, 5), "lcdr,lcrkh->lckdh"),
    ("attn/qkv_einsum/w", (3, 4, 6, 5), "cdr,crnh->cndh"),
    ("layers/attn/attn_vec_einsum/w", (3, 4, 5, 6), "lnhr,lrd->lnhd"),
    ("layers/mlp/gating_einsum", (3, 2, 6, 7), "lgdr,lgrf->lgdf"),
    ("layers/0/mlp/linear", (7, 6), "fr,rd->fd"),
  ],
)
def test_kernels_of_gemma(name, shape, delta):
  """Their axes are not in the order of matrices."""
  left, _, _ = delta.partition(",")
  right = delta.partition(",")[2].partition("->")[0]
  sizes = dict(zip(delta.partition("->")[2], shape, strict=True)) | {"r": 2}
  a = random(1, [sizes[c] for c in left])
  b = random(2, [sizes[c] for c in right])
  params = lora.init(jax.random.PRNGKey(0), name, shape, 2)
  # B is drawn in the layout of matrices, whose outputs are one axis.
  shape_a, shape_b = (x.shape for x in params.values())
  assert lora.find({name: jnp.zeros(shape)}, ["attention", "mlp"]) == [name]
  assert all(map(lora.is_adapter, params))
  trained = dict(
    zip(params, (a.reshape(shape_a), b.reshape(shape_b)), strict=True)
  )
  w = random(0, shape)
  got = lora.merge(
    trees.tree_unflatten([(name, w)]),
    trees.tree_unflatten(trained.items()),
    0.5,
  )
  ((_, kernel),) = trees.tree_flatten_with_names(got)[0]
  want = w + 0.5 * np.einsum(delta, a, b)
  np.testing.assert_allclose(kernel, want, rtol=1e-5, atol=1e-5)


def test_dtype_of_the_base_stays():
  base = {"kernel": jnp.ones((2, 2), jnp.bfloat16)}
  trained = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 2))}
  kernel = lora.merge(base, trained, 0.5)["kernel"]
  assert kernel.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.float32(kernel), 1.5)


def test_targets():
  shapes = {n: np.zeros(s) for n, (s, _) in KERNELS.items()}
  shapes |= {"head/kernel": np.zeros((6, 3)), "b/query/bias": np.zeros((2, 3))}
  find = lambda *targets: set(lora.find(shapes, targets))
  mlp = {"b/MlpBlock_0/Dense_0/kernel", "s/MlpBlock_0/Dense_1/kernel"}
  assert find("mlp") == mlp
  assert find("attention", "mlp") == set(shapes) - {
    "conv/kernel", "head/kernel", "b/query/bias",
  }  # fmt: skip
  assert find("query", "conv/.*") == {"b/query/kernel", "conv/kernel"}


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(alpha=8), "config.lora.rank = None"),
    (dict(rank=0), "config.lora.rank = 0 must be a positive int"),
    (dict(rank=2.5), "config.lora.rank = 2.5"),
    (dict(rank=2, alpha=-1), "config.lora.alpha = -1"),
    (
      dict(rank=2, target="mlp"),
      "config.lora.target is not a known key.*targets",
    ),
    (dict(rank=2, targets=3), "config.lora.targets = 3 must be a list"),
    (
      dict(rank=2, targets=["(a"]),
      "config.lora.targets: .* regular expression",
    ),
  ],
)
def test_bad_settings(kw, message):
  with pytest.raises(ValueError, match=message) as e:
    settings(**kw)
  assert "\n" not in str(e.value)


def test_bad_targets():
  with pytest.raises(
    lookup.ConfigError, match="config.lora = 8 must be a dict"
  ):
    lora.settings(ml_collections.ConfigDict(dict(lora=8)))
  shapes = {"head/kernel": np.zeros((6, 3)), "x/conv/kernel": np.zeros((3, 6))}
  for targets, message in [
    (["mlp"], "no such kernels"),
    (["x/conf/kernel"], "no parameter.*'x/conv/kernel'"),
    (["head/.*"], "without the head"),
  ]:
    with pytest.raises(lookup.ConfigError, match=message):
      lora.find(shapes, targets)


def test_fingerprint():
  x = random(0, (300, 300))
  prints = lora.fingerprint({"a": {"x": x}})
  rms, wave = prints["a/x"]
  np.testing.assert_allclose(rms, np.sqrt(np.mean(np.square(x))), rtol=1e-6)
  flat = x.reshape(-1)
  at = np.arange(flat.size)
  want = np.sum(flat * np.cos(at % 65536) * np.cos(at // 65536)) / 300
  np.testing.assert_allclose(wave, want, rtol=1e-5)
  lora.check_same(prints, {"a": {"x": x * (1 + 1e-7)}}, "it")
  for other in (x * 1.001, x[::-1], random(1, x.shape)):
    with pytest.raises(lookup.ConfigError, match="it is not what .* a/x of 1"):
      lora.check_same(prints, {"a": {"x": other}}, "it")
