"""Floating point operations, counted as XLA's cost analysis counts them.

A product of matrices or a convolution has two per pair of numbers that are
multiplied (those that meet padding are not), other arithmetic has one per
element of the result, reductions one per element of the operand. Exponentials
and the like are not counted: XLA lists them apart. Unlike XLA's count, that of
a loop is multiplied by its length.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from big_vision.planning import jaxpr, primitives
from big_vision.planning.graph import Graph, Op
from big_vision.planning.primitives import Buffers


def of_function(fn: Callable[..., Any], *args: Any) -> int:
  """Counts the FLOPs of one call of a function, without running it.

  Args:
    fn: function of pytrees of arrays, that JAX can trace; for example a step of
      a training.
    *args: its arguments, or `jax.ShapeDtypeStruct` in place of arrays.

  Returns:
    FLOPs of all devices together.

  Raises:
    ValueError: it contains an operation that the planner does not know.
  """
  return count(jaxpr.from_function(fn, *args))[0]


def count(
  graph: Graph, share: Callable[[Op], int] = lambda op: 1
) -> tuple[int, int]:
  """Counts the FLOPs of a graph.

  Args:
    graph: Graph.
    share: `op -> int`, into how many equal parts that run on different devices
      the work of an operation is divided.

  Returns:
    (total, products): FLOPs of all, and of the matrix products and convolutions
    among them.

  Raises:
    ValueError: it contains an operation that the planner does not know.
  """
  total = products = 0
  for op in graph.ops:
    if op.bodies:  # Of the branches of a conditional the longest one.
      t, p = max(count(body, share) for body in op.bodies)
      total, products = total + op.times * t, products + op.times * p
      continue
    n = of_op(op) // share(op)
    total += n
    if primitives.of(op).buffers is Buffers.PRODUCT:
      products += n
  return total, products


def of_op(op: Op) -> int:
  """Counts the FLOPs of one operation without a body.

  Args:
    op: Op.

  Returns:
    FLOPs of the whole operation, on however many devices.
  """
  rule = primitives.of(op).flops
  if isinstance(rule, str):
    return RULES[rule](op)
  return rule * op.outputs[0].size if rule else 0


def _operand(op):
  return op.inputs[0].size


def _power(op):
  """By repeated squaring; a negative power also divides."""
  y = op.params["y"]
  return op.outputs[0].size * (max(abs(y).bit_length(), 1) + (y < 0))


def _window(op):
  return op.outputs[0].size * math.prod(op.params["window_dimensions"])


def _product(op):
  (contracting, _), _ = op.params["dimension_numbers"]
  shape = op.inputs[0].shape
  return 2 * op.outputs[0].size * math.prod(shape[d] for d in contracting)


def _convolution(op):
  p = op.params
  numbers = p["dimension_numbers"]
  lhs, rhs, out = (v.shape for v in (op.inputs[0], op.inputs[1], op.outputs[0]))
  pairs = 1
  for i in range(len(p["window_strides"])):
    pairs *= _meetings(
      lhs[numbers.lhs_spec[2 + i]],
      rhs[numbers.rhs_spec[2 + i]],
      out[numbers.out_spec[2 + i]],
      p["window_strides"][i],
      p["padding"][i][0],
      p["lhs_dilation"][i],
      p["rhs_dilation"][i],
    )
  batch = lhs[numbers.lhs_spec[0]] // p["batch_group_count"]
  features = rhs[numbers.rhs_spec[0]] * rhs[numbers.rhs_spec[1]]
  return 2 * batch * features * pairs


def _meetings(size, kernel, out, stride, pad, lhs_dilation, rhs_dilation):
  """Pairs of positions of output and kernel that meet a number of the input."""
  at = np.arange(out)[:, None] * stride
  at = at + np.arange(kernel)[None] * rhs_dilation - pad
  inside = (at >= 0) & (at <= (size - 1) * lhs_dilation)
  return int((inside & (at % lhs_dilation == 0)).sum())


RULES = {
  "operand": _operand,
  "power": _power,
  "window": _window,
  "product": _product,
  "convolution": _convolution,
}
