"""Floating point operations, counted as XLA's cost analysis counts them.

A product of matrices or a convolution has two per pair of numbers that are
multiplied (those that meet padding are not), other arithmetic has one per
element of the result, reductions one per element of the operand. Exponentials
and the like are not counted: XLA lists them apart. Unlike XLA's count, that of
a loop is multiplied by its length.
"""

import math

import numpy as np

_ARITHMETIC = frozenset(
  "add sub mul div neg abs sign max min square add_any select_n clamp eq ne lt "
  "le gt ge and or not xor rem floor ceil round is_finite".split()
)
_REDUCTIONS = frozenset(
  "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or "
  "argmax argmin reduce_xor cumsum cumprod cummax cummin".split()
)


def count(graph, share=lambda op: 1):
  """FLOPs of a Graph.

  Args:
    graph: Graph.
    share: `op -> int`, into how many equal parts that run on different devices
      the work of an operation is divided.

  Returns:
    (total, products): int, FLOPs of all, and of the matrix products and
    convolutions among them.
  """
  total = products = 0
  for op in graph.ops:
    if op.bodies:
      each = [count(body, share) for body in op.bodies]
      if op.name == "cond":
        times, (t, p) = 1, max(each)
      else:  # The length of a `while` can not be told.
        times, (t, p) = op.params.get("length", 1), each[0]
      total, products = total + times * t, products + times * p
      continue
    n = of_op(op) // share(op)
    total += n
    if op.name in ("dot_general", "conv_general_dilated"):
      products += n
  return total, products


def of_op(op):
  """FLOPs of one operation without a body.

  Args:
    op: Op.

  Returns:
    int.
  """
  if op.name == "dot_general":
    (contracting, _), _ = op.params["dimension_numbers"]
    shape = op.inputs[0].shape
    return 2 * op.outputs[0].size * math.prod(shape[d] for d in contracting)
  if op.name == "conv_general_dilated":
    return _convolution(op)
  if op.name in _ARITHMETIC:
    return op.outputs[0].size
  if op.name == "integer_pow":
    # By repeated squaring; a negative power also divides.
    y = op.params["y"]
    return op.outputs[0].size * (max(abs(y).bit_length(), 1) + (y < 0))
  if op.name in _REDUCTIONS:
    return op.inputs[0].size
  if op.name.startswith(("reduce_window", "select_and_scatter")):
    window = op.params["window_dimensions"]
    return op.outputs[0].size * math.prod(window)
  return 0


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
