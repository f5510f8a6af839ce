"""Muon: singular values of updates, Adam for the rest, sharding, checkpoints."""

import functools

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import optax
import pytest

from big_vision import lookup, muon, sharding, trees
from big_vision import optax as bv_optax
from big_vision.models import bit, mlp_mixer, nfnet, vit
from big_vision.models.proj.flaxformer import bert
from big_vision.models.proj.image_text import captioner, two_towers

pytestmark = pytest.mark.usefixtures("quick_compilation")
IMAGE, TEXT = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 4), jnp.int32)
VIT = dict(
  patch_size=(4, 4), width=24, depth=2, mlp_dim=48, num_heads=3, rep_size=True
)


def shapes(model, *args):
  tree = jax.eval_shape(lambda: model.init(jax.random.PRNGKey(0), *args))
  return tree["params"]


def draw(seed, tree):
  r = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(r.normal(size=x.shape), "f4"), tree)


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def make(tree, lr=1.0, schedule=None, **kw):
  """The chain of a config, which applies minus the update."""
  config = dict(optax_name="big_vision.muon", optax=kw, lr=lr)
  config = mlc.ConfigDict(config | ({"schedule": schedule} if schedule else {}))
  return bv_optax.make(config, tree, sched_kw=dict(total_steps=9))[0]


def updates(tree, steps=2, **kw):
  """Gradients and updates (with the sign of gradients) of the last step."""
  tx = make(tree, **kw)
  params = draw(0, tree)
  state, update = tx.init(params), jax.jit(tx.update)
  for step in range(steps):
    grads = draw(1 + step, tree)
    got, state = update(grads, state, params)
  return grads, jax.tree.map(lambda u: -np.asarray(u), got), state


@functools.cache
def of_vit(scan, steps=2):
  tree = shapes(vit.Model(10, **VIT, pool_type="map", scan=scan), IMAGE)
  return tree, updates(tree, steps=steps)


def newton_schulz(s):
  """What five iterations make of singular values."""
  for _ in range(5):
    s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
  return s


def matrices(name, x, scan):
  """The matrices of a kernel by the layout of Flax, written out once more."""
  x = x if scan and "encoderblock" in name else x[None]
  if "DotProduct" in name:
    axes = 2 if name.endswith("out/kernel") else 1
  else:
    axes = x.ndim - 2  # Patches: all but the last axis.
  return x.reshape(x.shape[0], np.prod(x.shape[1 : 1 + axes]), -1)


@pytest.mark.parametrize("scan", [False, True])
def test_singular_values_of_every_kernel(scan):
  _, (grads, got, _) = of_vit(scan, steps=1)
  grads, kernels = named(grads), []
  for name, x in named(got).items():
    if not name.endswith("kernel") or name == "head/kernel":
      continue
    kernels.append(name)
    for u, g in zip(
      matrices(name, x, scan), matrices(name, grads[name], scan), strict=True
    ):
      rows, columns = u.shape
      u = u / max(1, columns / rows) ** 0.5
      got = np.linalg.svd(u, compute_uv=False)
      s = np.linalg.svd(g, compute_uv=False) / np.linalg.norm(g)
      want = np.sort(newton_schulz(s))[::-1]
      np.testing.assert_allclose(got, want, atol=1e-3, err_msg=name)
      # A random square matrix has values that are too near to zero.
      assert got[0] < 1.25 and np.sum(got > 0.65) >= len(got) - 2, (name, got)
      assert (u * g).sum() > 0.6 * np.linalg.norm(g, "nuc"), name
  assert len(kernels) == 2 + 6 + 6 * (1 if scan else 2)


@pytest.mark.parametrize("scan", [False, True])
def test_the_rest_is_updated_by_adam(scan):
  tree, (_, got, _) = of_vit(scan)
  tx = optax.scale_by_adam()
  params, update = draw(0, tree), jax.jit(tx.update)
  state = tx.init(params)
  for step in range(2):
    want, state = update(draw(1 + step, tree), state)
  got, want = named(got), named(want)
  rest = [n for n in got if n == "head/kernel" or not n.endswith("kernel")]
  assert {"head/kernel", "pos_embedding", "MAPHead_0/probe"} < set(rest)
  for name in rest:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_consistent_rms_is_that_of_adam():
  tree, (_, base, _) = of_vit(scan=False)
  _, got, _ = updates(tree, consistent_rms=0.2)
  base = named(base)
  for name, x in named(got).items():
    if name.endswith("kernel") and name != "head/kernel":
      np.testing.assert_allclose(np.sqrt(np.mean(x**2)), 0.2, rtol=0.25)
      ratio = x / base[name]
      np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-4)
    else:
      np.testing.assert_array_equal(x, base[name])


