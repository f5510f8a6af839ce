"""Each stage of planning on functions small enough to count by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from big_vision.planning import flops, fusion, graph, memory, partition, passes

F32 = 4


def trace(fn, *shapes):
  args = [jax.ShapeDtypeStruct(s, np.float32) for s in shapes]
  return graph.from_jaxpr(jax.make_jaxpr(fn)(*args))


def names(g):
  return [op.name for op in g.ops]


def nbytes(value):
  return value.size * value.itemsize


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


@pytest.mark.parametrize(
  "fn, shapes, want",
  [
    (lambda a, b: a @ b, [(3, 4), (4, 5)], 2 * 3 * 4 * 5),
    (
      lambda a, b: jnp.einsum("bij,bjk->bik", a, b),
      [(7, 3, 4), (7, 4, 5)],
      7 * 2 * 3 * 4 * 5,
    ),
    (lambda a: a + a * 3, [(10,)], 20),
    (lambda a: a.sum(), [(10, 3)], 30),
    (lambda a: a**4, [(10,)], 30),
    (lambda a: jnp.exp(a), [(10,)], 0),  # XLA lists these apart.
    (
      lambda a: lax.scan(lambda c, _: (c * 2, None), a, length=6)[0],
      [(10,)],
      60,
    ),
    (
      lambda a: lax.cond(a[0] > 0, lambda x: x * 2 + 1, lambda x: x, a),
      [(10,)],
      20 + 1,
    ),
  ],
)
def test_flops(fn, shapes, want):
  assert flops.count(trace(fn, *shapes))[0] == want


@pytest.mark.parametrize(
  "stride, padding", [(1, "SAME"), (2, "SAME"), (3, "VALID")]
)
@pytest.mark.parametrize("dilation", [1, 2])
def test_flops_of_convolutions(stride, padding, dilation):
  """Pairs of numbers that are multiplied, counted with ones."""
  args = dict(
    window_strides=(stride, stride),
    padding=padding,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  conv = lambda x, k: lax.conv_general_dilated(x, k, **args)
  shapes = (2, 9, 8, 3), (3, 2, 3, 5)
  pairs = conv(*map(jnp.ones, shapes)).sum()
  total, products = flops.count(trace(conv, *shapes))
  assert total == products == 2 * pairs


def test_memory_of_a_chain():
  """Of products one after the other two are there at a time."""
  n = 64
  fn = lambda x, *ws: x @ ws[0] @ ws[1] @ ws[2] @ ws[3]
  g = trace(fn, *[(n, n)] * 5)
  peak, traffic = memory.peak(g, nbytes)
  assert peak.total() == 2 * n * n * F32
  assert traffic == 4 * 3 * n * n * F32


def test_memory_of_a_gradient():
  """The backward pass reads the activations, which are kept until then."""
  n, layers = 64, 5

  def fn(x, *ws):
    for w in ws:
      x = x @ w
    return x.sum()

  g = trace(
    jax.grad(fn, argnums=range(1, layers + 1)), *[(n, n)] * (layers + 1)
  )
  peak, _ = memory.peak(g, nbytes)
  each = n * n * F32
  # The activations but the last one, or the gradients that take their place,
  # and the one or two buffers that are computed from them.
  assert layers * each <= peak.total() <= (layers + 2) * each


def test_donated_arguments_take_no_memory():
  g = trace(lambda x, y: (x * 2 + y.sum(), y), (1000,), (1000,))
  assert memory.peak(g, nbytes)[0].total() >= 1000 * F32
  peak, _ = memory.peak(g, nbytes, donated=[(0, 0), (1, 1)])
  assert peak.total() <= 4  # The sum.


def test_fusion_of_expensive_values():
  fn = lambda x, w: (jnp.exp(x) @ w).sum() + (jnp.exp(x) @ w.T).sum()
  g = trace(fn, (8, 8), (8, 8))
  (exp,) = [op.outputs[0] for op in g.ops if op.name == "exp"]
  assert exp in fusion.Fusion(g, nbytes).stored
  # On TPUs it is computed where the products read it.
  assert exp not in fusion.Fusion(g, nbytes, fused_products=True).stored
  # A chain of elementwise operations has no buffer but its result.
  g = trace(lambda x: jnp.tanh(jnp.exp(x) + 1) * 3, (100,))
  stored = fusion.Fusion(g, nbytes).stored
  assert stored == {*g.inputs, *g.outputs}


def split(fn, shapes, specs, mesh, batch=("data",)):
  """The graph of a function, partitioned, and its collectives."""
  g = trace(fn, *shapes)
  for v, spec in zip(g.inputs, specs, strict=True):
    v.spec = spec
  parts = partition.Partition(mesh, batch)
  parts.run(g)
  return g, parts


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


def test_small_sums_are_combined():
  """Up to 30 MiB in one, in the order in which they are computed."""

  def fn(*xs):
    return [graph.scatter_p.bind(x * 2, spec=((),)) for x in xs]

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
