"""Checkpoints of orbax's checkpointers load here."""

import pathlib
import re

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import v1

from big_vision import checkpoints, lookup

pytestmark = pytest.mark.filterwarnings("ignore")


def _tree():
  params = {"a": jnp.arange(48.0).reshape(8, 6), "head": {"b.c": jnp.ones(3)}}
  return {
    "params": params,
    "opt": optax.adam(0.1).init(params),  # Tuples with names.
    "list": [jnp.int32(3), {"half": jnp.full(3, 1.5, jnp.bfloat16)}],
    "step": np.array(1 << 40),
    "time": 2.5,
    "nothing": None,
  }


def _standard(path, tree):
  with ocp.StandardCheckpointer() as c:
    c.save(path, tree)


def _manager(path, tree):
  with ocp.CheckpointManager(path) as m:
    m.save(7, args=ocp.args.StandardSave(tree))
    m.wait_until_finished()


def _folders(path, tree):
  """One folder for each leaf, as PyTreeCheckpointer once wrote by default."""
  ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)).save(
    path, tree
  )


def _earliest(path, tree):
  """As before there was a file with shapes and types."""
  _folders(path, tree)
  (path / "_METADATA").unlink()
  named = lambda *names: {n.split(".")[-1]: f"PLACEHOLDER://{n}" for n in names}
  content = {
    "params": {
      **named("params.a"),
      "head": {"b.c": "PLACEHOLDER://params.head.b.c"},
    },
    "list": {"0": "PLACEHOLDER://list.0", "1": named("list.1.half")},
    **named("step", "time"),
  }
  (path / "checkpoint").write_bytes(msgpack.packb(content))


WRITERS = {
  "pytree": lambda path, tree: ocp.PyTreeCheckpointer().save(path, tree),
  "standard": _standard,
  "v1": v1.save_pytree,
  "manager": _manager,
  "folders": _folders,
  "earliest": _earliest,
}


@pytest.fixture(scope="module", params=WRITERS)
def folder(request, tmp_path_factory):
  path = pathlib.Path(tmp_path_factory.mktemp("orbax") / request.param)
  WRITERS[request.param](path, _tree())
  return str(path / "7" if request.param == "manager" else path)


def test_values(folder):
  names = checkpoints.leaf_names(folder)
  assert {"params/a", "params/head/b.c", "list/1/half", "step"} <= set(names)
  got = checkpoints.tsload(folder, shardings="host")
  want = _tree()
  np.testing.assert_array_equal(got["params"]["a"], want["params"]["a"])
  np.testing.assert_array_equal(got["list"]["1"]["half"], [1.5] * 3)
  assert got["list"]["1"]["half"].dtype == jnp.bfloat16
  assert got["step"] == 1 << 40 and got["time"] == 2.5
  params = checkpoints.load_params(folder)
  assert jax.tree.structure(params) == jax.tree.structure(want["params"])
  np.testing.assert_array_equal(
    checkpoints.load_params(f"{folder}:head")["b.c"], np.ones(3)
  )


@pytest.mark.multidevice
def test_parts_in_other_shardings(folder):
  mesh = jax.make_mesh((4,), ("data",))
  sharding = NamedSharding(mesh, P("data"))
  tree = {
    "params": {"a": jax.ShapeDtypeStruct((8, 6), jnp.float32)},
    "list": [0, {"half": 0}],
  }
  where = {"params": sharding, "list": NamedSharding(mesh, P())}
  got = checkpoints.tsload(folder, tree=tree, shardings=where)
  assert got["params"]["a"].sharding == sharding
  np.testing.assert_array_equal(
    got["params"]["a"], np.arange(48.0).reshape(8, 6)
  )
  assert isinstance(got["list"], list) and got["list"][0] == 3
  tree["params"]["a"] = jax.ShapeDtypeStruct((8, 5), jnp.float32)
  with pytest.raises(ValueError, match=r"'params/a' should be \(8, 5\)"):
    checkpoints.tsload(folder, tree=tree)
  with pytest.raises(ValueError, match="lacks 'params/b'.*'params/a'"):
    checkpoints.tsload(folder, tree={"params": {"b": 0}})


def test_damaged_metadata(tmp_path):
  _standard(tmp_path / "a", _tree())
  (tmp_path / "a/_METADATA").write_text('{"tree_metadata": {"x')
  with pytest.raises(lookup.ConfigError, match="/a' is damaged") as e:
    checkpoints.tsload(str(tmp_path / "a"))
  assert "\n" not in str(e.value)


def test_code_of_the_docs(tmp_path, monkeypatch):
  """Plain orbax opens what is written here, and what is exported from it."""
  monkeypatch.chdir(tmp_path)
  tree = {"params": {"head": {"kernel": jnp.arange(6.0).reshape(2, 3)}}}
  tree["opt"] = [jnp.int32(3), {"half": jnp.full(3, 1.5, jnp.bfloat16)}]
  manager = checkpoints.CheckpointManager()
  checkpoints.save_checkpoint_ts(manager, tree, "workdir/checkpoint.bv", 100)
  manager.close()
  docs = pathlib.Path(__file__).parents[1] / "docs" / "checkpoints.md"
  blocks = re.findall(r"```python\n(.*?)```", docs.read_text("utf-8"), re.S)
  # Others are about averages of a run.
  blocks = [b for b in blocks if "ema" not in b]
  read, open_flat, export, open_export = blocks
  scope = {}
  exec(read, scope)
  kernel = scope["state"]["params"]["head"]["kernel"]
  np.testing.assert_array_equal(kernel, tree["params"]["head"]["kernel"])

  assert len(open_flat.strip().splitlines()) <= 5
  scope = {}
  exec(open_flat, scope)
  flat = scope["flat"]
  assert set(flat) == {"params~head~kernel", "opt~0", "opt~1~half"}
  np.testing.assert_array_equal(flat["params~head~kernel"], kernel)
  assert flat["opt~1~half"].dtype == jnp.bfloat16

  exec(export, {})
  # Each of the three ways on its own.
  start, *ways = re.split(r"^tree = ", open_export, flags=re.M)
  assert len(ways) == 3
  for way in ways:
    scope = {}
    exec(f"{start}tree = {way}", scope)
    got = scope["tree"]
    np.testing.assert_array_equal(got["params"]["head"]["kernel"], kernel)
    assert got["opt"]["1"]["half"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    checkpoints.load_params("./exported:head")["kernel"], kernel
  )