def test_against_newton_schulz_in_numpy():
  tree = {"a": {"kernel": jax.ShapeDtypeStruct((6, 15), "f4")}}
  params = draw(0, tree)
  tx = make(tree)
  state, m = tx.init(params), 0.0
  for t in (1, 2, 3):
    g = draw(t, tree)
    got, state = tx.update(g, state, params)
    g = np.asarray(g["a"]["kernel"], np.float64)
    m = 0.95 * m + 0.05 * g
    x = 0.95 * m / (1 - 0.95 ** (t + 1)) + 0.05 * g / (1 - 0.95**t)
    x /= np.linalg.norm(x)
    for _ in range(5):
      a = x @ x.T
      x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    want = -np.sqrt(15 / 6) * x
    np.testing.assert_allclose(got["a"]["kernel"], want, rtol=1e-3, atol=1e-4)


@pytest.mark.multidevice
def test_sharded():
  tree, (_, want, _) = of_vit(scan=True)
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("data",))
  strategy = [(".*", 'fsdp(axis="data", min_size_to_shard_mb=0)')]
  place = lambda x: jax.device_put(
    x, sharding.infer_sharding(x, strategy=strategy, mesh=mesh)
  )
  tx = make(tree)
  params = place(draw(0, tree))
  state, update = place(tx.init(params)), jax.jit(tx.update)
  for step in range(2):
    got, state = update(place(draw(1 + step, tree)), state, params)
  momentum = [
    x for n, x in named(state).items() if "/muon/" in n and x.ndim > 1
  ]
  assert not any(x.is_fully_replicated for x in momentum)
  for name, x in named(got).items():
    np.testing.assert_allclose(
      -np.asarray(x), named(want)[name], rtol=2e-3, atol=2e-4, err_msg=name
    )


def test_frozen_and_names_of_the_state():
  tree = {k: {"kernel": jnp.zeros((4, 6))} for k in ("a", "b", "head")}
  tx = make(tree, schedule=[("b/.*", None), (".*", {})])
  state = jax.eval_shape(tx.init, tree)
  assert [n for n in named(state) if "kernel" in n] == [
    "1/0/0/adam/0/1/head/kernel",
    "1/0/0/adam/0/2/head/kernel",
    "1/0/0/muon/0/0/1/a/kernel",
  ]
  grads = jax.tree.map(jnp.ones_like, tree)
  got, _ = tx.update(grads, tx.init(tree), tree)
  assert not got["b"]["kernel"].any() and got["a"]["kernel"].any()


@pytest.mark.parametrize(
  "tree, want",
  [
    (lambda: shapes(bit.Model(5, depth=26), IMAGE), {
      "conv_root/kernel": "iiio", "block1/unit1/conv1/kernel": "iiio",
      "head/kernel": None}),
    (lambda: shapes(nfnet.Model(5, variant="F0"), IMAGE), {
      "stem/conv1/kernel": "iiio", "stage1/block1/se/Dense_0/kernel": "io",
      "stage1/block1/conv1/bias": None, "head/kernel": None}),
    (lambda: shapes(mlp_mixer.Model(5, variant="S/16"), IMAGE), {
      "stem/kernel": "iiio", "MixerBlock_0/token_mixing/Dense_0/kernel": "io"}),
    (lambda: shapes(bert.Model(config="base", num_classes=7), TEXT), {
      "BertEncoder_0/embedder/embedders_token_ids/embedding": None,
      "BertEncoder_0/encoder_block/layer_sequence/layers_0/attention_block/"
      "attention_layer/query/kernel": "io"}),
    (lambda: shapes(captioner.Model(9, variant="mu"), jnp.zeros((1, 4, 32)), TEXT,
                    TEXT), {
      "embedding/embedding": None, "logits/kernel": None,
      "pos_embedding": None}),
    (lambda: shapes(two_towers.Model(
      out_dim=(None, 8), image=dict(variant="mu/16", pool_type="map"),
      text=dict(variant="mu", vocab_size=9, scan=True)), IMAGE, TEXT), {
      "txt/Embed_0/embedding": None, "txt/head/kernel": None,
      "txt/Encoder_0/encoderblock/MlpBlock_0/Dense_0/kernel": "bio",
      "txt/Encoder_0/encoderblock/MlpBlock_0/Dense_0/bias": None,
      "txt/Encoder_0/encoderblock/MultiHeadDotProductAttention_0/out/kernel":
        "biio",
      "txt/Encoder_0/encoderblock/MultiHeadDotProductAttention_0/key/kernel":
        "bioo",
      "txt/Encoder_0/encoderblock/MultiHeadDotProductAttention_0/key/bias":
        None}),
  ],
)  # fmt: skip
def test_axes_of_the_models(tree, want):
  found = {n: muon.axes_of(n, x.ndim) for n, x in named(tree()).items()}
  assert {k: found[k] for k in want} == want
  # Other than heads, no kernel is left to Adam.
  left = [n for n, axes in found.items() if n.endswith("kernel") and not axes]
  assert set(left) <= {"head/kernel", "txt/head/kernel", "logits/kernel"}


