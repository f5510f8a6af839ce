"""Primitives of JAX that work on each element, or reduce, as operations of ONNX.

Each rule is `(graph, equation, *inputs) -> Value or list of Values`.

Reference: https://onnx.ai/onnx/operators
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from big_vision.export.onnx_graph import Graph, Value, dtype_of, known

Rule = Callable[..., Value | list[Value]]


def like(eqn: Any, data: str, index: int = 0) -> Value:
  """Makes the value of a result of an equation.

  Args:
    eqn: of a jaxpr.
    data: name in the graph.
    index: of the result.

  Returns:
    Value.
  """
  aval = eqn.outvars[index].aval
  return Value(data, tuple(aval.shape), dtype_of(aval.dtype))


def onnx_type(dtype: Any) -> int:
  """Returns the number that ONNX has for a dtype of the graph."""
  from big_vision import extras

  return extras.load("onnx").helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _out(graph, eqn, op, *inputs, **kw):
  """Adds an operation whose result is that of the equation."""
  aval = eqn.outvars[0].aval
  return graph.elementwise(op, aval.shape, aval.dtype, *inputs, **kw)


def _step(graph, x, op, *inputs, **kw):
  """Adds an operation within a rule, whose result is as `x`."""
  return graph.elementwise(op, x.shape, x.dtype, *inputs, **kw)


def _number(x, number):
  return known(np.asarray(number, x.dtype))


def _plain(op: str) -> Rule:
  return lambda graph, eqn, *inputs: _out(graph, eqn, op, *inputs)


def cast(graph: Graph, x: Value, dtype: Any) -> Value:
  """Converts to another dtype.

  Args:
    graph: is added to.
    x: what to convert.
    dtype: of JAX.

  Returns:
    Value of the same shape.
  """
  dtype = dtype_of(dtype)
  if dtype == x.dtype:
    return x
  return graph.elementwise("Cast", x.shape, dtype, x, to=onnx_type(dtype))


def _convert(graph, eqn, x):
  return cast(graph, x, eqn.params["new_dtype"])


def _logical(op: str, bitwise: str) -> Rule:
  def rule(graph, eqn, *inputs):
    is_bool = inputs[0].dtype == np.bool_
    return _out(graph, eqn, op if is_bool else bitwise, *inputs)

  return rule


def _not_equal(graph, eqn, x, y):
  return _out(graph, eqn, "Not", _out(graph, eqn, "Equal", x, y))


def _square(graph, eqn, x):
  return _out(graph, eqn, "Mul", x, x)


def _integer_pow(graph, eqn, x):
  y = eqn.params["y"]
  if y == 2:
    return _square(graph, eqn, x)
  if y == 3:
    return _out(graph, eqn, "Mul", _step(graph, x, "Mul", x, x), x)
  return _out(graph, eqn, "Pow", x, _number(x, y))


def _rsqrt(graph, eqn, x):
  return _out(graph, eqn, "Reciprocal", _step(graph, x, "Sqrt", x))


def _erfc(graph, eqn, x):
  return _out(graph, eqn, "Sub", _number(x, 1), _step(graph, x, "Erf", x))


def _log1p(graph, eqn, x):
  return _out(graph, eqn, "Log", _step(graph, x, "Add", x, _number(x, 1)))


def _expm1(graph, eqn, x):
  return _out(graph, eqn, "Sub", _step(graph, x, "Exp", x), _number(x, 1))


def _exp2(graph, eqn, x):
  return _out(graph, eqn, "Pow", _number(x, 2), x)


def _round(graph, eqn, x):
  if int(eqn.params["rounding_method"]) != 1:  # To the nearest even number.
    raise NotImplementedError("rounding away from zero")
  return _out(graph, eqn, "Round", x)


def _is_finite(graph, eqn, x):
  largest = _number(x, jnp.finfo(x.dtype).max)
  size = _step(graph, x, "Abs", x)
  return _out(graph, eqn, "LessOrEqual", size, largest)


def _remainder(graph, eqn, x, y):
  return _out(graph, eqn, "Mod", x, y, fmod=1)


def _select(graph, eqn, which, *cases):
  if which.dtype != np.bool_ or len(cases) != 2:
    raise NotImplementedError(f"{len(cases)} cases")
  return _out(graph, eqn, "Where", which, cases[1], cases[0])


def _clamp(graph, eqn, low, x, high):
  return _out(graph, eqn, "Min", _step(graph, x, "Max", x, low), high)


def _same(graph, eqn, *inputs):
  del graph, eqn
  return list(inputs)


def _reduce(op: str) -> Rule:
  def rule(graph, eqn, x):
    axes = graph.integers(*eqn.params["axes"])
    return like(eqn, graph.add(op, graph.name(x), axes, keepdims=0))

  return rule


def _reduce_bool(op: str) -> Rule:
  def rule(graph, eqn, x):
    numbers = cast(graph, x, np.int32)
    axes = graph.integers(*eqn.params["axes"])
    out = graph.add(op, graph.name(numbers), axes, keepdims=0)
    number = onnx_type(np.bool_)
    return like(eqn, graph.add("Cast", out, to=number))

  return rule


def _arg(op: str) -> Rule:
  def rule(graph, eqn, x):
    if x.dtype == np.bool_:
      x = cast(graph, x, np.int32)
    (axis,) = eqn.params["axes"]
    out = graph.add(op, graph.name(x), axis=int(axis), keepdims=0)
    number = onnx_type(eqn.params["index_dtype"])
    return like(eqn, graph.add("Cast", out, to=number))

  return rule


def _cumsum(graph, eqn, x):
  axis = graph.constant(np.int64(eqn.params["axis"]))
  reverse = int(eqn.params["reverse"])
  return like(eqn, graph.add("CumSum", graph.name(x), axis, reverse=reverse))


_PLAIN = dict(
  abs="Abs", acos="Acos", add="Add", add_any="Add", asin="Asin", atan="Atan",
  ceil="Ceil", cos="Cos", cosh="Cosh", div="Div", eq="Equal", erf="Erf",
  exp="Exp", floor="Floor", ge="GreaterOrEqual", gt="Greater",
  le="LessOrEqual", log="Log", logistic="Sigmoid", lt="Less", max="Max",
  min="Min", mul="Mul", neg="Neg", pow="Pow", sign="Sign", sin="Sin",
  sinh="Sinh", sqrt="Sqrt", sub="Sub", tan="Tan", tanh="Tanh",
)  # fmt: skip

RULES: dict[str, Rule] = {
  **{name: _plain(op) for name, op in _PLAIN.items()},
  "convert_element_type": _convert,
  "and": _logical("And", "BitwiseAnd"),
  "or": _logical("Or", "BitwiseOr"),
  "xor": _logical("Xor", "BitwiseXor"),
  "not": _logical("Not", "BitwiseNot"),
  "ne": _not_equal,
  "square": _square,
  "integer_pow": _integer_pow,
  "rsqrt": _rsqrt,
  "erfc": _erfc,
  "log1p": _log1p,
  "expm1": _expm1,
  "exp2": _exp2,
  "round": _round,
  "is_finite": _is_finite,
  "rem": _remainder,
  "select_n": _select,
  "clamp": _clamp,
  **dict.fromkeys(
    ("copy", "copy_p", "name", "optimization_barrier", "reduce_precision",
     "sharding_constraint", "stop_gradient"),
    _same,
  ),
  "reduce_sum": _reduce("ReduceSum"),
  "reduce_max": _reduce("ReduceMax"),
  "reduce_min": _reduce("ReduceMin"),
  "reduce_prod": _reduce("ReduceProd"),
  "reduce_and": _reduce_bool("ReduceMin"),
  "reduce_or": _reduce_bool("ReduceMax"),
  "argmax": _arg("ArgMax"),
  "argmin": _arg("ArgMin"),
  "cumsum": _cumsum,
}  # fmt: skip
