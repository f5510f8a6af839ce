"""Converts functions that JAX has traced to ONNX, equation by equation.

Loops are unrolled: a model with `scan` becomes one with all its layers.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from big_vision import compat, lookup
from big_vision.export import onnx_arrays, onnx_layers, onnx_ops
from big_vision.export.onnx_graph import (
  Graph,
  Value,
  dtype_of,
  is_static,
  known,
)

_RULES = onnx_ops.RULES | onnx_arrays.RULES | onnx_layers.RULES


def convert(
  graph: Graph,
  function: Any,
  inputs: Sequence[Value],
  constants: Sequence[Any] | None = None,
) -> list[Value]:
  """Adds a traced function to a graph.

  Args:
    graph: is added to.
    function: closed or open jaxpr.
    inputs: values of its arguments.
    constants: that it closes over; None: those of a closed jaxpr.

  Returns:
    Values of its results.

  Raises:
    ConfigError: a primitive has no counterpart.
  """
  jaxpr = getattr(function, "jaxpr", function)
  env: dict[Any, Value] = {}
  closed = getattr(function, "consts", ()) if constants is None else constants
  env.update(zip(jaxpr.constvars, map(known, closed), strict=True))
  env.update(zip(jaxpr.invars, inputs, strict=True))

  def read(variable):
    if compat.is_literal(variable):
      return known(np.asarray(variable.val, variable.aval.dtype))
    return env[variable]

  outer = graph.scope
  for eqn in jaxpr.eqns:
    name = str(eqn.source_info.name_stack)
    graph.scope = "/".join(part for part in (outer, name) if part)
    results = _equation(graph, eqn, [read(v) for v in eqn.invars])
    env.update(zip(eqn.outvars, results, strict=True))
  graph.scope = outer
  return [read(v) for v in jaxpr.outvars]


def _equation(graph, eqn, inputs):
  name = eqn.primitive.name
  if name == "scan":
    return _unrolled(graph, eqn, inputs)
  if compat.called(eqn) is not None:
    return convert(graph, _function(eqn), inputs)
  if _can_be_computed(eqn, inputs):
    return _computed(eqn, inputs)
  where = f" in {graph.scope}" if graph.scope else ""
  if name not in _RULES:
    raise lookup.ConfigError(
      f"ONNX: the primitive {name!r} of JAX{where} has no counterpart here: "
      "export as stablehlo or savedmodel."
    )
  try:
    out = _RULES[name](graph, eqn, *inputs)
  except NotImplementedError as e:
    raise lookup.ConfigError(
      f"ONNX: the primitive {name!r} of JAX{where} cannot be exported with {e}: "
      "export as stablehlo or savedmodel."
    ) from e
  return out if isinstance(out, list) else [out]


def _function(eqn):
  """Finds the function that an equation calls, with its constants."""
  kinds = compat.Jaxpr, compat.ClosedJaxpr
  return next(v for v in eqn.params.values() if isinstance(v, kinds))


def _can_be_computed(eqn, inputs):
  """Tells whether results are known, and are to be stored as such."""
  if not all(x.known for x in inputs):
    return False
  if not all(is_static(v.aval.shape) for v in eqn.outvars):
    return False
  # Quantized weights stay small; so does what is repeated.
  is_quantized = any(x.dtype == np.int8 for x in inputs)
  not_here = ("broadcast_in_dim", "dim_as_value")
  return not is_quantized and eqn.primitive.name not in not_here


def _computed(eqn, inputs):
  if eqn.primitive.name == "convert_element_type":
    array = inputs[0].array()  # Not rounded to half precision in between.
    return [known(array.astype(dtype_of(eqn.params["new_dtype"])))]
  out = eqn.primitive.bind(
    *(jax.numpy.asarray(x.array()) for x in inputs), **eqn.params
  )
  results = out if eqn.primitive.multiple_results else [out]
  return [known(x) for x in results]


def _unrolled(graph, eqn, inputs):
  """Converts each iteration of a scan."""
  layout, function = compat.scan_layout(eqn), _function(eqn)
  constants = inputs[: layout.num_consts]
  stop = layout.num_consts + layout.num_carry
  carry, slices = inputs[layout.num_consts : stop], inputs[stop:]
  order = list(range(layout.length))
  outer, collected = graph.scope, {}
  for i in reversed(order) if eqn.params.get("reverse") else order:
    graph.scope = f"{outer}/{i}"
    row = [_row(graph, x, i) for x in slices]
    out = convert(graph, function, [*constants, *carry, *row])
    carry, collected[i] = out[: layout.num_carry], out[layout.num_carry :]
  graph.scope = outer
  rows = [collected[i] for i in order]
  stacked = [
    onnx_arrays.stacked(graph, list(column), 0)
    for column, v in zip(
      zip(*rows, strict=True), eqn.outvars[layout.num_carry :], strict=True
    )
    if v is not None
  ]
  return [*carry, *stacked]


def _row(graph, x, i):
  """Takes one element along the first axis."""
  shape = x.shape[1:]
  if x.known:
    row = np.ascontiguousarray(x.array()[i])
    return Value(row, shape, dtype_of(x.dtype))
  name = graph.add("Gather", graph.name(x), graph.constant(np.int64(i)), axis=0)
  return Value(name, shape, x.dtype)
