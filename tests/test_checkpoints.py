"""Checkpoint folders: values, layout, loading in part; parameters from both."""

import asyncio
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts
from jax.experimental.array_serialization import serialization
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision import checkpoint_io, checkpoints, fs, lookup, trees


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


def _flat(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def _assert_same(got, want):
  got, want = _flat(got), _flat(want)
  assert list(got) == list(want)
  for name, x in want.items():
    assert got[name].dtype == x.dtype, name
    np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(x), name)


def _save(path, step, keep=True, tree=None, manager=None):
  manager = manager or checkpoints.CheckpointManager()
  tree = _tree(step) if tree is None else tree
  checkpoints.save_checkpoint_ts(manager, tree, path, step, keep)
  manager.close()


@pytest.fixture
def prefix(tmp_path):
  return str(tmp_path / "checkpoint.bv")


def _names(prefix):
  """What is in the folder, without the common start of names."""
  return [
    n.removeprefix("checkpoint.bv-") for n in fs.listdir(fs.dirname(prefix))
  ]


# load_params.


def test_load_params_of_npz(tmp_path):
  params = {"img": {"head": np.arange(4.0)}, "txt": np.ones(2)}
  plain, new, old = (str(tmp_path / f"{n}.npz") for n in "abc")
  checkpoints.save_checkpoint(params, plain)
  checkpoints.save_checkpoint({"params": params, "opt": {"n": 1}}, new)
  checkpoints.save_checkpoint({"opt": {"target": params, "n": 1}}, old)
  for path in (plain, new, old):
    _assert_same(checkpoints.load_params(path), params)
    _assert_same(checkpoints.load_params(f"{path}:img"), params["img"])
    got = checkpoints.load_params(f"{path}:img/head")
    np.testing.assert_array_equal(got, params["img"]["head"])
    with pytest.raises(KeyError, match="img/head"):
      checkpoints.load_params(f"{path}:image")
  # Dicts count as the content of a file.
  _assert_same(checkpoints.load_params({"params": params}), params)
  _assert_same(checkpoints.load_params(checkpoints.npload(new)), params)


def test_load_params_of_the_average(prefix, tmp_path):
  """Neither of them is taken for the other, in folders and files."""
  x = np.arange(2, dtype=np.float32)
  params = {"img": {"w": x}, "params_ema": {"w": x + 1}}
  ema = {"img": {"w": x + 2}, "txt": x + 3}
  state = {"params": params, "params_ema": ema}
  _save(prefix, 4, tree=state)
  npz = str(tmp_path / "x.npz")
  checkpoints.save_checkpoint(state, npz)
  for path in (prefix, f"{prefix}-000000004", npz):
    _assert_same(checkpoints.load_params(path), params)
    _assert_same(checkpoints.load_params(f"{path}:params_ema"), ema)
    assert checkpoints.averaged(path) == f"{path}:params_ema"
    for part in (f"{path}:img", f"{path}:params_ema:img"):
      of_average = checkpoints.averaged(part)
      assert of_average == f"{path}:params_ema:img"
      _assert_same(checkpoints.load_params(of_average), ema["img"])
    with pytest.raises(KeyError, match="no parameters 'head'"):
      checkpoints.load_params(f"{path}:params_ema:head")
  without = str(tmp_path / "y.npz")
  checkpoints.save_checkpoint(params["img"], without)
  _save(prefix, 5)
  for path in (without, prefix, "vit_i1k"):
    with pytest.raises(lookup.ConfigError, match="has no average .*ema_decay"):
      checkpoints.load_params(checkpoints.averaged(path))


def test_load_params_path_grammar(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r"prepend '\./'"):
    checkpoints.load_params("x.npz")
  with pytest.raises(ValueError, match="slash"):
    checkpoints.load_params("ab:x")
  with pytest.raises(AssertionError):
    checkpoints.load_params("a/b", regex=".*")
  asked = []
  monkeypatch.setattr(
    checkpoints, "_load_params_ts", lambda *a, **kw: asked.append(a)
  )
  for ckpt in ("gs://b/x", "gs://b/p:img", "/a:b/c", "/a/b:x-y", "/p/f:a/b"):
    checkpoints.load_params(ckpt)
  assert asked == [
    ("gs://b/x", None),
    ("gs://b/p", "img"),
    ("/a", "b/c"),
    ("/a/b:x-y", None),
    ("/p/f", "a/b"),
  ]


