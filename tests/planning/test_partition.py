"""How splits go through operations, and the communication that they cost."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from big_vision import compat
from big_vision.planning import flops, jaxpr, partition, primitives
from plans import F32, names, split

M = ("model",)


def test_split_products():
  mesh = {"data": 2, "model": 4}
  split_rows, split_columns = ((), ("model",)), (("model",), ())
  g, parts = split(
    lambda x, a, b: jnp.tanh(x @ a) @ b,
    [(6, 8), (8, 16), (16, 8)],
    [((), ()), split_rows, split_columns],
    mesh,
  )
  # As in Megatron: the sum after the second product is the only communication.
  (c,) = parts.collectives
  assert (c.kind, c.devices, c.bytes, c.times) == (
    "all-reduce",
    4,
    6 * 8 * F32,
    1,
  )
  assert c.sent == 2 * 3 / 4 * c.payload
  assert g.outputs[0].spec == ((), ())
  hidden = next(op.outputs[0] for op in g.ops if op.name == "tanh")
  assert hidden.spec == ((), ("model",))
  assert parts.bytes(hidden) == 6 * 16 * F32 // 4
  # Both products are divided among the four devices.
  total, _ = flops.count(g, parts.share)
  assert total == 2 * (2 * 6 * 8 * 16) // 4


def test_splits_of_shapes():
  mesh = {"model": 2}
  heads = ((), ("model",))
  fn = lambda x: x.reshape(5, 4, 3).transpose(1, 0, 2)
  g, _ = split(fn, [(5, 12)], [heads], mesh, batch=())
  # 12 = 4 heads of 3: the first of the two dimensions is the split one.
  assert g.outputs[0].spec in ((("model",), (), ()), ((), (), ()))
  g, parts = split(lambda x: x.sum(0), [(5, 12)], [heads], mesh, batch=())
  assert g.outputs[0].spec == (("model",),)
  assert not parts.collectives


@pytest.mark.parametrize(
  "fn, spec, want",
  [
    (lambda x: jnp.exp(x) + 1, ((), M), ((), M)),
    (lambda x: x.T, ((), M), (M, ())),
    (lambda x: x.sum(0), ((), M), (M,)),
    (lambda x: x.sum(1), ((), M), ((),)),
    (lambda x: x[None], ((), M), ((), (), M)),
    (lambda x: jnp.broadcast_to(x[:, None], (4, 3, 6)), ((), M), ((), (), M)),
    (lambda x: x[:2], ((), M), ((), M)),
    (lambda x: x[:, :3], ((), M), ((), ())),
    (lambda x: jnp.pad(x, ((1, 0), (0, 0))), ((), M), ((), M)),
    (lambda x: jnp.concatenate([x, x]), ((), M), ((), M)),
    (lambda x: jnp.stack([x, x], axis=1), ((), M), ((), (), M)),
    (lambda x: jnp.unstack(x, axis=0)[1], ((), M), (M,)),
    (lambda x: jnp.split(x, 2, axis=0)[1], ((), M), ((), M)),
    (lambda x: x.reshape(4, 2, 3), ((), M), ((), M, ())),
    (lambda x: x.reshape(2, 2, 6), (M, ()), (M, (), ())),
    (lambda x: jnp.sort(x, axis=0), ((), M), ((), M)),
  ],
)
def test_rules(fn, spec, want):
  g, parts = split(fn, [(4, 6)], [spec], {"model": 2}, batch=())
  assert g.outputs[0].spec == want
  assert not parts.collectives


def test_rules_of_the_table_exist():
  rules = {row.split for row in primitives.KNOWN.values()}
  assert rules == set(partition.RULES)


def test_convolution():
  """Output features are split as those of the kernel."""
  conv = lambda x, k: jax.lax.conv_general_dilated(
    x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  shapes = [(2, 8, 8, 3), (3, 3, 3, 4)]
  specs = [((),) * 4, ((), (), (), M)]
  g, parts = split(conv, shapes, specs, {"model": 2}, batch=())
  assert g.outputs[0].spec == ((), (), (), M) and not parts.collectives
  assert parts.share(g.outputs[0].op) == 2


def test_operands_that_are_split_together_are_summed():
  """Both have the dimension over which the product sums in parts."""
  g, parts = split(
    lambda a, b: a @ b, [(4, 6), (6, 8)], [((), M), (M, ())], {"model": 2}, ()
  )
  (c,) = parts.collectives
  assert (c.kind, c.axes, c.payload) == ("all-reduce", M, 4 * 8 * F32)
  assert g.outputs[0].spec == ((), ()) and parts.share(g.outputs[0].op) == 2


def test_sharding_constraints_count():
  """Those on a split dimension gather it, on a mesh as the planner makes it."""
  mesh = compat.abstract_mesh({"data": 2, "model": 4})
  whole = NamedSharding(mesh, PartitionSpec())

  def fn(x):
    return jax.lax.with_sharding_constraint(x * 2, whole)

  with jax.sharding.use_abstract_mesh(mesh):
    sizes = {"data": 2, "model": 4}
    g, parts = split(fn, [(4, 8)], [((), M)], sizes)
  (c,) = parts.collectives
  assert (c.kind, c.devices, c.bytes) == ("all-gather", 4, 4 * 8 * F32)
  assert c.sent == 3 / 4 * c.payload
  assert g.outputs[0].spec == ((), ())


def test_logical_constraints_are_traced():
  """The way in which models write them."""
  rules = [("act_batch", "data"), ("act_emb", "model")]
  fn = lambda x: nn.with_logical_constraint(x, ("act_batch", "act_emb"))
  mesh = compat.abstract_mesh({"data": 2, "model": 4})
  with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules(rules):
    g, _ = split(fn, [(4, 8)], [((), ())], {"data": 2, "model": 4})
  assert names(g) == ["sharding_constraint"]
  assert g.outputs[0].spec == ((), M)  # The batch is one share already.


def test_loops_repeat_their_communication():
  def fn(x, ws):
    return jax.lax.scan(lambda c, w: (c @ w, None), x, ws)[0]

  # Each layer sums over a split dimension.
  g, parts = split(
    fn, [(4, 6), (5, 6, 6)], [((), M), ((), M, ())], {"model": 2}, ()
  )
  (c,) = parts.collectives
  assert (c.kind, c.times, c.bytes) == ("all-reduce", 5, 4 * 6 * F32)
  assert c.payload == 5 * 4 * 6 * F32
  assert flops.count(g, parts.share)[0] == 5 * 2 * 4 * 6 * 6 // 2


def test_parameters_are_gathered_and_gradients_scattered():
  mesh, data = {"data": 4}, ("data",)

  def fn(w, v):
    whole = jaxpr.gather_p.bind(w)
    return (
      jaxpr.scatter_p.bind(whole * 2, spec=(data, ())),
      jaxpr.scatter_p.bind(v * 2, spec=((), ())),
    )

  g, parts = split(fn, [(8, 6), (8, 6)], [(data, ()), ((), ())], mesh)
  size = 8 * 6 * F32
  assert [(c.kind, c.bytes) for c in parts.collectives] == [
    ("all-gather", size),
    ("reduce-scatter", size),
    ("all-reduce", size),
  ]
  assert [v.spec for v in g.outputs] == [(data, ()), ((), ())]
  gathered = next(op.outputs[0] for op in g.ops if op.name == "gather_params")
  assert gathered.part == "gathered parameters"
  assert (
    parts.bytes(gathered) == size and parts.bytes(g.outputs[0]) == size // 4
  )


def test_spec_of():
  mesh = compat.abstract_mesh({"a": 2, "b": 2})
  spec = lambda *p: partition.spec_of(NamedSharding(mesh, PartitionSpec(*p)), 3)
  assert spec() == ((), (), ())
  assert spec(None, "a") == ((), ("a",), ())
  assert spec(("a", "b")) == (("a", "b"), (), ())
