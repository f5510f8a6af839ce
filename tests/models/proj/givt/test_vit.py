"""VAE of two ViTs: recorded numbers, label maps, checkpoints, bad settings."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from big_vision import checkpoints, lookup
from big_vision.models.proj.givt import vit

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = dict(
  input_size=(16, 16),
  patch_size=(8, 8),
  width=16,
  enc_depth=1,
  dec_depth=1,
  mlp_dim=32,
  num_heads=2,
  codeword_dim=4,
  code_len=3,
)
IMAGE = np.sin(0.01 * np.arange(2 * 16 * 16 * 3)).astype(np.float32)
IMAGE = IMAGE.reshape(2, 16, 16, 3)
SPECS = {"semantics": (0, 5), "instances": (1, 3)}
LABELS = np.random.default_rng(0).integers(-1, 5, (2, 16, 16, 2))


@functools.cache
def initial():
  model = vit.Model(**SMALL)
  return jax.jit(lambda: model.init(jax.random.PRNGKey(0), IMAGE))()["params"]


def moved(params):
  """Not zero anywhere, as some are at first."""
  return jax.tree.map(
    lambda x: np.float32(
      x + 0.05 * np.sin(np.arange(x.size, dtype=np.float64)).reshape(x.shape)
    ),
    params,
  )


def shapes(x=IMAGE, **kw):
  model = vit.Model(**{**SMALL, **kw})
  out = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
  return model, out


def run(model, params, *args, **kw):
  """Applies a model, compiled."""
  static = {k: kw.pop(k) for k in ("method", "train") if k in kw}
  apply = jax.jit(functools.partial(model.apply, **static))
  return apply({"params": params}, *args, **kw)


def filled(tree, seed=0):
  r = np.random.default_rng(seed)
  draw = lambda s: r.normal(0, 0.2, s.shape).astype(np.float32)
  return jax.tree.map(draw, tree)


def test_recorded_numbers():
  """Those of the original code, for the same parameters and inputs."""
  leaves = jax.tree.leaves(initial())
  assert sum(x.size for x in leaves) == 11232
  total = sum(np.abs(np.asarray(x, np.float64)).sum() for x in leaves)
  assert total == pytest.approx(1174.1, rel=1e-5)
  params, model = moved(initial()), vit.Model(**SMALL)
  x, out = run(model, params, IMAGE)
  rngs = {"dropout": jax.random.PRNGKey(7)}
  sampled, _ = run(model, params, IMAGE, train=True, rngs=rngs)
  for got, size, mean, first in (
    (x, (2, 16, 16, 3), 0.105224, [-0.21332, -0.1154]),
    (out["mu"], (2, 3, 4), 0.435598, [0.043286, -1.7192]),
    (sampled, (2, 16, 16, 3), 0.0819488, [0.0062328, 0.085225]),
  ):
    assert got.shape == size
    assert np.abs(got).mean() == pytest.approx(mean, rel=2e-5)
    np.testing.assert_allclose(np.ravel(got)[:2], first, rtol=2e-4)


def test_encode_then_decode_is_the_whole():
  params, model = moved(initial()), vit.Model(**SMALL)
  x, out = run(model, params, IMAGE)
  mu, logvar = run(model, params, IMAGE, method="encode")
  np.testing.assert_allclose(logvar, out["logvar"], atol=1e-5)
  decoded = run(model, params, mu, method="decode")
  np.testing.assert_allclose(decoded, x, atol=1e-5)
  assert np.abs(x).max() <= 1


@pytest.mark.parametrize("make", [dict, ml_collections.ConfigDict])
def test_label_maps(make):
  """Labels of all kinds of configs are in the same order, by name."""
  kw = dict(bottleneck_resize=True, code_len=4, codeword_dim=2)
  model, params = shapes(LABELS, inout_specs=make(SPECS), **kw)
  assert params["embedding"]["kernel"].shape == (8, 8, 8, 16)
  assert params["decoder_head"]["kernel"].shape == (16, 8 * 8 * 8)
  assert "bottleneck_upsample" not in params
  params = filled(params)
  logits, out = run(model, params, LABELS)
  assert {k: v.shape for k, v in logits.items()} == {
    "semantics": (2, 16, 16, 5),
    "instances": (2, 16, 16, 3),
  }
  assert out["mu"].shape == (2, 4, 2)

  # Instances come first. What is no class does not count.
  one = [
    np.eye(n)[np.clip(LABELS[..., c], 0, n - 1)] for c, n in ((1, 3), (0, 5))
  ]
  one[0] *= ((LABELS[..., 1] >= 0) & (LABELS[..., 1] < 3))[..., None]
  one[1] *= (LABELS[..., 0] >= 0)[..., None]
  x = np.concatenate(one, axis=-1).reshape(2, 2, 8, 2, 8, 8)
  layer = params["embedding"]
  want = np.einsum("bipjqc,pqcd->bijd", x, layer["kernel"]) + layer["bias"]
  captured = model.apply(
    {"params": params}, LABELS, method=lambda m, x: m.embedding(m._channels(x))
  )
  np.testing.assert_allclose(captured, want, atol=1e-4)


def test_code_of_default_width():
  model, params = shapes(codeword_dim=None)
  assert params["encoder_head"]["kernel"].shape == (16, 32)
  assert params["decoder_stem"]["kernel"].shape == (16, 16)
  mu, _ = jax.eval_shape(
    lambda p: model.apply({"params": p}, IMAGE, method="encode"), params
  )
  assert mu.shape == (2, 3, 16)


def test_dropout_of_the_decoder_follows_train():
  model, z = vit.Model(**SMALL, dropout=0.5), np.ones([1, 3, 4], np.float32)
  decode = functools.partial(run, model, moved(initial()), z, method="decode")
  keys = jax.random.split(jax.random.key(0))
  one, other = (decode(train=True, rngs={"dropout": key}) for key in keys)
  assert not np.allclose(one, other)
  np.testing.assert_array_equal(decode(), decode(rngs={"dropout": keys[0]}))


def test_checkpoints_of_either_layout(tmp_path):
  """Stage I stacks blocks, stage II does not."""
  kw = dict(enc_depth=2, dec_depth=2)
  loop, loop_params = shapes(**kw)
  scan, scan_params = shapes(scan=True, **kw)
  params = filled(scan_params)
  path = str(tmp_path / "vae.npz")
  checkpoints.save_checkpoint({"params": params}, path)
  want, _ = run(scan, params, IMAGE)
  for loaded in (
    vit.load(loop_params, path),
    vit.load(None, path, {"scan": False}),
    vit.load(None, path, ml_collections.ConfigDict()),
  ):
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(
      jnp.shape, loop_params
    )
  got, _ = run(loop, loaded, IMAGE)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert "encoderblock" in vit.load(None, path)["encoder"]
  again = vit.load(scan_params, path, dont_load=["decoder_head/.*"])
  assert again["decoder_head"] == scan_params["decoder_head"]
  jax.tree.map(
    np.testing.assert_array_equal, again["encoder"], params["encoder"]
  )


@pytest.mark.parametrize(
  ("kw", "x", "match"),
  [
    (dict(patch_size=(5, 5)), IMAGE, "patch_size"),
    (dict(bottleneck_resize=True), IMAGE, "code_len=3"),
    (dict(code_dropout="all"), IMAGE, "code_dropout"),
    (dict(dtype_mm="int8"), IMAGE, "dtype_mm"),
    (dict(), IMAGE[:, :8], "input_size"),
    (dict(inout_specs=SPECS), LABELS[..., :1], "at least 2 channels"),
  ],
)
def test_bad_settings(kw, x, match):
  with pytest.raises(lookup.ConfigError, match=match):
    shapes(x, **kw)
