"""Where parameters are gathered and gradients are summed."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from big_vision.planning import jaxpr, passes
from plans import F32, names, split, trace

gather = jaxpr.gather_p.bind
scatter = lambda x: jaxpr.scatter_p.bind(x, spec=((),) * x.ndim)


def test_small_sums_are_combined():
  """Up to 30 MiB in one, in the order in which they are computed."""

  def fn(*xs):
    return [jaxpr.scatter_p.bind(x * 2, spec=((),)) for x in xs]

  mib = 2**20 // F32
  g, parts = split(
    fn, [(20 * mib,), (4 * mib,), (8 * mib,), (1 * mib,)], [((),)] * 4,
    {"data": 2},
  )  # fmt: skip
  assert len(parts.collectives) == 4
  passes.combine_sums(g, parts.bytes)
  sums = [op for op in g.ops if op.name == "scatter_grads"]
  sizes = [[v.size // mib for v in op.inputs] for op in sums]
  assert sizes == [[20, 4], [8, 1]]


def test_what_a_loop_reads_whole_is_gathered_before_it():
  def fn(x, w):
    return lax.scan(lambda c, _: (c @ gather(w), None), x, length=3)[0]

  g = trace(fn, (4, 4), (4, 4))
  (loop,) = [op for op in g.ops if op.bodies]
  assert "gather_params" in names(loop.bodies[0])
  passes.place_communication(g)
  assert names(g) == ["gather_params", "scan"]
  assert names(loop.bodies[0]) == ["dot_general"]


@pytest.mark.parametrize("outside", [True, False])
def test_stacked_parameters_are_gathered_slice_by_slice(outside):
  def fn(x, ws):
    if outside:
      return lax.scan(lambda c, w: (c @ w, None), x, gather(ws))[0]
    return lax.scan(lambda c, w: (c @ gather(w), None), x, ws)[0]

  g = trace(fn, (4, 4), (3, 4, 4))
  passes.place_communication(g)
  assert names(g) == ["scan"]
  assert names(g.ops[0].bodies[0]) == [
    "scan_slice", "gather_params", "dot_general",
  ]  # fmt: skip


def test_gradients_of_a_loop_are_split_layer_by_layer():
  def fn(x):
    ys = lax.scan(lambda c, _: (c, c * 2), x, length=3)[1]
    return scatter(ys)

  g = trace(fn, (4,))
  passes.place_communication(g)
  assert names(g) == ["scan"] and g.outputs == g.ops[0].outputs[-1:]
  assert names(g.ops[0].bodies[0])[-2:] == ["mul", "scatter_grads"]
  assert g.outputs[0].part == "gradients"
  # What an iteration hands to the next is only split after the last one.
  carried = lambda x: scatter(
    lax.scan(lambda c, _: (c * 2, None), x, length=3)[0]
  )
  g = trace(carried, (4,))
  passes.place_communication(g)
  assert names(g) == ["scan", "scatter_grads"]


def test_parameters_and_gradients_travel_in_fewer_bits():
  def fn(w):
    small = gather(w).astype(jnp.bfloat16)
    return scatter((small * small).astype(jnp.float32))

  g = trace(fn, (4,))
  passes.place_communication(g)
  assert [(op.name, op.outputs[0].itemsize) for op in g.ops] == [
    ("convert_element_type", 2),
    ("gather_params", 2),
    ("mul", 2),
    ("scatter_grads", 2),
    ("convert_element_type", F32),
  ]


def test_parameters_that_are_read_in_full_travel_in_full():
  def fn(w):
    whole = gather(w)
    return whole.astype(jnp.bfloat16), whole + 1

  g = trace(fn, (4,))
  passes.place_communication(g)
  marks = [op for op in g.ops if op.name == "gather_params"]
  assert [op.outputs[0].itemsize for op in marks] == [F32]


def test_combined_sums_wait_for_the_last():
  """What reads an early gradient comes after the sum of all."""

  def fn(a, b):
    early = scatter(a * 2)
    return early + 1, scatter(jnp.cumsum(b))

  g, parts = split(fn, [(8,), (8,)], [((),)] * 2, {"data": 2})
  passes.combine_sums(g, parts.bytes)
  order = names(g)
  assert order.count("scatter_grads") == 1
  assert (
    order.index("cumsum") < order.index("scatter_grads") < order.index("add")
  )
  assert jax.tree.structure(g.outputs).num_leaves == 2
