"""Damage to a checkpoint is an error that names the file."""

import json
import os
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision import checkpoint_checksums, checkpoints, lookup

pytestmark = pytest.mark.multidevice


def _mesh(n):
  return jax.sharding.Mesh(np.array(jax.devices()[:n]), ("data",))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A checkpoint with an array in four chunks, and what is in it."""
  rng = np.random.default_rng(0)
  values = {
    "params": {
      "a": rng.normal(size=(8, 6)).astype(np.float32),
      "b": rng.normal(size=(8, 6)).astype(np.float32),
      "zero": np.zeros([3, 2], np.float32),
    },
    "opt": {"mu": np.full(3, 1.5, jnp.bfloat16)},
    "step": np.int32(3),
    "time": 2.5,
  }
  rows = NamedSharding(_mesh(4), P("data"))
  tree = jax.tree.map(lambda x: x, values)
  for name in "ab":
    tree["params"][name] = jax.device_put(values["params"][name], rows)
  tree["opt"]["mu"] = jnp.asarray(values["opt"]["mu"])
  folder = str(tmp_path_factory.mktemp("checksums") / "x")
  manager = checkpoints.CheckpointManager()
  checkpoints.tssave(manager, tree, folder)
  manager.close()
  return folder, values


@pytest.fixture
def folder(written, tmp_path):
  return shutil.copytree(written[0], str(tmp_path / "copy"))


def _flip(path, bit):
  with open(path, "rb") as f:
    content = bytearray(f.read())
  content[bit // 8] ^= 1 << bit % 8
  with open(path, "wb") as f:
    f.write(content)


def _files(folder):
  return sorted(
    os.path.join(parent, name)
    for parent, _, names in os.walk(folder)
    for name in names
  )


def _assert_refused(path, folder, **kw):
  with pytest.raises(lookup.ConfigError) as e:
    checkpoints.tsload(folder, **kw)
  assert path in str(e.value) and "\n" not in str(e.value)


def test_attributes_have_the_crc32_of_all_files(written):
  for path in _files(written[0]):
    parent, name = os.path.split(path)
    with open(parent + "/.zattrs", encoding="utf-8") as f:
      recorded = json.load(f)["big_vision_crc32"]
    count = len(os.listdir(written[0]))
    assert recorded.pop("arrays") == f"{count:08x}"
    assert sorted(recorded) == sorted(os.listdir(parent))
    if name != ".zattrs":
      with open(path, "rb") as f:
        assert recorded[name] == f"{zlib.crc32(f.read()):08x}"
  assert len(os.listdir(written[0] + "/params~a")) == 2 + 4
  assert all(os.path.isdir(f"{written[0]}/{n}") for n in os.listdir(written[0]))


def test_a_flipped_bit_anywhere(folder):
  rng = np.random.default_rng(1)
  for path in _files(folder):
    for bit in rng.choice(8 * os.path.getsize(path), 6, replace=False):
      _flip(path, bit)
      _assert_refused(path, folder)
      _flip(path, bit)
  checkpoints.tsload(folder)


def test_files_that_are_swapped_missing_or_cut(folder):
  def swap(one, two):
    os.rename(one, one + "x")
    os.rename(two, one)
    os.rename(one + "x", two)

  a, b = f"{folder}/params~a/", f"{folder}/params~b/"
  for one, two in ((a + "0.0", a + "2.0"), (a + "1.0", b + "1.0")):
    swap(one, two)
    _assert_refused(one, folder)
    swap(one, two)
  os.rename(a + "3.0", folder + "/away")
  _assert_refused(a + "3.0", folder)
  os.rename(folder + "/away", a + "3.0")
  for name in ("0.0", ".zarray", ".zattrs"):
    with open(b + name, "rb+") as f:
      f.truncate(0 if name == ".zattrs" else 20)
    _assert_refused(b + name, folder, regex="params/b")
  checkpoints.tsload(folder, regex="params/a")


@pytest.mark.parametrize("n", [1, 2, 8])
def test_other_shardings_read_and_verify(folder, written, n):
  tree = {"params": {"a": 0}}
  kw = dict(tree=tree, shardings=NamedSharding(_mesh(n), P("data")))
  got = checkpoints.tsload(folder, **kw)["params"]["a"]
  np.testing.assert_array_equal(got, written[1]["params"]["a"])
  path = f"{folder}/params~a/2.0"
  _flip(path, 77)
  _assert_refused(path, folder, **kw)
  for kw in (dict(tree=tree), dict(regex="params/a", shardings="host")):
    _assert_refused(path, folder, **kw)


def test_only_what_is_read_is_verified(folder):
  stored = checkpoint_checksums.describe(folder, ["params/a"])[0]
  part = (slice(3, 5), slice(None))
  assert stored.files_of([part]) == {"1.0", "2.0"}
  assert stored.files_of([(slice(0, 2), slice(1, 2))]) == {"0.0"}
  _flip(f"{folder}/params~a/3.0", 3)
  checkpoint_checksums.verify(
    folder, [("params/a", stored, stored.files_of([part]))]
  )
  checkpoints.tsload(folder, regex="params/[bz]|opt|step")


def test_checkpoints_without_checksums(folder, written):
  for path in _files(folder):
    if path.endswith(".zattrs"):
      os.remove(path)
  got = checkpoints.tsload(folder, shardings="host")
  for want, x in zip(*map(jax.tree.leaves, (written[1], got)), strict=True):
    np.testing.assert_array_equal(want, x)
  # What is found without them is an error of one line, too.
  path = f"{folder}/params~a/2.0"
  with open(path, "wb") as f:
    f.write(b"no frame of zstd")
  _assert_refused(path, folder)
  os.remove(path)
  _assert_refused(path, folder)
  with open(f"{folder}/params~b/.zarray", "w", encoding="utf-8") as f:
    f.write('{"shape": [8, 6], "dtype": "<f4"')
  _assert_refused(f"{folder}/params~b/.zarray", folder)


def test_attributes_of_others_stay_possible(folder, written):
  path = f"{folder}/params~a/.zattrs"
  with open(path, encoding="utf-8") as f:
    attributes = json.load(f)
  for content in ({"unit": "cm"}, {"unit": "cm", **attributes}):
    with open(path, "w", encoding="utf-8") as f:
      json.dump(content, f, indent=2)
    got = checkpoints.tsload(folder, shardings="host")["params"]["a"]
    np.testing.assert_array_equal(got, written[1]["params"]["a"])
