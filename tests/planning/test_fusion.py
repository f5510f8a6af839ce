"""Which values have a buffer."""

import jax.numpy as jnp
from jax import lax

from big_vision.planning import fusion
from plans import nbytes, trace


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


def of(g, name):
  """The result of the first operation of a name."""
  return next(op.outputs[0] for op in g.ops if op.name == name)


def test_views_have_none():
  g = trace(lambda x, w: x.reshape(6, 4).T @ w, (2, 3, 4), (6, 5))
  found = fusion.Fusion(g, nbytes)
  assert found.stored == {*g.inputs, *g.outputs}
  (product,) = [op for op in g.ops if op.name == "dot_general"]
  assert set(found.reads(product)) == set(g.inputs)


def test_reductions_are_fused_with_what_they_read():
  g = trace(lambda x: (x * 2).sum(1), (8, 8))
  found = fusion.Fusion(g, nbytes)
  assert (
    of(g, "mul") not in found.stored and of(g, "reduce_sum") in found.stored
  )
  # Its root is what is read instead.
  assert found.roots(of(g, "mul")) == (g.inputs[0],)


def test_what_other_operations_read_is_stored():
  g = trace(lambda x: lax.cumsum(x * 2) * 3, (8, 8))
  found = fusion.Fusion(g, nbytes)
  assert {of(g, "mul"), of(g, "cumsum")} <= found.stored


def test_cheap_values_are_computed_again_if_that_reads_less():
  """A mask of one row is; a sum of three arrays is not."""

  def uses(value, x):
    return sum((jnp.sin(value * k) * x).sum() for k in (2.0, 3.0, 5.0))

  mask = lambda r, x: uses(jnp.broadcast_to(r[None] > 0, x.shape) * 1.0, x)
  g = trace(mask, (64,), (64, 64))
  assert of(g, "broadcast_in_dim") not in fusion.Fusion(g, nbytes).stored
  several = lambda a, b, c, x: uses(a + b + c, x)
  g = trace(several, *[(64, 64)] * 4)
  adds = [op.outputs[0] for op in g.ops if op.name == "add"]
  assert adds[1] in fusion.Fusion(g, nbytes).stored
  assert adds[0] not in fusion.Fusion(g, nbytes).stored


def test_runs():
  g = trace(lambda x: (jnp.exp(x) * 2).sum(), (8,))
  found = fusion.Fusion(g, nbytes)
  assert [op.name for op in g.ops if found.runs(op)] == ["reduce_sum"]
