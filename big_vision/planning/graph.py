"""Graphs: the operations of a traced function, with calls inlined.

A jaxpr still has what XLA removes before it decides anything: results that
nobody reads, the same expression twice, calls, copies. `from_jaxpr` removes
these, so that counts and lifetimes are those of the program that runs.

Loops stay what they are: an `Op` with a `Graph` as its body.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.typing import DTypeLike

from big_vision import compat
from big_vision.planning import primitives

gather_p = compat.Primitive(primitives.GATHER)
scatter_p = compat.Primitive(primitives.SCATTER)
for _p in (gather_p, scatter_p):
  _p.def_abstract_eval(lambda x, **_: x)

_IDENTITIES = frozenset(
  "copy copy_p stop_gradient name random_clone "
  "optimization_barrier reduce_precision".split()
)


@dataclasses.dataclass(eq=False, repr=False)
class Value:
  """An array: the result of an operation, or an input if `op` is None.

  Attributes:
    shape: tuple of int, of the whole array as it was traced.
    dtype: of the elements.
    op: Op that makes it.
    spec: per dimension, the tuple of mesh axes that split it.
    part: "gradients" or "gathered parameters", or "activations" for the rest.
  """

  shape: tuple[int, ...]
  dtype: DTypeLike
  op: "Op | None" = None
  spec: tuple[tuple[str, ...], ...] = ()
  part: str = "activations"

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)

  @property
  def itemsize(self) -> int:
    """Bytes per element; random keys count as their data."""
    if jax.dtypes.issubdtype(self.dtype, jax.dtypes.extended):
      return 8
    return self.dtype.itemsize


@dataclasses.dataclass(eq=False, repr=False)
class Op:
  """An operation.

  Attributes:
    name: of the primitive; "literal" is a constant.
    params: its parameters.
    inputs: list of Value.
    outputs: list of Value.
    bodies: list of Graph: the body of a loop, the branches of a conditional.
    scan: how the operands of a scan are divided; None for other operations.
    moves: whether it communicates; `partition.py` sets it.
  """

  name: str
  params: dict[str, Any]
  inputs: list[Value]
  outputs: list[Value]
  bodies: "list[Graph]" = dataclasses.field(default_factory=list)
  scan: compat.Scan | None = None
  moves: bool = False

  @property
  def times(self) -> int:
    """How often its body runs; that of a `while` counts once."""
    return self.scan.length if self.scan else 1


@dataclasses.dataclass(eq=False, repr=False)
class Graph:
  """A function: its operations in the order of its program."""

  inputs: list[Value]
  ops: list[Op]
  outputs: list[Value]


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


def needed(ops: Sequence[Op], outputs: Sequence[Value]) -> list[Op]:
  """Selects the operations that some values depend on.

  Args:
    ops: operations in the order of the program.
    outputs: values that are wanted.

  Returns:
    Operations in the same order.
  """
  wanted = set(outputs)
  kept = []
  for op in reversed(ops):
    if wanted.isdisjoint(op.outputs):
      continue
    kept.append(op)
    wanted.update(op.inputs)
  return kept[::-1]