def test_rules_of_the_user():
  tree = {"x": {"w": jnp.zeros((2, 3, 4))}, "y": {"kernel": jnp.zeros((3, 3))}}
  rules = [("x/w", "boi"), (".*/kernel", None)]
  _, got, state = updates(tree, rules=rules)
  s = np.linalg.svd(got["x"]["w"], compute_uv=False)
  assert 0.65 < s.min() and s.max() < 1.25
  held = [n for n in named(state) if "/muon/" in n and named(state)[n].ndim > 1]
  assert [n.partition("/muon/0/0/1/")[2] for n in held] == ["x/w"]


def test_groups_are_matrices_of_their_own():
  """Outputs of a grouped convolution see the inputs of their group only."""
  tree = {
    "stage1": {
      "block1": {
        "conv2": {"kernel": jnp.zeros((3, 3, 4, 12))},
        # As many as there may be, but no groups.
        "conv3": {"kernel": jnp.zeros((3, 3, 4, 6))},
      }
    },
    "my": {"w": jnp.zeros((2, 3, 9))},
  }
  rules = [("my/w", "iig")]
  _, got, state = updates(tree, rules=rules)
  got = {k: np.asarray(v) for k, v in named(got).items()}
  conv = got["stage1/block1/conv2/kernel"].reshape(36, 3, 4).swapaxes(0, 1)
  my = got["my/w"].reshape(6, 3, 3).swapaxes(0, 1)
  whole = got["stage1/block1/conv3/kernel"].reshape(1, 36, 6)
  for matrices in (conv, my, whole):
    s = np.linalg.svd(matrices, compute_uv=False)
    assert 0.65 < s.min() and s.max() < 1.25
  # As if each group were a kernel of its own.
  alone = {f"k{i}": {"kernel": jnp.zeros((3, 3, 4, 4))} for i in range(3)}
  tx, split = make(alone), lambda x: np.split(np.asarray(x), 3, axis=-1)
  params = draw(0, alone)
  held = tx.init(params)
  for step in range(2):
    x = draw(1 + step, tree)["stage1"]["block1"]["conv2"]["kernel"]
    grads = {f"k{i}": {"kernel": part} for i, part in enumerate(split(x))}
    want, held = tx.update(grads, held, params)
  for i, part in enumerate(split(got["stage1/block1/conv2/kernel"])):
    np.testing.assert_allclose(
      part, -want[f"k{i}"]["kernel"], rtol=1e-3, atol=1e-4
    )


def test_rules_without_effect():
  tree = {"block": {"kernel": jnp.zeros((3, 3))}, "bias": jnp.zeros(3)}
  for rules, message in (
    ([("blok/kernel", None)], "'blok/kernel' matches .* no parameter.*'block/"),
    ([("block/kernel", "ioo")], "'ioo' .* 3 letters, but block/kernel has 2"),
  ):
    with pytest.raises(lookup.ConfigError, match=message) as e:
      make(tree, rules=rules)
    assert "\n" not in str(e.value)
  make(tree, rules=[("block/kernel", "oi"), (".*", None)])
  make(tree, rules=[("bias", None)], schedule=[("bias", None), (".*", {})])


@pytest.mark.parametrize(
  "rules, message",
  [
    ([("x/w", "gi")], "'gi'"),
    ([("x/w", "ix")], "config.optax.rules: 'ix' for 'x/w'"),
    ([("x/w", "ioi")], "'ioi'"),
    ([("x/w", 2)], "2 for 'x/w'"),
    ("x/w", "list of pairs"),
  ],
)
def test_errors_of_rules(rules, message):
  with pytest.raises(lookup.ConfigError, match=message):
    make({"x": jnp.zeros((2, 2))}, rules=rules)


def test_negative_size():
  with pytest.raises(lookup.ConfigError, match="optax.consistent_rms = -0.2"):
    make({"x": jnp.zeros((2, 2))}, consistent_rms=-0.2)


def test_arguments_of_adam():
  """A config for Adam needs another name only."""
  tree = {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}
  _, got, _ = updates(tree, b1=0.8, b2=0.9, eps=1e-3)
  tx = optax.scale_by_adam(b1=0.8, b2=0.9, eps=1e-3)
  state = tx.init(tree)
  for step in (1, 2):
    want, state = tx.update(draw(step, tree), state)
  np.testing.assert_allclose(got["bias"], want["bias"], rtol=1e-6)