def test_load_params_of_folder(prefix, monkeypatch):
  _save(prefix, 4)
  read = []
  real = checkpoint_io.read

  def spy(path, names, *args):
    read.extend(names)
    return real(path, names, *args)

  monkeypatch.setattr(checkpoint_io, "read", spy)
  want = _tree(4)["params"]
  for path in (prefix, f"{prefix}-000000004"):
    _assert_same(checkpoints.load_params(path), want)
    _assert_same(checkpoints.load_params(f"{path}:head"), want["head"])
    bias = checkpoints.load_params(f"{path}:bias", shardings="host")
    assert isinstance(bias, np.ndarray)
    np.testing.assert_array_equal(bias, want["bias"])
  assert not any(n.startswith("opt") for n in read)
  with pytest.raises(KeyError, match="head/kernel"):
    checkpoints.load_params(f"{prefix}:hea")
  _save(prefix, 5, tree={"weights": jnp.ones(2)})
  with pytest.raises(KeyError, match="weights"):
    checkpoints.load_params(prefix)


# Folders.


@pytest.mark.parametrize(
  "make",
  [
    checkpoints.CheckpointManager,
    serialization.GlobalAsyncCheckpointManager,
  ],
)
def test_layout_and_pointer(prefix, make):
  manager = make()
  seen = []
  for step, keep in ((1, False), (2, False), (4, True), (5, False), (6, True)):
    checkpoints.save_checkpoint_ts(manager, _tree(step), prefix, step, keep)
    manager.wait_until_finished()
    with open(prefix + "-LAST", encoding="utf-8") as f:
      seen.append((f.read(), *_names(prefix)))
  assert seen == [
    ("000000001-tmp", "000000001-tmp", "LAST"),
    ("000000002-tmp", "000000002-tmp", "LAST"),
    ("000000004", "000000004", "LAST"),
    ("000000005-tmp", "000000004", "000000005-tmp", "LAST"),
    ("000000006", "000000004", "000000006", "LAST"),
  ]
  folder = f"{prefix}-000000006"
  assert sorted(os.listdir(folder)) == [
    "opt~0",
    "opt~1~mu",
    "params~bias",
    "params~head~kernel",
  ]
  assert sorted(os.listdir(folder + "/params~head~kernel")) == [
    ".zarray",
    ".zattrs",
    "0.0",
  ]
  assert sorted(os.listdir(folder + "/opt~0")) == [".zarray", ".zattrs", "0"]
  with open(folder + "/opt~1~mu/.zarray", encoding="utf-8") as f:
    meta = json.load(f)
  assert meta["zarr_format"] == 2 and meta["dtype"] == "bfloat16"
  assert meta["compressor"] == {"id": "zstd", "level": 1}

  got = checkpoints.load_checkpoint_ts(prefix)
  want = _tree(6)
  want["opt"] = {"0": want["opt"][0], "1": want["opt"][1]}
  _assert_same(got, want)
  cpu = jax.local_devices(backend="cpu")[0]
  assert all(x.devices() == {cpu} for x in jax.tree.leaves(got))
  _assert_same(
    checkpoints.load_checkpoint_ts(f"{prefix}-000000004", tree=_tree()),
    _tree(4),
  )


def test_returns_before_it_is_written_and_survives_donation(prefix):
  manager = checkpoints.CheckpointManager()
  x = jnp.arange(1000.0)
  host = np.arange(4.0)
  checkpoints.save_checkpoint_ts(manager, {"x": x, "h": host}, prefix, 1)
  jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(x).block_until_ready()
  host[:] = -1
  manager.wait_until_finished()
  got = checkpoints.load_checkpoint_ts(prefix)
  np.testing.assert_array_equal(got["x"], np.arange(1000))
  np.testing.assert_array_equal(got["h"], np.arange(4))


def test_errors_surface_at_the_next_call(prefix, monkeypatch):
  manager = checkpoints.CheckpointManager()
  _save(prefix, 1, manager=manager)
  with monkeypatch.context() as m:

    def broken(path, suffix):
      raise OSError("disk full")

    m.setattr(checkpoints, "_point", broken)
    checkpoints.save_checkpoint_ts(manager, _tree(2), prefix, 2)
    with pytest.raises(OSError, match="disk full"):
      checkpoints.save_checkpoint_ts(manager, _tree(3), prefix, 3)
    checkpoints.save_checkpoint_ts(manager, _tree(3), prefix, 3)
    with pytest.raises(OSError, match="disk full"):
      manager.close()
  assert int(checkpoints.load_checkpoint_ts(prefix)["opt"]["0"]) == 1
  manager.wait_until_finished()  # Raised once.
  _save(prefix, 4, manager=manager)
  assert int(checkpoints.load_checkpoint_ts(prefix)["opt"]["0"]) == 4


