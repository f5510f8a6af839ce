"""Tests for what models share."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import lookup
from big_vision.models import common


def test_set_head_bias():
  params = {"head": {"bias": np.zeros(3, np.float32), "kernel": np.ones(2)}}
  common.set_head_bias(params, -1.5)
  np.testing.assert_array_equal(params["head"]["bias"], [-1.5] * 3)
  for other in ({"top": {"bias": 1}}, {"top": 1, "head": {"kernel": 1}}):
    with pytest.raises(lookup.ConfigError, match="`head` with a bias.* top"):
      common.set_head_bias(other, -1.5)


def test_merge_params_takes_what_is_loaded():
  loaded = {"a": {"w": np.ones(2), "b": np.zeros(3)}, "c": np.full(1, 7.0)}
  inited = {"a": {"w": np.full(2, 5.0), "b": np.ones(9)}, "c": np.zeros(1)}
  out = common.merge_params(loaded, flax.core.freeze(inited))
  assert type(out) is dict and type(out["a"]) is dict
  for name in ("w", "b"):  # Shapes are not compared.
    assert out["a"][name] is loaded["a"][name]
  assert common.merge_params(loaded, None) is loaded


def test_merge_params_dont_load():
  loaded = {"a": {"w": 1.0, "old": 2.0}, "head": 3.0}
  inited = {"a": {"w": 10.0, "new": 20.0}, "head": 30.0}
  out = common.merge_params(loaded, inited, ["head", ".*/(old|new)"])
  assert out == {"a": {"w": 1.0, "new": 20.0}, "head": 30.0}
  out = common.merge_params(loaded, inited, ".*/old|.*/new")  # One regex.
  assert out["head"] == 3.0
  # The whole name has to match.
  with pytest.raises(ValueError, match="a/new"):
    common.merge_params(loaded, inited, ["old", "new", "head"])


def test_merge_params_names_regexes_without_a_match():
  """Silent otherwise where both sides have the same names."""
  names = {"head": {"kernel": 1.0, "bias": 2.0}, "cls": 3.0}
  for regex, hint in (
    ("hed/.*", "'head/bias', 'head/kernel'"),
    ("head", "only a part of 'head/bias', 'head/kernel'"),
    ("MAPHead_0/.*", "'cls', 'head'"),
  ):
    with pytest.raises(ValueError, match=f"dont_load.*{regex}.*{hint}") as e:
      common.merge_params(names, names, [regex, "cls"])
    assert "\n" not in str(e.value)
  # On one side is enough, as is any of the alternatives.
  part = {"cls": 4.0}
  assert common.merge_params(names, part, ["head/.*", "cls|pos"]) == part
  assert common.merge_params(names, names, [".*", ".*FREEZE_ME.*"]) == names


def test_merge_params_keeps_abstract_leaves():
  shape = jax.ShapeDtypeStruct((2,), jnp.float32)
  out = common.merge_params({"a": np.ones(2)}, {"a": shape, "b": shape}, ["b"])
  assert out["b"] is shape and isinstance(out["a"], np.ndarray)


def test_merge_params_match_dtype():
  loaded = {"a": np.ones(2, np.float32)}
  inited = {"a": jnp.zeros(2, jnp.bfloat16)}
  assert common.merge_params(loaded, inited)["a"].dtype == np.float32
  out = common.merge_params(loaded, inited, match_dtype=True)
  assert out["a"].dtype == jnp.bfloat16


def test_merge_params_message():
  with pytest.raises(ValueError) as e:
    common.merge_params({"b": 1, "a": 1, "y": 1}, {"a": 1, "x": 1, "w": 1}, "y")
  assert str(e.value) == (
    "Params in checkpoint:\n  a\n  b\n  y\n"
    "Params in model (code):\n  a\n  w\n  x\n"
    "Params in model (code) but not in checkpoint and not `dont_load`ed:\n"
    " - w\n - x\n"
    "Params in checkpoint but not in model (code) and not `dont_load`ed:\n + b"
  )
  assert type(e.value) is ValueError  # As specified, no class of its own.
  with pytest.raises(ValueError) as e:
    common.merge_params({"a": 1}, {"a": 1, "x": 1})
  assert " - x" in str(e.value) and " + " not in str(e.value)
  assert str(e.value).endswith("\n")  # The empty last section.


def test_convert_pre_linen():
  old = {
    "LayerNorm_0": {"scale": 1},
    "Dense_10": {"kernel": 3},
    "Dense_2": {"kernel": 2, "Foo_7": {"x": 0}},
    "LayerNorm_11": {"scale": 4},
    "head": 5,
    "encoderblock_3": 6,
    "encoder_norm": 7,
  }
  assert common.convert_pre_linen(flax.core.freeze(old)) == {
    "LayerNorm_0": {"scale": 1},
    "Dense_0": {"kernel": 2, "Foo_0": {"x": 0}},
    "Dense_1": {"kernel": 3},
    "LayerNorm_1": {"scale": 4},
    "head": 5,
    "encoderblock_0": 6,
    "encoder_norm": 7,
  }
  current = {f"block_{i}": i for i in range(12)}
  assert common.convert_pre_linen(current) == current


def test_convert_pre_linen_like_flax():
  checkpoints = pytest.importorskip("flax.training.checkpoints")
  rng = np.random.default_rng(0)
  tree = {
    f"{'ABC'[rng.integers(3)]}_{i}": {f"D_{2 * j}": j for j in range(i % 4)}
    for i in rng.permutation(30)
  }
  expected = checkpoints.convert_pre_linen(tree)
  assert common.convert_pre_linen(tree) == expected


def test_add_position_embs():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 3, 4)).astype(np.float32)
  pos = rng.standard_normal((1, 5, 4)).astype(np.float32)
  module = common.AddPositionEmbs()
  assert not module.init(jax.random.key(0), x, pos)
  np.testing.assert_array_equal(module.apply({}, x, pos), x + pos[:, :3])
  with pytest.raises(AssertionError, match="Expected"):
    module.apply({}, x[0], pos)


def test_add_position_embs_decode():
  rng = np.random.default_rng(0)
  pos = rng.standard_normal((1, 3, 4)).astype(np.float32)
  module = common.AddPositionEmbs(decode=True)
  x = np.zeros((2, 3, 4), np.float32)
  y, cache = module.init_with_output(jax.random.key(0), x, pos)
  np.testing.assert_array_equal(y, np.broadcast_to(pos, y.shape))
  index = cache["cache"]["cache_index"]
  assert index.dtype == jnp.uint32 and index.shape == () and index == 0
  token = np.ones((2, 1, 4), np.float32)
  for i in [0, 1, 2, 2]:  # Past the end, the last one is used.
    y, cache = module.apply(cache, token, pos, mutable=["cache"])
    np.testing.assert_array_equal(y, token + pos[:, i : i + 1])
  assert cache["cache"]["cache_index"] == 4
