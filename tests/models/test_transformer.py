"""Tests of the options of transformers; the values of most are in tests/models/weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import lookup
from big_vision.models import rope, vit

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = dict(width=16, depth=3, mlp_dim=20, num_heads=2, patch_size=(4, 4))
ALL = dict(
  norm="rms",
  act="silu",
  glu=True,
  mlp_bias=False,
  attn_bias="qv",
  qk_norm="rms",
  layerscale=0.5,
  rope="dinov3",
  registers=2,
  pre_norm=True,
  pool_type="tok+gap",
)


def image(n=2):
  return np.sin(np.arange(n * 8 * 12 * 3, dtype=np.float32)).reshape(
    n, 8, 12, 3
  )


def test_names_of_parameters():
  model = vit.Model(3, **SMALL, **ALL, patch_bias=False, head_bias=False)
  params = jax.eval_shape(model.init, jax.random.key(0), image())["params"]
  block = params["Transformer"]["encoderblock_0"]
  attention = block["MultiHeadDotProductAttention_0"]
  assert {k: set(v) for k, v in attention.items()} == {
    "query": {"kernel", "bias"},
    "key": {"kernel"},
    "value": {"kernel", "bias"},
    "out": {"kernel"},
    "query_norm": {"scale"},
    "key_norm": {"scale"},
  }
  assert set(block) == {
    "RMSNorm_0",
    "MultiHeadDotProductAttention_0",
    "ls1",
    "RMSNorm_1",
    "MlpBlock_0",
    "ls2",
  }
  assert {k: set(v) for k, v in block["MlpBlock_0"].items()} == {
    name: {"kernel"} for name in ("Dense_0", "up", "Dense_1")
  }
  assert set(params) == {
    "embedding",
    "pos_embedding",
    "cls",
    "registers",
    "pre_norm",
    "Transformer",
    "head",
  }
  assert params["registers"].shape == (1, 2, 16)
  assert params["head"]["kernel"].shape == (32, 3)


def test_scanned_blocks_are_the_same():
  loop = vit.Model(3, **SMALL, **ALL, head_zeroinit=False)
  scan = vit.Model(3, **SMALL, **ALL, head_zeroinit=False, scan=True)
  params = jax.jit(loop.init)(jax.random.key(0), image())["params"]
  stacked = vit.pyloop_to_scan(params)
  expected, _ = loop.apply({"params": params}, image())
  got, _ = scan.apply({"params": stacked}, image())
  np.testing.assert_allclose(got, expected, atol=1e-5)
  back = vit.scan_to_pyloop(stacked)
  jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("scan", [False, True])
def test_stochastic_depth(scan):
  """Half of the examples go without a part of the last block, others have twice
  of it; the first block is always there."""
  kw = dict(SMALL, depth=2, scan=scan, drop_path=0.5)
  model = vit.Model(**kw)
  params = jax.jit(model.init)(jax.random.key(0), image(64))
  same = np.repeat(image(1), 64, axis=0)

  @jax.jit
  def blocks(train, key):
    del train
    _, out = model.apply(params, same, train=True, rngs={"dropout": key})
    return out["encoder"]

  _, out = model.apply(params, same)
  expected = out["encoder"]
  got = blocks(True, jax.random.key(1))
  first = "block00"
  np.testing.assert_allclose(
    got[first]["+mlp"], expected[first]["+mlp"], atol=1e-5
  )
  added = got["block01"]["+sa"] - got[first]["+mlp"]
  full = 2 * np.asarray(expected["block01"]["sa"])
  kept = np.abs(added).max(axis=(1, 2)) > 0
  assert 16 < kept.sum() < 48
  np.testing.assert_allclose(added[kept], full[kept], atol=1e-5)
  again = blocks(True, jax.random.key(1))
  np.testing.assert_array_equal(again["pre_ln"], got["pre_ln"])


def test_rotations_only_depend_on_the_distance():
  """Products of rotated queries and keys, by hand as complex numbers."""
  size, grid = 8, (2, 3)
  rotations = rope.make("dinov3", grid, size, theta=50.0, prefix=1)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 7, 1, size)).astype(np.float32)
  got = np.asarray(rope.rotate(jnp.asarray(x), rotations))
  np.testing.assert_array_equal(got[:, 0], x[:, 0])  # Not a patch.
  y, column = np.divmod(np.arange(6), 3)
  at = [(2 * y + 1) / 2 - 1, (2 * column + 1) / 3 - 1]
  frequency = 2 * np.pi / 50.0 ** (np.array([0, 4]) / 8)
  angle = np.concatenate([np.outer(a, frequency) for a in at], axis=1)
  z = x[0, 1:, 0, :4] + 1j * x[0, 1:, 0, 4:]
  z = z * np.exp(1j * angle)
  expected = np.concatenate([z.real, z.imag], axis=1)
  np.testing.assert_allclose(got[0, 1:, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(act="gelo"), "config.model.act.*gelo.*gelu"),
    (dict(norm="batch"), "config.model.norm.*batch"),
    (dict(qk_norm="batch"), "config.model.qk_norm.*batch"),
    (dict(attn_bias="xq"), "config.model.attn_bias='xq'"),
    (dict(drop_path=1.0), r"config.model.drop_path=1.0 should be in \[0, 1\)"),
    (dict(rope="axial"), "config.model.rope.*axial.*dinov3"),
    (dict(rope="dinov3", num_heads=8), "multiple of 4, not 2"),
    (dict(dist_token=True), "class_token=None.*dist_token=True"),
    (dict(pool_type="tok", class_token=False), "class_token=False"),
  ],
)
def test_errors_name_the_key(kw, message):
  model = vit.Model(3, **(SMALL | kw))
  with pytest.raises(lookup.ConfigError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), image())