def test_error_of_writing_an_array(prefix, monkeypatch):
  manager = checkpoints.CheckpointManager()
  _save(prefix, 1)
  with open(f"{prefix}-blocked", "w", encoding="utf-8") as f:
    f.write("a file where a folder should be")
  with pytest.raises(OSError):
    checkpoints.tssave(manager, _tree(), f"{prefix}-blocked/x")
    manager.close()
  with pytest.raises(ValueError, match="'s'"):
    checkpoints.tssave(manager, {"s": np.array("text")}, f"{prefix}-x")
  _assert_same(checkpoints.load_checkpoint_ts(prefix, tree=_tree()), _tree(1))


@pytest.mark.parametrize("keep", [False, True])
def test_same_step_again(prefix, keep):
  suffix = "000000007" if keep else "000000007-tmp"
  _save(prefix, 7, keep)
  _save(prefix, 7, keep, tree={"new": jnp.ones(2)})  # Another tree: no union.
  assert _names(prefix) == [suffix, "LAST"]
  assert os.listdir(f"{prefix}-{suffix}") == ["new"]
  _assert_same(checkpoints.load_checkpoint_ts(prefix), {"new": jnp.ones(2)})
  _save(prefix, 8, True, tree={"other": jnp.zeros(1)})
  assert _names(prefix) == (
    [suffix, "000000008", "LAST"] if keep else ["000000008", "LAST"]
  )


def test_tmp_and_permanent_at_the_same_step(prefix):
  _save(prefix, 3, keep=False)
  _save(prefix, 3, keep=True)
  assert _names(prefix) == ["000000003", "LAST"]
  _save(prefix, 3, keep=False)
  assert _names(prefix) == ["000000003", "000000003-tmp", "LAST"]


def test_existing_folder_is_replaced(prefix):
  os.makedirs(f"{prefix}-000000002/stale~leaf")
  os.makedirs(f"{prefix}-000000002.partial/stale~leaf")
  _save(prefix, 2)
  assert _names(prefix) == ["000000002", "LAST"]
  _assert_same(checkpoints.load_checkpoint_ts(prefix, tree=_tree()), _tree(2))
  assert not os.path.exists(f"{prefix}-000000002/stale~leaf")


def test_tssave(tmp_path):
  manager = checkpoints.CheckpointManager()
  path = str(tmp_path / "x")
  done = []
  for i in range(2):
    checkpoints.tssave(
      manager, {"a": {f"b{i}": jnp.ones(2)}}, path, lambda: done.append(1)
    )
    manager.wait_until_finished()
    assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(path) == [f"a~b{i}"]
  assert done == [1, 1]
  for bad in ({"a~b": jnp.ones(1)}, jnp.ones(1)):
    with pytest.raises(ValueError, match="~"):
      checkpoints.tssave(manager, bad, path)


def test_partial_loading(prefix):
  _save(prefix, 1)
  path = prefix + "-000000001"
  got = checkpoints.tsload(path, regex="params/b")  # Matches a start.
  assert list(_flat(got)) == ["params/bias"]
  got = checkpoints.tsload(path, tree={"opt": [0, {"mu": "any"}]})
  assert isinstance(got["opt"], list) and got["opt"][1]["mu"].shape == (3,)
  with pytest.raises(ValueError, match="both"):
    checkpoints.tsload(path, tree={}, regex="x")
  with pytest.raises(ValueError, match="'params/biass'.*'params/bias'"):
    checkpoints.tsload(path, tree={"params": {"biass": 0}})
  with pytest.raises(ValueError, match="'xyz'.*opt/1/mu"):
    checkpoints.tsload(path, regex="xyz")
  with pytest.raises(FileNotFoundError, match="nothing"):
    checkpoints.load_checkpoint_ts(prefix + "-nothing")
  os.makedirs(prefix + "-empty")
  with pytest.raises(ValueError, match="no leaves"):
    checkpoints.tsload(prefix + "-empty")
  # A stray file is no leaf.
  with open(path + "/notes.txt", "w", encoding="utf-8") as f:
    f.write("x")
  os.makedirs(path + "/folder")
  assert len(_flat(checkpoints.tsload(path))) == 4


