"""NaFlex ViT against ViT, jax's resizing; what padding does; loading."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import trees
from big_vision.models import vit
from big_vision.models.proj.image_text import naflex_vit

pytestmark = pytest.mark.usefixtures("quick_compilation")
TINY = dict(width=16, depth=1, mlp_dim=24, num_heads=2, nposemb=4)


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sequences(grids, length, dim=12, padding=0):
  """Patches of images with these numbers of rows and columns."""
  ptype, y, x = np.full([3, len(grids), length], padding, np.int32)
  ptype[:] = 0
  for i, (h, w) in enumerate(grids):
    ptype[i, : h * w] = 1
    y[i, : h * w], x[i, : h * w] = np.mgrid[:h, :w].reshape(2, -1)
  return rand(len(grids), length, dim), ptype, y, x


SOME = sequences([(2, 3), (4, 1)], 7)


def shapes(model, image=SOME):
  variables = jax.eval_shape(model.init, jax.random.PRNGKey(0), image)
  return variables["params"]


def filled(model, image=SOME, seed=0):
  """Parameters without compiling anything; no two values are the same."""
  rng = np.random.default_rng(seed)
  fill = lambda x: (0.3 * rng.standard_normal(x.shape)).astype(x.dtype)
  return jax.tree.map(fill, shapes(model, image))


@functools.cache
def jitted(model):
  return jax.jit(lambda p, x: model.apply({"params": p}, x))


def apply(model, params, image):
  return jitted(model)(params, image)


def check_known(model, params, image, count, total, size, first):
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
  assert sum(x.size for x in leaves) == count
  np.testing.assert_allclose(sum(np.abs(x).sum() for x in leaves), total, 2e-6)
  wave = lambda x: np.float32(0.05 * np.sin(np.arange(x.size))).reshape(x.shape)
  params = jax.tree.map(lambda x: np.asarray(x) + wave(x), params)
  out, _ = apply(model, params, image)
  assert out.shape == (2, 10)
  np.testing.assert_allclose(np.abs(out).mean(), size, rtol=2e-5)
  np.testing.assert_allclose(out[0, :3], first, rtol=1e-4)


def test_known_numbers():
  _, ptype, y, x = sequences([(2, 3), (2, 2)], 6)
  k = np.arange(2 * 6 * 48, dtype=np.float32)
  image = np.sin(0.01 * k).reshape(2, 6, 48), ptype, y, x
  model = naflex_vit.Model(10, variant="mu", nposemb=4, pool_type="map")
  params = jax.jit(model.init)(jax.random.PRNGKey(0), image)["params"]
  check_known(model, params, image, 27_850, 3221.74,
              0.125149, (0.016689, -0.02597, -0.044752))  # fmt: skip
  # The other parameters do not depend on the pooling.
  params = {k: v for k, v in params.items() if k != "MAPHead_0"}
  check_known(model.clone(pool_type="gap"), params, image, 15_178, 1760.82,
              0.247773, (0.12173, 0.48915, 0.40685))  # fmt: skip
  check_known(model.clone(pool_type="max"), params, image, 15_178, 1760.82,
              0.24338, (0.11839, 0.48457, 0.40525))  # fmt: skip


def test_parameters():
  image = sequences([(2, 3)], 6, dim=48)
  kw = dict(variant="mu", nposemb=4, pool_type="map", rep_size=8)
  got = named(shapes(naflex_vit.Model(10, **kw), image))
  assert sum(x.size for x in got.values()) == 27_874
  want = named(jax.eval_shape(
    vit.Model(10, variant="mu/16", pool_type="map", rep_size=8).init,
    jax.random.PRNGKey(0), np.zeros((1, 32, 32, 3), np.float32),
  )["params"])  # fmt: skip
  want = {k: x.shape for k, x in want.items()}
  want |= {"embedding/kernel": (48, 32), "pos_embedding": (4, 4, 32)}
  assert {k: x.shape for k, x in got.items()} == want

  kw |= dict(patchln_pre=True, patchln_post=True, dtype_mm="bfloat16")
  more = named(shapes(naflex_vit.Model(10, **kw), image))
  new = {k: more[k].shape for k in more.keys() - got.keys()}
  assert new == {f"patchln_{k}/{n}": (d,) for k, d in (("pre", 48), ("post", 32))
                 for n in ("scale", "bias")}  # fmt: skip
  assert {k for k, x in more.items() if x.dtype != jnp.float32} == {
    "pos_embedding"
  }


@pytest.mark.parametrize(
  "kw",
  [
    dict(pool_type="map", rep_size=8),
    dict(pool_type="none"),
    dict(depth=2, scan=True),
  ],
)
def test_without_padding_it_is_a_vit(kw):
  """Then, and with positions at their own resolution."""
  kw = {**{k: v for k, v in TINY.items() if k != "nposemb"}, **kw}
  pixels = rand(3, 8, 8, 3)
  plain = vit.Model(5, patch_size=(2, 2), **kw)
  plain_params = filled(plain, pixels)
  params = {
    **plain_params,
    "embedding": {
      "kernel": plain_params["embedding"]["kernel"].reshape(12, 16),
      "bias": plain_params["embedding"]["bias"],
    },
    "pos_embedding": plain_params["pos_embedding"].reshape(4, 4, 16),
  }
  _, *where = sequences([(4, 4)] * 3, 16)
  patches = pixels.reshape(3, 4, 2, 4, 2, 3).swapaxes(2, 3).reshape(3, 16, 12)
  x, out = apply(
    naflex_vit.Model(5, nposemb=4, **kw), params, (patches, *where)
  )
  want, want_out = apply(plain, plain_params, pixels)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5)
  close(x, want)
  close(out["stem"], want_out["stem"].reshape(3, 16, 16))
  for name in ("with_posemb", "encoder", "encoded", "pre_logits", "logits"):
    jax.tree.map(close, out[name], want_out[name])
  close(out["head_input"], want_out.get("head_input", want_out["encoded"]))


@pytest.mark.parametrize("pool_type", ["map", "gap"])
def test_padding_changes_nothing(pool_type):
  model = naflex_vit.Model(5, **TINY, pool_type=pool_type)
  short = sequences([(2, 3), (3, 2)], 6)
  params = filled(model, short)
  want, want_out = apply(model, params, short)
  # Neither where it claims to be nor what it contains.
  patches, *where = sequences([(2, 3), (3, 2)], 9, padding=1000)
  patches[:, :6], patches[:, 6:] = short[0], 1e3
  image = (patches, *where)
  got, out = apply(model, params, image)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  close(got, want)
  close(out["encoded"][:, :6], want_out["encoded"])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))
  # Nor does the order of the patches.
  order = np.random.default_rng(0).permutation(9)
  got, _ = apply(model, params, tuple(x[:, order] for x in image))
  close(got, want)


def test_nothing_but_padding():
  """As in the examples that fill up the last batch of an evaluation."""
  model = naflex_vit.Model(5, **TINY, pool_type="map")
  params = filled(model)

  def loss(params):
    x, _ = model.apply({"params": params}, jax.tree.map(np.zeros_like, SOME))
    return x.sum(), x

  grad, x = jax.jit(jax.grad(loss, has_aux=True))(params)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((grad, x)))
  for pool_type in ("gap", "max"):
    pool = lambda x, t=pool_type: naflex_vit._pool(x, np.zeros((2, 3), bool), t)
    x, grad = jax.vjp(pool, rand(2, 3, 4))
    np.testing.assert_array_equal(x, np.zeros((2, 4)))
    np.testing.assert_array_equal(grad(x + 1)[0], np.zeros((2, 3, 4)))


def test_pooling():
  x = rand(2, 4, 3)
  mask = np.array([[1, 1, 0, 1], [0, 0, 1, 0]], bool)
  for pool_type, fn in (("gap", np.mean), ("max", np.max)):
    got = naflex_vit._pool(x, mask, pool_type)
    want = [fn(v[m], axis=0) for v, m in zip(x, mask, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_positions_of_a_long_strip():
  """Longer than the 64 rows and columns of the published configs."""
  model = naflex_vit.Model(None, **TINY, posemb="learn_2d(64)")
  image = sequences([(1, 100)], 101)
  params = filled(model, image)
  _, out = apply(model, params, image)
  got = out["with_posemb"][0, :100] - out["stem"][0, :100]
  want = jax.image.resize(params["pos_embedding"], (1, 100, 16), "bilinear")
  np.testing.assert_allclose(got, want[0], atol=1e-5)


def test_posemb_string():
  assert naflex_vit._decode_posemb("learn_2d(64)") == ("learn_2d", 64)
  assert naflex_vit._decode_posemb("learn_2d") == ("learn_2d", None)
  assert naflex_vit._decode_posemb("learn_2d()") == ("learn_2d()", None)


def test_dropout_only_in_training():
  model = naflex_vit.Model(5, **TINY, dropout=0.5, scan=True)
  params = filled(model)
  calm, _ = apply(model, params, SOME)
  run = jax.jit(
    lambda key: model.apply(
      {"params": params}, SOME, train=True, rngs={"dropout": key}
    )[0]
  )
  one, two = (run(jax.random.PRNGKey(i)) for i in (1, 2))
  assert min(np.abs(one - two).max(), np.abs(one - calm).max()) > 1e-2


def test_errors_of_the_model():
  with pytest.raises(ValueError, match="config.model.pool_type.*'tok'"):
    shapes(naflex_vit.Model(5, **TINY, pool_type="tok"))
  with pytest.raises(ValueError, match="model.posemb.*'sincos2d'.*learn_2d"):
    shapes(naflex_vit.Model(5, **TINY, posemb="sincos2d"))
  with pytest.raises(ValueError, match="config.model.nposemb must.*16"):
    shapes(naflex_vit.Model(5, variant="mu"))
  with pytest.raises(ValueError, match="model.variant: 'B/16'.*use 'B'"):
    naflex_vit.Model(5, variant="B/16")
  with pytest.raises(KeyError, match="Huge"):
    naflex_vit.Model(5, variant="Huge")
  with pytest.raises(TypeError, match="patch_size"):
    naflex_vit.Model(5, patch_size=(2, 2))


def save(path, params):
  np.savez(path, **{f"params/{k}": v for k, v in named(params).items()})
  return str(path)


def same(a, b):
  assert named(a).keys() == named(b).keys()
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("nposemb", [4, 5])  # 5 is 2 * 2 and a class token?
def test_load(tmp_path, nposemb):
  model = naflex_vit.Model(5, **{**TINY, "nposemb": nposemb}, pool_type="map")
  params = filled(model)
  path = save(tmp_path / "x.npz", params)
  same(naflex_vit.load(shapes(model), path, TINY), params)
  same(naflex_vit.load(None, path, None), params)
  start = shapes(naflex_vit.Model(3, **TINY, pool_type="map"))
  dont_load = ["head/.*", "pos_embedding"]
  out = naflex_vit.load(start, path, TINY, dont_load)
  kept = {k for k, x in named(out).items() if x is named(start)[k]}
  assert kept == {"head/kernel", "head/bias", "pos_embedding"}


def test_load_changes_the_stacking(tmp_path):
  loop = naflex_vit.Model(5, **{**TINY, "depth": 2})
  scan = naflex_vit.Model(5, **{**TINY, "depth": 2}, scan=True)
  params = filled(loop)
  path = save(tmp_path / "loop.npz", params)
  stacked = naflex_vit.load(shapes(scan), path, {"scan": True})
  x, _ = apply(scan, stacked, SOME)
  np.testing.assert_allclose(x, apply(loop, params, SOME)[0], atol=1e-5)
  path = save(tmp_path / "scan.npz", stacked)
  same(naflex_vit.load(shapes(loop), path, {}), params)


@pytest.mark.parametrize(
  "old, new, dtype", [(5, 8, np.float32), (10, 4, jnp.bfloat16)]
)
def test_load_resizes_positions(tmp_path, old, new, dtype):
  """Exactly as the model does for an image of `new` x `new` patches."""
  make = lambda n: naflex_vit.Model(5, **{**TINY, "nposemb": n})
  params = jax.tree.map(lambda x: x.astype(dtype), filled(make(old)))
  path = save(tmp_path / "x.npz", params)
  out = naflex_vit.load(shapes(make(new)), path, None)
  got = out["pos_embedding"]
  assert isinstance(got, np.ndarray) and got.dtype == dtype
  want = jax.image.resize(
    params["pos_embedding"].astype(np.float32), (new, new, 16), "bilinear"
  )
  tol = 1e-6 if dtype == np.float32 else 1e-2
  np.testing.assert_allclose(got.astype(np.float32), want, tol, tol)


def test_load_of_another_vit(tmp_path):
  plain = vit.Model(5, patch_size=(2, 2), width=16, depth=1, num_heads=2)
  path = save(tmp_path / "x.npz", filled(plain, rand(1, 8, 8, 3)))
  start = shapes(naflex_vit.Model(5, **TINY))
  with pytest.raises(ValueError, match=r"x.npz.*\(1, 16, 16\).*\(4, 4, 16\)"):
    naflex_vit.load(start, path, None)


def test_public_checkpoint(monkeypatch):
  asked = []
  monkeypatch.setattr(
    naflex_vit.checkpoints, "load_params", lambda f: asked.append(f) or {}
  )
  naflex_vit.load(None, "SigLIP2 B/16 NaFlex", None)
  assert asked == ["gs://big_vision/siglip2/siglip2_b16_naflex.npz:img"]
