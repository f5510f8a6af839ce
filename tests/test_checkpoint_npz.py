"""npz files: values, types, names, and errors."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import checkpoints, fs, lookup, trees


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


# Files that are damaged, or something else.


@pytest.mark.parametrize(
  "content, reason",
  [
    (b"", "is empty"),
    (b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    (b"\x80\x04\x95 a pickle", "not a NumPy file"),
    (b"PK\x03\x04", "damaged or incomplete"),
  ],
)
@pytest.mark.parametrize(
  "load",
  [
    checkpoints.npload,
    checkpoints.load_params,
    checkpoints.load_checkpoint_np,
    lambda path: checkpoints.load_checkpoint({"a": 0}, path),
  ],
)
def test_other_files(tmp_path, content, reason, load):
  path = tmp_path / "x.npz"
  path.write_bytes(content)
  with pytest.raises(lookup.ConfigError, match=reason) as e:
    load(str(path))
  assert str(e.value).startswith(str(path)) and "\n" not in str(e.value)
  assert "allow_pickle" not in str(e.value)


def test_one_array_is_not_a_checkpoint(tmp_path):
  np.save(tmp_path / "x.npy", np.zeros(3))
  with pytest.raises(ValueError, match="x.npy is one array"):
    checkpoints.load_checkpoint_np(tmp_path / "x.npy")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_npz(tmp_path, compressed):
  path = tmp_path / "x.npz"
  checkpoints.save_checkpoint(
    {"a": np.arange(60.0), "b": {"c": np.ones(3)}}, str(path), compressed
  )
  good = path.read_bytes()
  bad = [good[:n] for n in range(0, len(good), 29)]
  # Its magic string, and within the first array.
  for i in (good.index(b"NUMPY") if not compressed else 70, *range(70, 140, 3)):
    bad.append(good[:i] + bytes([good[i] ^ 4]) + good[i + 1 :])
  for content in bad:
    path.write_bytes(content)
    with pytest.raises(lookup.ConfigError) as e:
      checkpoints.npload(path)
    assert str(e.value).startswith(str(path)) and "\n" not in str(e.value)
    assert "allow_pickle" not in str(e.value)
  np.savez(path, x=np.array([{}]))
  with pytest.raises(lookup.ConfigError, match="Python objects"):
    checkpoints.npload(path)
  np.save(tmp_path / "x.npy", np.arange(5))
  np.testing.assert_array_equal(
    checkpoints.npload(tmp_path / "x.npy"), range(5)
  )


def test_a_remote_file_that_cannot_be_reached(monkeypatch):
  def fail(path, mode):
    raise RuntimeError("Could not resolve host: example.com.\nmore")

  monkeypatch.setattr(fs, "open", fail)
  with pytest.raises(lookup.ConfigError) as e:
    checkpoints.load_params("gs://bucket/x.npz")
  assert str(e.value) == (
    "gs://bucket/x.npz cannot be read: Could not resolve host: example.com. "
    "Without a network, copy the file to this machine and give its path."
  )