def test_shapes_are_checked(prefix):
  _save(prefix, 1)
  tree = jax.eval_shape(_tree)
  _assert_same(checkpoints.load_checkpoint_ts(prefix, tree=tree), _tree(1))
  tree["params"]["bias"] = jax.ShapeDtypeStruct((7,), jnp.float32)
  with pytest.raises(ValueError) as e:
    checkpoints.load_checkpoint_ts(prefix, tree=tree)
  for part in ("params/bias", "(7,)", "(3,)", prefix + "-000000001"):
    assert part in str(e.value)
  tree["params"]["bias"] = jnp.float32(0)  # Other values do not matter.
  checkpoints.load_checkpoint_ts(prefix, tree=tree)


def test_64_bit_values(prefix):
  tree = {
    "time": np.float64(1e7 + 0.125),
    "seen": np.int64(3 * 10**9),
    "steps": np.int64(12),
    "small": np.arange(3),
    "python": 2.5,
  }
  _save(prefix, 1, tree=tree)
  got = checkpoints.load_checkpoint_ts(prefix)
  assert got["time"].dtype == jnp.float32
  assert isinstance(got["steps"], jax.Array)
  assert got["steps"].dtype == jnp.int32 and int(got["steps"]) == 12
  assert got["small"].tolist() == [0, 1, 2]
  # Would wrap to a negative number.
  assert isinstance(got["seen"], np.ndarray) and got["seen"] == 3 * 10**9

  mesh = jax.make_mesh((jax.device_count(),), ("d",))
  shardings = {n: "host" for n in tree}
  shardings["steps"] = NamedSharding(mesh, P())
  got = checkpoints.load_checkpoint_ts(prefix, tree=tree, shardings=shardings)
  assert got["time"] == 1e7 + 0.125 and got["time"].dtype == np.float64
  assert got["seen"] == 3 * 10**9 and got["seen"].dtype == np.int64
  assert got["steps"].sharding == shardings["steps"]
  with pytest.raises(ValueError, match="'hots'.*'host'"):
    checkpoints.load_checkpoint_ts(prefix, shardings="hots")


@pytest.mark.multidevice
def test_shardings(prefix):
  mesh = jax.make_mesh((4, 2), ("a", "b"))
  put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
  x = np.arange(64.0, dtype=np.float32).reshape(8, 8)
  _save(prefix, 1, tree={"p": {"x": put(x, "a", "b"), "y": put(x)}, "z": x[0]})
  folder = prefix + "-000000001"
  # One chunk per shard, one in all where all devices hold the same.
  assert len(os.listdir(folder + "/p~x")) == 2 + 8
  assert len(os.listdir(folder + "/p~y")) == 2 + 1
  with open(folder + "/p~x/.zarray", encoding="utf-8") as f:
    assert json.load(f)["chunks"] == [2, 4]

  other = NamedSharding(mesh, P("b"))
  tree = jax.eval_shape(lambda: {"p": {"x": jnp.array(x), "y": 0}, "z": 0})
  tree["p"]["y"] = tree["z"] = 0
  got = checkpoints.load_checkpoint_ts(
    prefix,
    tree=tree,
    shardings={"p": other, "z": "host"},  # A prefix.
  )
  assert got["p"]["x"].sharding == other and got["p"]["y"].sharding == other
  np.testing.assert_array_equal(got["p"]["x"], x)
  np.testing.assert_array_equal(got["p"]["y"], x)
  assert isinstance(got["z"], np.ndarray)
  for shard in got["p"]["x"].addressable_shards:
    np.testing.assert_array_equal(shard.data, x[shard.index])


def test_reads_in_batches(prefix, monkeypatch):
  _save(prefix, 1)
  monkeypatch.setattr(checkpoint_io, "_BATCH_BYTES", 10)
  _assert_same(checkpoints.load_checkpoint_ts(prefix, tree=_tree()), _tree(1))


def test_under_transfer_guard_and_in_a_notebook(prefix):
  tree = _tree(1)
  with jax.transfer_guard("disallow"):
    _save(prefix, 1, tree=tree)
    got = checkpoints.load_checkpoint_ts(prefix, tree=tree)
  _assert_same(got, tree)

  async def cell():  # Notebooks run code inside an event loop.
    _save(prefix, 2, tree=tree)
    return checkpoints.load_checkpoint_ts(prefix, tree=tree)

  _assert_same(asyncio.run(cell()), tree)


