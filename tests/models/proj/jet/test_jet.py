"""Jet: its inverse, its determinants, its permutations, stored numbers."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import lookup, models, trees
from big_vision.checkpoints import save_checkpoint
from big_vision.models.proj.jet import jet

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = dict(block_depth=1, emb_dim=8, num_heads=2, ps=2)
CHANNELS = dict(depth=2, kinds=("channels",), scale_factor=1.5)
BOTH = dict(depth=3, kinds=("channels", "spatial"))


def draw(model, *args):
  """Parameters that are not the identity; permutations are the initial ones."""
  key, rng = jax.random.key(0), np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, key, *args)["params"]
  random = lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32)
  params = {"couplings": jax.tree.map(random, shapes["couplings"])}
  where = model.depth, args[0].shape[1:], model.ps
  _, channels, spatial = model.bind({})._layers()
  for name, init, names in (
    (jet.MASKS[0], jet.get_channels_coupling_init, channels),
    (jet.MASKS[1], jet.get_spatial_coupling_init, spatial),
  ):
    params[name] = init(*where, names)(key, jnp.float32)
  return params


def make(shape=(2, 4, 6, 2), context=None, **kw):
  """(model, variables, images)."""
  model = jet.Model(**TINY | kw)
  x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  return model, {"params": draw(model, x, context)}, x


@pytest.mark.parametrize(
  "kw", [dict(BOTH), dict(CHANNELS, shape=(2, 2, 6, 2))], ids=["both", "one"]
)
def test_inverse_and_determinant(kw):
  """The Jacobian is computed from its columns.

  Images are not square. Three patches have no halves, but their channels do.
  """
  model, variables, x = make(**kw)

  @jax.jit
  def run(x):
    z, logdet = model.apply(variables, x)
    return z, logdet, model.apply(variables, z, method="inverse")

  z, logdet, (back, inverse_logdet) = run(x)
  assert z.shape == x.shape and logdet.shape == (2,)
  assert np.abs(z - x).max() > 0.1
  np.testing.assert_allclose(back, x, atol=1e-4)
  np.testing.assert_allclose(inverse_logdet, -logdet, rtol=1e-4)

  flat = lambda x: model.apply(variables, x.reshape(1, *z.shape[1:]))[0].ravel()
  jacobian = jax.jit(jax.jacfwd(flat))(jnp.ravel(x[1]))
  sign, want = np.linalg.slogdet(np.asarray(jacobian, np.float64))
  assert sign == 1
  assert logdet[1] == pytest.approx(want, rel=1e-4)


def test_identity_at_first():
  model, _, x = make(**CHANNELS | dict(scale_factor=2))

  @jax.jit
  def run(x):
    v = model.init(jax.random.key(0), x)
    return model.apply(v, x), model.apply(v, x, method="inverse")

  for y, logdet in run(x):
    np.testing.assert_array_equal(y, x)
    np.testing.assert_allclose(logdet, 0, atol=1e-4)


def test_stored_numbers():
  model = jet.Model(depth=4, block_depth=1, emb_dim=16, num_heads=2, ps=2)
  x = np.sin(0.01 * np.arange(2 * 8 * 8 * 3)).astype(np.float32)
  x = x.reshape(2, 8, 8, 3)
  params = jax.jit(model.init)(jax.random.PRNGKey(0), x)["params"]
  leaves = jax.tree.leaves(params)
  assert sum(x.size for x in leaves) == 17136
  assert sum(np.abs(x).sum() for x in leaves) == pytest.approx(
    2580.28, rel=1e-5
  )
  mask = params["channel_coupling_masks-FREEZE_ME"][0]
  assert np.argmax(mask, axis=0)[:3].tolist() == [10, 1, 9]

  wave = lambda x: 0.05 * np.sin(np.arange(x.size)).reshape(x.shape)
  params["couplings"] = jax.tree.map(
    lambda x: x + wave(x).astype(np.float32), params["couplings"]
  )
  y, logdet = jax.jit(model.apply)({"params": params}, x)
  assert np.abs(y).mean() == pytest.approx(0.611051, rel=1e-5)
  np.testing.assert_allclose(y.ravel()[:2], [-0.174, 0.011244], rtol=1e-4)
  np.testing.assert_allclose(logdet, [0.20875, -0.37001], rtol=1e-4)


def test_parameters():
  kw = dict(depth=4, block_depth=2, emb_dim=16, num_heads=2, ps=2)
  model = jet.Model(**kw, kinds=("channels", "spatial"))
  x, context = np.zeros((1, 8, 8, 3)), np.zeros((1, 5, 7))
  shapes = lambda *args: jax.tree.map(
    jnp.shape, jax.eval_shape(model.init, jax.random.key(0), *args)["params"],
  )  # fmt: skip
  leaves = lambda tree: flax.traverse_util.flatten_dict(tree, sep="/")
  found = leaves(shapes(x))
  assert sum(map(np.prod, found.values())) == 30256
  assert found["channel_coupling_masks-FREEZE_ME"] == (4, 12, 12)
  assert found["spatial_coupling_masks-FREEZE_ME"] == (4, 16, 16)
  assert found["couplings/dnn/posemb"] == (4, 1, 16, 16)
  assert found["couplings/dnn/final_proj/kernel"] == (4, 16, 12)
  more = leaves(shapes(x, context))
  head = "couplings/dnn/MultiHeadDotProductAttention_0/"
  assert {k for k in more.keys() - found.keys()} == {
    f"{head}{name}/{part}"
    for name in ("query", "key", "value", "out")
    for part in ("kernel", "bias")
  }
  assert more[f"{head}key/kernel"] == (4, 7, 2, 8)


def test_conditional():
  context = np.eye(2, 5, dtype=np.float32)[:, None]
  model, variables, x = make(context=context, **CHANNELS)

  @jax.jit
  def run(context):
    z, _ = model.apply(variables, x, context)
    return z, model.apply(variables, z, context, method="inverse")[0]

  z, back = run(context)
  assert np.abs(z - run(context[::-1])[0]).max() > 1e-3
  np.testing.assert_allclose(back, x, atol=1e-4)


def test_one_kind_alone_is_the_same_layer():
  """A kind that is known when compiling, and one that is not."""
  coupling = jet.Coupling(emb_dim=8, num_heads=2)
  r = np.random.default_rng(0)
  x = r.normal(size=(2, 4, 6)).astype(np.float32)
  projs = (np.eye(6)[r.permutation(6)], np.eye(4)[r.permutation(4)])

  @jax.jit
  def run(traced):
    v = coupling.init(jax.random.key(0), x, 0, *projs, method="forward")
    v = jax.tree.map(lambda x: x + 0.1, v)
    apply = lambda kind: [
      coupling.apply(v, x, kind, *projs, method=m)
      for m in ("forward", "inverse")
    ]
    return apply(0), apply(traced)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    *run(jnp.int32(0)),
  )


def test_channel_permutations():
  names = ["random", "zero", "random"]
  init = jet.get_channels_coupling_init(3, (4, 4, 3), 2, names)
  masks = np.asarray(init(jax.random.PRNGKey(3), jnp.float32))
  assert masks.shape == (3, 12, 12)
  assert not masks[1].any()
  for i in (0, 2):
    key = jax.random.fold_in(jax.random.PRNGKey(3), i)
    order = jax.random.permutation(key, 12)
    np.testing.assert_array_equal(np.argmax(masks[i], axis=0), order)
    np.testing.assert_array_equal(masks[i] @ masks[i].T, np.eye(12))


def test_spatial_permutations():
  orders = {
    "checkerboard": [0, 2, 5, 7, 8, 10, 13, 15, 1, 3, 4, 6, 9, 11, 12, 14],
    "vstripes": [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15],
    "hstripes": [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15],
  }
  orders |= {f"{k}-inv": v[8:] + v[:8] for k, v in orders.items()}
  init = jet.get_spatial_coupling_init(
    7, (8, 8, 3), 2, [*orders, "zero"]
  )  # fmt: skip
  masks = np.asarray(init(jax.random.PRNGKey(0), jnp.float32))
  assert not masks[-1].any()
  for mask, order in zip(masks[:-1], orders.values(), strict=True):
    assert mask.sum() == 16
    np.testing.assert_array_equal(np.argmax(mask, axis=0), order)


def test_layers_take_turns():
  names = ("checkerboard", "vstripes", "hstripes")
  kinds = ("channels", "spatial", "spatial")
  model = jet.Model(depth=6, kinds=kinds, spatial_coupling_projs=names)
  kinds, channels, spatial = model.bind({})._layers()
  assert kinds == [1, 0, 0, 1, 0, 0]
  assert channels == ["random", "zero", "zero"] * 2
  assert spatial == ["zero", names[0], names[1], "zero", names[2], names[0]]


def test_load(tmp_path):
  model, variables, x = make(**CHANNELS)
  path = str(tmp_path / "flow.npz")
  save_checkpoint(variables, path)
  config = dict(
    model_name="proj.jet.jet", model={**TINY, **CHANNELS},
    model_init=path,
  )  # fmt: skip
  same, load = models.build(config)
  assert same == model and hash(same) == hash(model)
  other = jax.tree.map(np.zeros_like, variables["params"])
  for init in (other, None):
    loaded = jet.load(init, path) if init is None else load(init)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables["params"])
  kept = jet.load(other, path, dont_load=["couplings/.*"])
  names = [name for name, _ in trees.tree_flatten_with_names(kept)[0]]
  assert len(names) == len(jax.tree.leaves(other))
  jax.tree.map(
    np.testing.assert_array_equal, kept["couplings"], other["couplings"]
  )


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(kinds=("channel",)), "model.kinds"),
    (dict(kinds=()), "model.kinds is empty"),
    (dict(kinds=("spatial",), spatial_coupling_projs=()), "spatial_coupling"),
    (dict(spatial_coupling_projs=("stripes",)), "spatial_coupling_projs"),
    (dict(channels_coupling_projs=("sorted",)), "channels_coupling_projs"),
    (dict(ps=3), "model.ps=3 does not divide"),
    (dict(num_heads=3), "model.num_heads=3"),
    (dict(dtype_mm="int8"), "model.dtype_mm"),
  ],
)
def test_bad_arguments(kw, message):
  with pytest.raises(lookup.ConfigError, match=message):
    jax.eval_shape(lambda: make(shape=(1, 4, 4, 2), depth=3, **kw))


@pytest.mark.parametrize(
  "shape, ps, message",
  [((1, 4, 4, 3), 1, "ps=1"), ((1, 6, 6, 2), 2, "kinds: 9")],
)
def test_no_halves(shape, ps, message):
  with pytest.raises(lookup.ConfigError, match=message):
    jax.eval_shape(lambda: make(shape=shape, ps=ps, depth=3))


def test_computes_in_bfloat16():
  model, variables, x = make(**BOTH)
  half = model.clone(dtype_mm="bfloat16")

  @jax.jit
  def run(x):
    z, logdet = half.apply(variables, x)
    back, _ = half.apply(variables, z, method="inverse")
    return z, logdet, back, model.apply(variables, x)[0]

  z, logdet, back, want = run(x)
  assert z.dtype == logdet.dtype == jnp.float32
  np.testing.assert_allclose(z, want, atol=0.2)
  # The ViTs are not exact, but the flow is.
  np.testing.assert_allclose(back, x, atol=1e-4)
