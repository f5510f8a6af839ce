"""The operations of a traced function, with calls inlined.

A jaxpr still has what XLA removes before it decides anything: results that
nobody reads, the same expression twice, calls, copies. `from_jaxpr` removes
these, so that counts and lifetimes are those of the program that runs.

Loops stay what they are: an `Op` with a `Graph` as its body.
"""

import dataclasses
import math
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

# Marks where a step needs parameters whole, and where it has gradients that may
# be split again. Traced around `Recipe.grad_fn`, see `trace.py`.
gather_p = core.Primitive("gather_params")
scatter_p = core.Primitive("scatter_grads")
for _p in (gather_p, scatter_p):
  _p.def_abstract_eval(lambda x, **_: x)

# Calls of one function, whose arguments are those of the equation.
_CALLS = frozenset(
  "jit pjit closed_call core_call custom_jvp_call custom_vjp_call "
  "custom_vjp_call_jaxpr remat remat2 checkpoint".split()
)
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
  dtype: Any
  op: "Op | None" = None
  spec: tuple[tuple[str, ...], ...] = ()
  part: str = "activations"

  @property
  def size(self):
    """Number of elements."""
    return math.prod(self.shape)

  @property
  def itemsize(self):
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
    moves: whether it communicates; `partition.py` sets it.
  """

  name: str
  params: dict
  inputs: list
  outputs: list
  bodies: list = dataclasses.field(default_factory=list)
  moves: bool = False


@dataclasses.dataclass(eq=False, repr=False)
class Graph:
  """A function: its operations in the order of its program."""

  inputs: list
  ops: list
  outputs: list


def from_jaxpr(closed):
  """The Graph of a closed jaxpr.

  Args:
    closed: jax.extend.core.ClosedJaxpr.

  Returns:
    Graph; its inputs are those of the jaxpr, constants are operations.
  """
  jaxpr, _ = partial_eval.dce_jaxpr(
    closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True
  )
  return _Builder().build(jaxpr)


class _Builder:
  """Turns one jaxpr, with the calls in it, into one Graph."""

  def __init__(self):
    self._ops = []
    self._literals = {}

  def build(self, jaxpr):
    inputs = [_value(v) for v in jaxpr.invars]
    env = dict(zip(jaxpr.invars, inputs, strict=True))
    outputs = self._inline(jaxpr, env, seen={})
    return Graph(inputs, needed(self._ops, outputs), outputs)

  def _inline(self, jaxpr, env, seen):
    """Adds the equations of `jaxpr`; returns the values of its outputs."""
    for var in jaxpr.constvars:
      env[var] = self._emit("literal", {}, [], [_value(var)])[0]
    read = lambda v: self._literal(v) if hasattr(v, "val") else env[v]
    for eqn in jaxpr.eqns:
      inputs = [read(v) for v in eqn.invars]
      outputs = self._equation(eqn, inputs, seen)
      env.update(zip(eqn.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]

  def _literal(self, var):
    key = (str(var.aval), repr(var.val))
    if key not in self._literals:
      self._literals[key] = self._emit("literal", {}, [], [_value(var)])[0]
    return self._literals[key]

  def _emit(self, name, params, inputs, outputs, bodies=()):
    op = Op(name, params, inputs, outputs, list(bodies))
    for v in outputs:
      v.op = op
    self._ops.append(op)
    return outputs

  def _equation(self, eqn, inputs, seen):
    """Values of the outputs of one equation."""
    name = eqn.primitive.name
    if name in _CALLS:
      (sub,) = list(core.jaxprs_in_params(eqn.params))[:1]
      if eqn.params.get("prevent_cse"):
        seen = {}  # What was computed before may not be taken.
      env = dict(zip(sub.invars, inputs, strict=True))
      return self._inline(sub, env, seen)
    if name in _IDENTITIES:
      return inputs
    outputs = [_value(v) for v in eqn.outvars]
    if name == "convert_element_type" and inputs[0].dtype == outputs[0].dtype:
      return inputs
    subs = list(core.jaxprs_in_params(eqn.params))
    if name in ("scan", "while", "cond"):
      return self._control(name, eqn.params, inputs, outputs, subs)
    key = None
    if not subs and name not in ("gather_params", "scatter_grads"):
      key = (name, *map(id, inputs), repr(sorted(eqn.params.items())))
      if key in seen:
        return seen[key]
    self._emit(name, eqn.params, inputs, outputs)
    if key:
      seen[key] = outputs
    return outputs

  def _control(self, name, params, inputs, outputs, subs):
    bodies = [_Builder().build(sub) for sub in subs]
    if name == "while":
      bodies = bodies[1:] if len(bodies) > 1 else bodies  # Not the condition.
    return self._emit(name, params, inputs, outputs, bodies)


def _value(var):
  aval = var.aval
  shape = tuple(getattr(aval, "shape", ()))
  dtype = getattr(aval, "dtype", jax.numpy.dtype("int32"))
  return Value(shape, dtype, spec=((),) * len(shape))


def needed(ops, outputs):
  """The operations that the outputs depend on, in order."""
  wanted = set(outputs)
  kept = []
  for op in reversed(ops):
    if wanted.isdisjoint(op.outputs):
      continue
    kept.append(op)
    wanted.update(op.inputs)
  return kept[::-1]
