"""Tests for sharding rules, on a mesh of 4 x 2 devices."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import sharding
from big_vision.pp.registry import Registry

P = PartitionSpec


def make_mesh(**axes):
  num = int(np.prod(list(axes.values())))
  grid = np.asarray(jax.devices()[:num]).reshape(*axes.values())
  return Mesh(grid, tuple(axes))


@pytest.fixture
def mesh():
  return make_mesh(data=4, model=2)


def shapes(dtype=jnp.float32, **kw):
  return {k: jax.ShapeDtypeStruct(v, dtype) for k, v in kw.items()}


def infer_one(shape, tactic, mesh, dtype=jnp.float32):
  tree = shapes(dtype, x=shape)
  out = sharding.infer_sharding(tree, [(".*", tactic)], mesh)
  assert out["x"].mesh is mesh
  return out["x"].spec


@pytest.mark.parametrize(
  "shape, tactic, expected",
  [
    ((2048, 1024), 'fsdp(axis="data")', P("data", None)),
    # Exactly 4 MiB is not large enough.
    ((1024, 1024), 'fsdp(axis="data")', P(None, None)),
    ((1024, 1024), 'fsdp("data", min_size_to_shard_mb=0)', P(None, "data")),
    ((1025, 3, 1024), 'fsdp("data")', P(None, None, "data")),
    ((2048, 1024), 'shard_dim("model",-1)|fsdp("data")', P("data", "model")),
    ((2048, 1024), 'fsdp(axis=["data","model"])', P(("data", "model"), None)),
    ((3, 5), 'fsdp("data", 0)', P(None, None)),
    ((), 'fsdp("data", 0)', P()),
    ((), "replicate", P()),
    ((4, 4), "replicate", P(None, None)),
    ((4, 4), "replicate() | replicate()", P(None, None)),
    ((4, 4), "shard_dim('data', 0) | shard_dim('model', 1)",
     P("data", "model")),
    ((4, 4), "shard_dim('data', -2)", P("data", None)),
    ((8, 4), "shard_dim(('data', 'model'), 0)", P(("data", "model"), None)),
    ((4,), "shard_dim('data', 1, ignore_ndim_error=True)", P(None)),
    ((4,), "shard_dim('data', -2, True)", P(None)),
    ((4,), "logical_partitioning", P(None)),
  ],
)  # fmt: skip
def test_specs(shape, tactic, expected):
  mesh = make_mesh(data=2, model=2)
  assert infer_one(shape, tactic, mesh) == expected


def test_size_threshold_counts_bytes(mesh):
  tactic = 'fsdp("data")'
  assert infer_one((2048, 1024), tactic, mesh, jnp.bfloat16) == P(None, None)
  assert infer_one((2049, 1024), tactic, mesh, jnp.bfloat16) == P(None, "data")


@pytest.mark.parametrize(
  "name, shape, expected",
  [
    ("MlpBlock_0/Dense_0/kernel", (8, 32), P(None, "model")),
    ("MlpBlock_0/Dense_0/bias", (32,), P("model")),
    ("MlpBlock_0/up/kernel", (3, 8, 32), P(None, None, "model")),
    ("MlpBlock_0/Dense_1/kernel", (32, 8), P("model", None)),
    ("MlpBlock_0/Dense_1/bias", (8,), P(None)),
    ("MultiHeadDotProductAttention_0/query/kernel", (8, 4, 2),
     P(None, "model", None)),
    ("MultiHeadDotProductAttention_0/key/bias", (3, 4, 2),
     P(None, "model", None)),
    ("SelfAttn/value/kernel", (3, 8, 4, 2), P(None, None, "model", None)),
    ("CrossAttn/out/kernel", (4, 2, 8), P("model", None, None)),
    ("cross_attention/out/bias", (8,), P(None)),
    ("attention_block/attention_layer/query/kernel", (8, 8), P(None, "model")),
    ("attention_block/dense_layer/kernel", (8, 8), P("model", None)),
    ("mlp_block/mlp/dense_layer/kernel", (8, 32), P(None, "model")),
    ("mlp_block/mlp/dense_layer/bias", (32,), P("model")),
    ("mlp_block/dense_layer/kernel", (32, 8), P("model", None)),
    # Three heads do not split; statistics of optimizers have fewer dimensions.
    ("MultiHeadDotProductAttention_0/query/kernel", (6, 3, 2),
     P(None, None, None)),
    ("MultiHeadDotProductAttention_0/out/kernel", (8, 8), P(None, None)),
    ("MlpBlock_0/Dense_1/kernel", (), P()),
    ("embedding/kernel", (8, 8), P(None, None)),
    ("query_norm/scale", (8,), P(None)),
    ("head/kernel", (8, 8), P(None, None)),
  ],
)  # fmt: skip
def test_tensor_parallel(mesh, name, shape, expected):
  block = f"params/Transformer/encoderblock_0/{name}"
  tree = shapes(**{block: shape, f"opt/0/mu/{block}": shape})
  out = sharding.infer_sharding(
    tree, [(".*", "tensor_parallel('model')")], mesh
  )
  assert [x.spec for x in out.values()] == [expected] * 2


def test_tensor_parallel_with_others(mesh):
  tree = shapes(**{"MlpBlock_0/Dense_0/kernel": (8, 32), "embedding": (6, 8)})
  tactic = "tensor_parallel('model') | fsdp('data', 0)"
  out = sharding.infer_sharding(tree, [(".*", tactic)], mesh)
  assert [x.spec for x in out.values()] == [P("data", "model"), P(None, "data")]
  # What another op has split stays as it is.
  out = sharding.infer_sharding(
    tree, [(".*", "shard_dim('data', -1)|tensor_parallel('model')")], mesh
  )
  assert [x.spec for x in out.values()] == [P(None, "data")] * 2
  with pytest.raises(ValueError, match="no axis 'tensor'"):
    sharding.infer_sharding(tree, [(".*", "tensor_parallel('tensor')")], mesh)


def test_activations_are_split_as_the_tactic_splits_parameters():
  batch = ("act_batch", "data")
  assert sharding.axis_rules({}) == [batch]
  strategy = [("opt/.*", "replicate"), (".*", "fsdp('data')|TACTIC")]
  for tactic in ("tensor_parallel('m')", "tensor_parallel(axis='m')"):
    config = {"sharding_strategy": [
      (regex, t.replace("TACTIC", tactic)) for regex, t in strategy
    ]}  # fmt: skip
    want = [batch, ("act_mlp", "m"), ("act_heads", "m")]
    assert sharding.axis_rules(config) == want
    config["sharding_rules"] = [("act_batch", "x")]  # Those of the user.
    assert sharding.axis_rules(config) == [("act_batch", "x")]
  with pytest.raises(ValueError, match=r"config\.sharding_strategy"):
    sharding.axis_rules({"sharding_strategy": ["tensor_parallel('m')"]})


def test_batches_are_split_like_activations(mesh):
  """Over the axes of examples, where other axes split other things."""
  x = jax.device_put(np.arange(16.0), NamedSharding(mesh, P(("data", "model"))))
  split = jax.jit(sharding.batch_splitter({}, mesh))({"x": x})["x"]
  assert split.sharding.spec == P("data")
  np.testing.assert_array_equal(split, x)
  both = {"sharding_rules": [("act_batch", ("data", "model"))]}
  other = {"sharding_rules": [("act_batch", "fsdp")]}
  for config in (both, other):  # Nothing is to be done.
    batch = {"x": x}
    assert sharding.batch_splitter(config, mesh)(batch) is batch
    assert sharding.example_axes(config, mesh) == ("data", "model")


def test_first_match_wins_and_rest_is_replicated(mesh):
  tree = {"params": {"a": {"kernel": np.ones((8, 4)), "bias": np.ones(8)}},
          "opt": (np.ones((8, 4)), {"count": np.ones(())})}  # fmt: skip
  rules = [
    ("params/a/kernel", "shard_dim('data', 0)"),
    ("params/.*", "shard_dim('model', 0)"),
    ("opt/0", "shard_dim('model', 1)"),
  ]
  out = sharding.infer_sharding(tree, rules, mesh)
  assert out["params"]["a"]["kernel"].spec == P("data", None)
  assert out["params"]["a"]["bias"].spec == P("model")
  assert out["opt"][0].spec == P(None, "model")
  assert out["opt"][1]["count"].spec == P()
  # A rule has to match the whole name.
  out = sharding.infer_sharding(
    tree, [("params", "shard_dim('data', 0)")], mesh
  )
  assert all(not any(s.spec) for s in jax.tree.leaves(out))


@pytest.mark.parametrize("strategy", [[], (), None])
def test_empty_strategy_replicates(mesh, strategy):
  out = sharding.infer_sharding(shapes(x=(8, 8)), strategy, mesh)
  assert out["x"] == NamedSharding(mesh, P(None, None))


@pytest.mark.parametrize(
  "shape, tactic, message",
  [
    ((8, 8), "fsdp('data', 0)|replicate", "Inconsistent sharding instructions"),
    ((8, 8), "shard_dim('data', 0)|shard_dim('model', 0)", "sharded already"),
    ((8, 8), "shard_dim('data', 2)", "no dimension 2"),
    ((8, 8), "shard_dim('data', -3)", "no dimension -3"),
    ((8, 8), "shard_dim('data', 0)|shard_dim('data', 1)", "more than one dim"),
    ((8, 8), "shard_dim('data', 0)|fsdp('data', 0)", "more than one dim"),
    ((6, 8), "shard_dim('data', 0)", "size 6 cannot be split over the 4"),
    ((8, 8), "fsdp('dat')", "no axis 'dat'. Did you mean 'data'"),
    ((8, 8), "shard_dim('x', 0)", "no axis 'x'.*config.mesh"),
  ],
)
def test_errors_name_rule_and_leaf(mesh, shape, tactic, message):
  with pytest.raises(ValueError, match=message) as e:
    infer_one(shape, tactic, mesh)
  assert repr(tactic) in str(e.value) and "for x with shape" in str(e.value)
  assert "config.sharding_strategy" in str(e.value)


@pytest.mark.parametrize("tactic", ["fsdp(data)", "fsdp('data'", "", "fsdp(", 3,
                                    "fsdp('data')||replicate", "fsdp()",
                                    "fsdp(['data', 'data'], 0)",
                                    "fsdp('data', size=3)"])  # fmt: skip
def test_unreadable_tactics(mesh, tactic):
  with pytest.raises(ValueError, match=r"config\.sharding_strategy"):
    infer_one((8, 8), tactic, mesh)


def test_bad_rules(mesh):
  for bad in (["replicate"], [(".*",)], [".*"]):
    with pytest.raises(ValueError, match="list of"):
      sharding.infer_sharding(shapes(x=(2,)), bad, mesh)
  with pytest.raises(KeyError, match="replicat.*Did you mean 'replicate'"):
    infer_one((8, 8), "replicat", mesh)
  with pytest.raises(KeyError, match="fsdb"):  # Even if no leaf matches.
    sharding.infer_sharding(shapes(x=(2,)), [("y", "fsdb('data')")], mesh)


def test_own_op_and_bar_in_arguments(mesh):
  seen = []

  @Registry.register("shardings.test_op")
  def test_op(text, dim=0):
    def apply(cur_spec, mesh, name, x):
      seen.append((text, name, x.shape, x.dtype, cur_spec))
      return tuple("model" if i == dim else s for i, s in enumerate(cur_spec))

    return apply  # fmt: skip

  try:
    tactic = "shard_dim('data', 0)|test_op('a|b', dim=1)"
    assert infer_one((4, 2), tactic, mesh) == P("data", "model")
    assert seen == [("a|b", "x", (4, 2), jnp.float32, ("data", None))]
  finally:
    del Registry.global_registry()["shardings.test_op"]


def boxed_tree():
  class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
      init = nn.with_logical_partitioning(nn.initializers.ones, ("in", "out"))
      x = nn.Dense(8, kernel_init=init, name="a")(x)
      init = nn.with_partitioning(nn.initializers.ones, ("model", None))
      return nn.Dense(4, kernel_init=init, name="b")(x)

  model = Model()
  return jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8)))


@pytest.mark.parametrize("scope", [True, False])
def test_boxed_params(mesh, scope):
  tree = boxed_tree()
  rules = [("out", "model"), ("in", None)]

  def infer(strategy):
    with nn.logical_axis_rules(rules):
      if not scope:
        out = sharding.infer_sharding(tree, strategy, mesh)
      else:
        with jax.set_mesh(mesh):
          out = sharding.infer_sharding(tree, strategy, mesh)
    assert jax.tree.structure(out) == jax.tree.structure(nn.unbox(tree))
    return {f"{m}/{k}": out["params"][m][k].spec for m in "ab"
            for k in ("kernel", "bias")}  # fmt: skip

  out = infer([(".*", "replicate")])
  assert not any(any(s) for s in out.values())
  out = infer([("params/a/kernel", "logical_partitioning")])
  assert out["a/kernel"] == P(None, "model")
  assert out["b/kernel"] == P(None, None)  # Only rules that match.
  out = infer([(".*", "logical_partitioning|fsdp('data', 0)")])
  assert out == {
    "a/kernel": P("data", "model"),
    "a/bias": P("data"),
    "b/kernel": P("model", "data"),
    "b/bias": P("data"),
  }
  with pytest.raises(ValueError, match="sharded already"):
    infer([("params/a/kernel", "shard_dim('data', 1)|logical_partitioning")])


def test_boxed_statistics_of_another_shape(mesh):
  # Such as the unused (1,) arrays of Adafactor.
  value = jax.ShapeDtypeStruct((1,), jnp.float32)
  tree = {"x": nn.LogicallyPartitioned(value, names=("in", "out"))}
  with nn.logical_axis_rules([("in", "data"), ("out", "model")]):
    out = sharding.infer_sharding(tree, [(".*", "logical_partitioning")], mesh)
  assert out["x"].spec == P(None)


def test_result_places_arrays(mesh):
  tree = {"w": jnp.arange(32.0).reshape(8, 4), "b": jnp.ones(3)}
  out = sharding.infer_sharding(
    tree, [("w", "fsdp(['data', 'model'], 0)")], mesh
  )
  placed = jax.jit(lambda: tree, out_shardings=out)()
  assert placed["w"].addressable_shards[0].data.shape == (1, 4)
  assert placed["b"].is_fully_replicated
  np.testing.assert_array_equal(placed["w"], tree["w"])


def test_mentions_of_ops_in_errors_are_short(mesh):
  with pytest.raises(KeyError) as e:
    infer_one((2,), "shard_dims('data', 0)", mesh)
  assert re.search("'shard_dims'.*'shard_dim'", str(e.value))
