"""From jaxprs to graphs, with calls inlined.

A jaxpr still has what XLA removes before it decides anything: results that
nobody reads, the same expression twice, calls, copies. `from_jaxpr` removes
these, so that counts and lifetimes are those of the program that runs.
"""

from collections.abc import Callable
from typing import Any

import jax

from big_vision import compat
from big_vision.planning import primitives
from big_vision.planning.graph import Graph, Op, Value, needed

gather_p = compat.Primitive(primitives.GATHER)
scatter_p = compat.Primitive(primitives.SCATTER)
for _p in (gather_p, scatter_p):
  _p.def_abstract_eval(lambda x, **_: x)

_IDENTITIES = frozenset(
  "copy copy_p stop_gradient name random_clone "
  "optimization_barrier reduce_precision".split()
)


def from_function(fn: Callable[..., Any], *args: Any) -> Graph:
  """Traces a function.

  Args:
    fn: function of pytrees of arrays, that JAX can trace.
    *args: its arguments, or `jax.ShapeDtypeStruct` in place of arrays.

  Returns:
    Graph; see `from_jaxpr`.
  """
  return from_jaxpr(jax.make_jaxpr(fn)(*args))


def from_jaxpr(closed: compat.ClosedJaxpr) -> Graph:
  """Turns a traced function into a Graph.

  Args:
    closed: result of `jax.make_jaxpr`.

  Returns:
    Graph; its inputs are those of the jaxpr, constants are operations.

  Raises:
    ValueError: an operation has a function within it whose costs the planner
      cannot tell, such as `shard_map`.
  """
  return _Builder().build(compat.jaxpr_of(closed))


class _Builder:
  """Turns one jaxpr, with the calls in it, into one Graph."""

  def __init__(self):
    self._ops = []
    self._literals = {}

  def build(self, jaxpr):
    inputs = [_value(v) for v in jaxpr.invars]
    env = dict(zip(jaxpr.invars, inputs, strict=True))
    outputs = self._inline(jaxpr, env, known={})
    return Graph(inputs, needed(self._ops, outputs), outputs)

  def _inline(self, jaxpr, env, known):
    """Adds the equations of `jaxpr`; returns the values of its outputs.

    `known` maps expressions to the values that have been computed of them.
    """
    for var in jaxpr.constvars:
      env[var] = self._emit("literal", {}, [], [_value(var)])[0]
    read = lambda v: self._literal(v) if compat.is_literal(v) else env[v]
    for eqn in jaxpr.eqns:
      inputs = [read(v) for v in eqn.invars]
      outputs = self._equation(eqn, inputs, known)
      env.update(zip(eqn.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]

  def _literal(self, var):
    key = (str(var.aval), repr(var.val))
    if key not in self._literals:
      self._literals[key] = self._emit("literal", {}, [], [_value(var)])[0]
    return self._literals[key]

  def _emit(self, name, params, inputs, outputs, bodies=(), scan=None):
    op = Op(name, params, inputs, outputs, list(bodies), scan)
    for v in outputs:
      v.op = op
    self._ops.append(op)
    return outputs

  def _equation(self, eqn, inputs, known):
    """Values of the outputs of one equation."""
    name = eqn.primitive.name
    if (called := compat.called(eqn)) is not None:
      if compat.computes_again(eqn):
        known = {}
      env = dict(zip(called.invars, inputs, strict=True))
      return self._inline(called, env, known)
    if name in _IDENTITIES:
      return inputs
    outputs = [_value(v) for v in eqn.outvars]
    if name == "convert_element_type" and inputs[0].dtype == outputs[0].dtype:
      return inputs
    if name in ("scan", "while", "cond"):
      return self._control(eqn, inputs, outputs)
    inner = compat.inner_jaxprs(eqn)
    if inner and name not in primitives.KNOWN:
      raise primitives.unknown(name)
    key = None
    if not inner and name not in (primitives.GATHER, primitives.SCATTER):
      key = (name, *map(id, inputs), repr(sorted(eqn.params.items())))
      if key in known:
        return known[key]
    self._emit(name, eqn.params, inputs, outputs)
    if key:
      known[key] = outputs
    return outputs

  def _control(self, eqn, inputs, outputs):
    name, scan = eqn.primitive.name, None
    inner = compat.inner_jaxprs(eqn)
    if name == "scan":
      scan = compat.scan_layout(eqn)
    elif name == "while":
      inner = [compat.while_body(eqn)]  # The condition costs next to nothing.
    bodies = [_Builder().build(jaxpr) for jaxpr in inner]
    return self._emit(name, {}, inputs, outputs, bodies, scan)


def _value(var):
  aval = var.aval
  shape = tuple(getattr(aval, "shape", ()))
  dtype = getattr(aval, "dtype", jax.numpy.dtype("int32"))
  return Value(shape, dtype, spec=((),) * len(shape))