def test_reads_checkpoints_of_earlier_versions(tmp_path):
  """Written by tensorstore alone, chunked as four shards, LAST by hand."""
  rng = np.random.default_rng(0)
  tree = {
    "params": {
      "head": {"kernel": rng.normal(size=(8, 6)).astype(np.float32)},
      "scale": rng.normal(size=6).astype(jnp.bfloat16),
    },
    "opt": [np.int32(12345), {"mu": np.zeros((4, 2), np.float32)}],
  }
  prefix = str(tmp_path / "checkpoint.bv")
  for name, x in _flat(tree).items():
    dtype = "bfloat16" if x.dtype == jnp.bfloat16 else x.dtype.str
    chunks = [x.shape[0] // 2, x.shape[1] // 2] if x.ndim == 2 else x.shape
    ts.open(
      {
        "driver": "zarr",
        "kvstore": {
          "driver": "file",
          "path": f"{prefix}-000012345/{name.replace('/', '~')}",
        },
        "metadata": {
          "shape": x.shape,
          "chunks": chunks,
          "dtype": dtype,
          "compressor": {"id": "zstd", "level": 1},
          "fill_value": None,
          "order": "C",
        },
      },
      create=True,
    ).result().write(x).result()
  with open(prefix + "-LAST", "w", encoding="utf-8") as f:
    f.write("000012345")
  _assert_same(checkpoints.load_checkpoint_ts(prefix, tree=tree), tree)
  _assert_same(
    checkpoints.load_params(prefix + ":head"), tree["params"]["head"]
  )


def test_missing_chunk_is_an_error(prefix):
  _save(prefix, 1)
  os.remove(prefix + "-000000001/params~bias/0")
  with pytest.raises(Exception, match="0"):  # Never silently zeros.
    checkpoints.load_checkpoint_ts(prefix)


# Remote stores: a folder is never renamed, LAST never names an incomplete one.


def test_remote_protocol(prefix, monkeypatch):
  monkeypatch.setattr(fs, "is_local", lambda path: False)
  monkeypatch.setattr(
    fs, "_store", lambda path: pytest.fail("only renames of files are expected")
  )
  local = {
    "open": lambda p, mode="r": open(
      p, mode, encoding=None if "b" in mode else "utf-8"
    ),
    "exists": os.path.exists,
    "isdir": os.path.isdir,
    "makedirs": lambda p: os.makedirs(p, exist_ok=True),
    "listdir": os.listdir,
    "rename": lambda a, b: os.path.isfile(a) and os.replace(a, b),
    "remove": os.remove,
  }
  for name, fn in local.items():
    monkeypatch.setattr(fs, name, fn)
  monkeypatch.setattr(
    fs, "rmtree", lambda p: shutil.rmtree(p, ignore_errors=True)
  )
  names = lambda: sorted(_names(prefix))
  _save(prefix, 1, keep=False)
  _save(prefix, 1, keep=False, tree=_tree(10))
  assert names() == ["000000001-tmp.partial", "LAST"]
  _assert_same(checkpoints.load_checkpoint_ts(prefix, tree=_tree()), _tree(10))
  _save(prefix, 2, keep=True)
  assert names() == ["000000002", "LAST"]
  os.makedirs(prefix + "-000000001-tmp")
  assert len(checkpoints.collect_orphans(prefix)) == 1
  assert names() == ["000000002", "LAST"]


def test_places_that_orbax_does_not_know(monkeypatch, tmp_path):
  """It would write into a local folder called "s3:"."""
  monkeypatch.chdir(tmp_path)
  manager = checkpoints.CheckpointManager()
  with pytest.raises(
    lookup.ConfigError, match="memory://run/x: .*and on gs://"
  ):
    checkpoints.tssave(manager, {"a": np.zeros(3)}, "memory://run/x")
    manager.wait_until_finished()
  assert list(tmp_path.iterdir()) == []


def test_latest_without_last(prefix):
  """The newest complete checkpoint is found, and survives a start."""
  assert checkpoints.latest(prefix) is None
  tree = {"x": np.arange(3)}
  for step, keep in ((1, True), (2, False)):
    checkpoints.save_checkpoint_ts(_Now(), tree, prefix, step, keep)
  newest = f"{prefix}-000000002-tmp"
  assert checkpoints.latest(prefix) == newest
  os.makedirs(f"{prefix}-000000003")  # Nothing in it.
  for content in (None, "000000009", ""):
    os.remove(f"{prefix}-LAST")
    if content is not None:
      with open(f"{prefix}-LAST", "w", encoding="utf-8") as f:
        f.write(content)
    assert checkpoints.latest(prefix) == newest
    np.testing.assert_array_equal(
      checkpoints.load_checkpoint_ts(prefix)["x"], tree["x"]
    )
    checkpoints.collect_orphans(prefix)
    assert os.path.isdir(newest) and checkpoints._read_last(prefix)


class _Now:
  """A manager with which every save is complete at once."""

  def wait_until_finished(self):
    pass
