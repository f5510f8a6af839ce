"""npz files: values, types, names, and errors."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import checkpoints, trees


def _tree(offset=0.0):
  return {
    "params": {
      "head": {"kernel": jnp.arange(6.0).reshape(2, 3) + offset},
      "bias": jnp.arange(3.0) - offset,
    },
    "opt": [
      jnp.asarray(int(offset), jnp.int32),
      {"mu": jnp.full(3, 1.5, jnp.bfloat16)},
    ],
  }


def _assert_same(got, want):
  got, want = (dict(trees.tree_flatten_with_names(t)[0]) for t in (got, want))
  assert list(got) == list(want)
  for name, x in want.items():
    assert got[name].dtype == x.dtype, name
    np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(x), name)


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_roundtrip(tmp_path, compressed):
  path = str(tmp_path / "new" / "x.npz")
  tree = {
    "params": {"file": jnp.ones(2, jnp.bfloat16) * 3, "b": np.arange(4.0)},
    "n": np.int64(2**40),
    "flag": np.array([True, False]),
    "c": np.array([1 + 2j], np.complex64),
    "scalar": 1.5,
  }
  checkpoints.save_checkpoint(tree, path, compressed=compressed)
  assert os.listdir(tmp_path / "new") == ["x.npz"]
  got = checkpoints.load_checkpoint_np(path)
  assert got["params"]["file"].dtype == jnp.bfloat16
  assert got["n"] == 2**40 and got["n"].dtype == np.int64
  tree["scalar"] = np.float64(1.5)
  _assert_same(got, tree)
  with np.load(path) as f:  # What NumPy itself sees.
    assert f["params/file"].dtype == np.dtype("V2")


def test_npz_is_replaced_only_when_complete(tmp_path):
  path = str(tmp_path / "x.npz")
  checkpoints.save_checkpoint({"a": np.ones(2)}, path)
  with pytest.raises(ValueError, match="'b'"):
    checkpoints.save_checkpoint(
      {"a": np.zeros(2), "b": np.array([object()])}, path
    )
  with pytest.raises(ValueError, match="'x/y'"):
    checkpoints.save_checkpoint({"x/y": 1, "x": {"y": 2}}, path)
  np.testing.assert_array_equal(
    checkpoints.load_checkpoint_np(path)["a"], [1, 1]
  )
  assert os.listdir(tmp_path) == ["x.npz"]


def test_npz_of_savez(tmp_path):
  path = str(tmp_path / "x.npz")
  np.savez(path, **{"a/b": np.ones(2, np.float16), "a/c": np.int32(3)})
  got = checkpoints.load_checkpoint_np(path)
  _assert_same(got, {"a": {"b": np.ones(2, np.float16), "c": np.int32(3)}})
  assert sorted(checkpoints.npload(path)) == ["a/b", "a/c"]
  treedef = jax.tree.structure([0, 0])
  b, c = checkpoints.load_checkpoint_np(path, treedef)  # In stored order.
  assert b.shape == (2,) and c == 3
  np.save(str(tmp_path / "y.npy"), np.arange(3))
  assert checkpoints.npload(str(tmp_path / "y.npy")).tolist() == [0, 1, 2]
  np.savez(str(tmp_path / "empty.npz"))
  assert checkpoints.load_checkpoint_np(str(tmp_path / "empty.npz")) == {}


def test_load_checkpoint(tmp_path):
  path = str(tmp_path / "x.npz")
  checkpoints.save_checkpoint(_tree(2), path)
  got = checkpoints.load_checkpoint(_tree(), path)
  assert isinstance(got["opt"], list)
  _assert_same(got, _tree(2))
  part = checkpoints.load_checkpoint({"params": {"bias": 0}}, path)
  np.testing.assert_array_equal(part["params"]["bias"], [-2, -1, 0])
  with pytest.raises(ValueError, match="'params/bia'.*'params/bias'"):
    checkpoints.load_checkpoint({"params": {"bia": 0}}, path)
  wrong = {"params": {"bias": jax.ShapeDtypeStruct((4,), np.float32)}}
  with pytest.raises(ValueError, match=r"params/bias.*\(4,\).*\(3,\)"):
    checkpoints.load_checkpoint(wrong, path)
