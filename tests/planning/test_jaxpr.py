"""Traced functions as graphs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from big_vision import compat
from big_vision.planning import graph, jaxpr
from plans import names, trace


def test_graph_has_what_runs():
  @jax.jit
  def inner(x):
    unused = jnp.cos(x)
    del unused
    return jnp.sin(x) * 2

  g = trace(lambda x: inner(x) + jnp.sin(x), (3,))
  # Calls are inlined, the cosine is gone, the sine is computed once.
  assert [n for n in names(g) if n in ("sin", "cos", "jit", "pjit")] == ["sin"]
  assert g.outputs[0].op.name == "add"


def test_calls_are_inlined():
  @jax.custom_vjp
  def own(x):
    return jnp.sin(x)

  own.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * 2,))
  fn = lambda x: own(x) + jax.nn.relu(jax.jit(jnp.exp)(x))
  assert sorted(set(names(trace(fn, (3,)))) - {"literal"}) == [
    "add", "exp", "max", "sin",
  ]  # fmt: skip


def test_checkpoints_compute_again():
  layer = lambda x: jnp.sin(jnp.sin(x))
  count = lambda fn: names(trace(jax.grad(lambda x: fn(x).sum()), (3,))).count
  assert count(layer)("sin") == 1  # The outer sine has no use in a gradient.
  again = jax.checkpoint(layer)
  assert count(lambda x: again(x) * jnp.sin(x))("sin") >= 3


def test_identities_and_casts_to_the_same_dtype_are_gone():
  fn = lambda x: lax.stop_gradient(jnp.copy(x.astype(jnp.float32))) * 2
  assert [n for n in names(trace(fn, (3,))) if n != "literal"] == ["mul"]


def test_scan():
  def fn(w, c, xs):
    return lax.scan(lambda c, x: (c + x * w, c), c, xs)

  g = trace(fn, (), (), (5,))
  (op,) = [op for op in g.ops if op.bodies]
  assert (op.scan.num_consts, op.scan.num_carry, op.scan.length) == (1, 1, 5)
  assert op.times == 5
  (body,) = op.bodies
  assert sorted(names(body)) == ["add", "mul"]
  assert len(body.inputs) == len(op.inputs) == 3


def test_while_has_the_body_only():
  g = trace(lambda x: lax.while_loop(lambda x: x < 3, lambda x: x * 2, x), ())
  (op,) = [op for op in g.ops if op.bodies]
  assert op.name == "while" and op.times == 1 and op.scan is None
  assert [n for n in names(op.bodies[0]) if n != "literal"] == ["mul"]


def test_cond_has_all_branches():
  branches = [lambda x: x * 2, jnp.sin, lambda x: x]
  g = trace(lambda x: lax.switch(1, branches, x), (3,))
  g = g if any(op.bodies for op in g.ops) else trace(
    lambda x: lax.switch(x[0].astype(int), branches, x), (3,)
  )  # fmt: skip
  (op,) = [op for op in g.ops if op.bodies]
  kinds = [{*names(b)} - {"literal"} for b in op.bodies]
  assert kinds == [{"mul"}, {"sin"}, set()]


def test_functions_within_that_are_not_known():
  """The work of a shard_map is not that of the arrays around it."""
  mesh = compat.abstract_mesh({"data": 2})
  fn = jax.shard_map(
    jnp.sin, mesh=mesh, in_specs=PartitionSpec("data"),
    out_specs=PartitionSpec("data"),
  )  # fmt: skip
  with jax.sharding.use_abstract_mesh(mesh):
    with pytest.raises(ValueError, match="does not know .*'shard_map'"):
      trace(fn, (4,))


def test_values():
  g = trace(lambda x: x.astype(jnp.bfloat16), (3, 4))
  (v,) = g.outputs
  assert (v.shape, v.size, v.itemsize, v.spec) == ((3, 4), 12, 2, ((), ()))
  keys = jaxpr.from_function(jax.random.split, jax.random.key(0)).outputs[0]
  assert keys.shape == (2,) and keys.itemsize == 8


def test_needed():
  g = trace(lambda x: (jnp.sin(x), jnp.cos(x)), (3,))
  kept = graph.needed(g.ops, g.outputs[1:])
  assert [op.name for op in kept] == ["cos"]


def test_constants_are_operations():
  table = np.arange(6.0, dtype=np.float32)
  g = trace(lambda x: x + table, (6,))
  assert "literal" in names(g) and len(g.inputs) == 1
