"""The traced step: what it holds, and what cannot be traced."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from big_vision import train, trees
from big_vision.planning import costs, trace
from plans import CLASSES, FSDP, RES, TENSOR, make_config, names

SIZE = (RES, RES)
TINY = dict(depth=1, width=64, mlp_dim=64, num_heads=4)


def of(mesh, build=train.build, batch=32, **kw):
  return trace.trace(build, make_config(batch, TINY, **kw), mesh, SIZE)


def test_one_device_has_its_share_of_the_batch():
  program = of({"data": 4, "model": 2})
  assert program.num_devices == 8 and program.data_parallel == 4
  assert program.batch_axes == ("data",) and program.batch_size == 32
  assert program.accum_steps == 1
  assert program.batch["image"].shape == (8, *SIZE, 3)
  assert program.batch["labels"].shape == (8, CLASSES)
  # The graph begins with the state and that batch.
  shapes = [v.shape for v in program.graph.inputs]
  state = [x.shape for x in jax.tree.leaves(program.state)]
  assert shapes[: len(state)] == state
  assert (8, *SIZE, 3) in shapes[len(state) :]


def test_parameters_are_marked_once():
  program = of({"data": 2})
  count = names(program.graph).count
  num = len(jax.tree.leaves(program.state["params"]))
  assert count("scatter_grads") == num
  assert num - 1 <= count("gather_params") <= num


def test_micro_batches_are_a_loop():
  program = of({"data": 2}, grad_accum_steps=4)
  assert program.accum_steps == 4
  (loop,) = [op for op in program.graph.ops if op.scan]
  assert loop.scan.length in (3, 4)
  assert any(v.shape == (4, *SIZE, 3) for v in loop.bodies[0].inputs)


def test_leaves():
  program = of({"data": 4}, sharding_strategy=FSDP)
  rows = {name: row for name, *row in trace.leaves(program, "params")}
  shape, whole, local = rows["embedding/kernel"]
  assert shape == (8, 8, 3, 64)
  assert whole == 8 * 8 * 3 * 64 * 4 and local == whole // 4
  shape, whole, local = rows["head/bias"]  # Too small to be split.
  assert whole == local == 4 * CLASSES
  sizes = trace.argument_bytes(program)
  assert sizes["params"] == sum(local for *_, local in rows.values())
  assert set(sizes) == {"params", "opt", "batch"}


def test_the_batch_is_on_all_devices():
  """Also where two of them work on the same examples."""
  sizes = trace.argument_bytes(of({"data": 4, "model": 2}))
  assert sizes["batch"] == 32 // 8 * (math.prod(SIZE) * 3 + CLASSES) * 4


def test_tensor_parallel_constraints_are_in_the_graph():
  """They vanish if the axes of the mesh are explicit."""
  rules = [("act_batch", "data"), ("act_emb", "model")]
  program = of(
    {"data": 2, "model": 2}, sharding_strategy=TENSOR, sharding_rules=rules
  )
  asked = [
    op.params["sharding"].spec
    for op in program.graph.ops
    if op.name == "sharding_constraint"
  ]
  assert len(asked) >= 3
  assert any("model" in str(spec) and "data" not in str(spec) for spec in asked)


def test_frozen_models_are_an_error():
  def build(setup):
    frozen = {"teacher": {"w": np.zeros(3, np.float32)}}
    return dataclasses.replace(train.build(setup), frozen=frozen)

  with pytest.raises(ValueError, match=r"Frozen models \(teacher\)"):
    of({"data": 1}, build)


def test_frozen_models_of_which_only_shapes_are_known():
  """They are arguments of the step, and their forward pass costs."""

  def with_teacher(setup):
    assert setup.abstract
    recipe = train.build(setup)
    shapes = jax.eval_shape(
      recipe.init, jax.random.PRNGKey(0), setup.batch_shapes
    )

    def loss_fn(params, batch, rng, state, *args):
      loss, measured = recipe.loss_fn(params, batch, rng, state, *args)
      taught, _ = recipe.loss_fn(
        state["frozen"]["teacher"], batch, rng, state, *args
      )
      return loss + taught, measured

    frozen = {"teacher": shapes}
    return dataclasses.replace(recipe, loss_fn=loss_fn, frozen=frozen)

  config = make_config(32, TINY, sharding_strategy=FSDP)
  alone, both = (
    costs.estimate(build, config, {"data": 4}, SIZE)
    for build in (train.build, with_teacher)
  )
  extra = {k: v for k, v in both.arguments.items() if k not in alone.arguments}
  # Split as the parameters are.
  assert extra == {"frozen": alone.arguments["params"]}
  assert both.bytes("TPU") >= alone.bytes("TPU") + extra["frozen"]
  # A forward pass is a third of a step.
  ratio = both.product_flops / alone.product_flops
  assert 1.3 < ratio < 1.4
  assert sum(c.kind == "all-gather" for c in both.collectives) > sum(
    c.kind == "all-gather" for c in alone.collectives
  )


@pytest.mark.parametrize(
  "key", ["num_classes", "model_name", "optax_name", "lr"]
)
def test_required_keys(key):
  with pytest.raises(ValueError, match=f"config.{key} is required"):
    of({"data": 1}, **{key: None})


def test_batch_that_cannot_be_split():
  with pytest.raises(ValueError, match="=32 is not divisible by the 5 .*=30"):
    of({"data": 5})
  with pytest.raises(ValueError, match="grad_accum_steps=3 times the 2 .*=30"):
    of({"data": 2}, grad_accum_steps=3)


def test_steps_within_a_shard_map_are_an_error():
  """Its arrays are parts of the share that is planned."""

  def build(setup):
    recipe = train.build(setup)
    spec = jax.sharding.PartitionSpec()

    def grad_fn(*args):
      (loss, measured), grads = recipe.grad_fn(*args)
      twice = jax.shard_map(
        lambda x: 2 * x, mesh=setup.mesh, in_specs=spec, out_specs=spec
      )
      return (twice(loss), measured), grads

    return dataclasses.replace(recipe, grad_fn=grad_fn)

  with pytest.raises(ValueError, match="'shard_map'"):
    of({"data": 2}, build)


def test_adapters():
  """The checkpoint is not read; what is not trained has no optimizer state."""
  lora = dict(rank=2, dtype="bfloat16")
  program = of({"data": 2}, lora=lora, model_init="nowhere.npz")
  whole = of({"data": 2})
  trained = [
    n for n, _ in trees.tree_flatten_with_names(program.state["params"])[0]
  ]
  assert sum(name.endswith("lora_a") for name in trained) >= 6
  assert {n for n in trained if "lora_" not in n} == {
    "head/bias",
    "head/kernel",
  }
  everything = trace.leaves(whole, "params")
  frozen = sum(size for name, _, size, _ in everything if "head" not in name)
  sizes = trace.argument_bytes(program)
  assert sizes["frozen"] == frozen // 2  # Two bytes instead of four.
  # Adam has two numbers for each that is trained; there may be counters.
  assert 0 <= sizes["opt"] - 2 * sizes["params"] < 100
