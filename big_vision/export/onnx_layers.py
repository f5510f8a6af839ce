"""Products of matrices, convolutions and pooling of JAX as operations of ONNX.

Each rule is `(graph, equation, *inputs) -> Value or list of Values`.
"""

import math

import numpy as np

from big_vision.export.onnx_graph import is_static
from big_vision.export.onnx_ops import Rule, cast, known, like


def _dot_general(graph, eqn, x, y):
  (x_sum, y_sum), (x_batch, y_batch) = eqn.params["dimension_numbers"]
  dtype = eqn.outvars[0].aval.dtype
  x, y = cast(graph, x, dtype), cast(graph, y, dtype)
  free = lambda v, *used: [
    i for i in range(len(v.shape)) if i not in {a for u in used for a in u}
  ]
  x_free, y_free = free(x, x_sum, x_batch), free(y, y_sum, y_batch)
  sizes = lambda v, axes: [v.shape[i] for i in axes]
  y_perm = [*y_batch, *y_sum, *y_free]
  y_name, y_shape = graph.transpose(y, y_perm), sizes(y, y_perm)
  num, summed = len(x_batch), math.prod(sizes(x, x_sum))

  # As matrices: [batch..., rows, summed] times [batch..., summed, columns].
  x_perm = [*x_batch, *x_free, *x_sum]
  x_name = graph.transpose(x, x_perm)
  batch, rows = sizes(x, x_batch), sizes(x, x_free)
  keeps_rows = num == 0 and len(rows) > 0  # MatMul broadcasts a single matrix.
  if keeps_rows:
    if len(x_sum) != 1:
      x_name = graph.reshape(x_name, (*rows, summed))
  elif len(rows) != 1 or len(x_sum) != 1:
    x_name = graph.reshape(x_name, (*batch, math.prod(rows), summed))
  columns = y_shape[num + len(y_sum) :]
  if len(columns) != 1 or len(y_sum) != 1:
    y_name = _reshaped(
      graph, y_name, (*y_shape[:num], summed, math.prod(columns))
    )
  out = graph.add("MatMul", x_name, y_name)
  whole = (len(rows) == 1 or keeps_rows) and len(columns) == 1
  shape = tuple(eqn.outvars[0].aval.shape)
  return like(eqn, out if whole else graph.reshape(out, shape))


def _reshaped(graph, name, shape):
  """Reshapes; a constant at once."""
  if name in graph.constants and is_static(shape):
    return graph.constant(graph.constants[name].reshape(shape))
  return graph.reshape(name, shape)


def _conv(graph, eqn, x, kernel):
  p = eqn.params
  if p["batch_group_count"] != 1 or any(d != 1 for d in p["lhs_dilation"]):
    raise NotImplementedError("a transposed convolution")
  low, high = zip(*p["padding"], strict=True) if p["padding"] else ((), ())
  if min((*low, *high), default=0) < 0:
    raise NotImplementedError("negative padding")
  dims = p["dimension_numbers"]
  dtype = eqn.outvars[0].aval.dtype
  out = graph.add(
    "Conv",
    graph.transpose(cast(graph, x, dtype), dims.lhs_spec),
    graph.transpose(cast(graph, kernel, dtype), dims.rhs_spec),
    strides=_ints(p["window_strides"]),
    pads=_ints((*low, *high)),
    dilations=_ints(p["rhs_dilation"]),
    group=int(p["feature_group_count"]),
  )
  perm = _ints(np.argsort(dims.out_spec))
  if perm != sorted(perm):
    out = graph.add("Transpose", out, perm=perm)
  return like(eqn, out)


def _pooled(graph, eqn, x, op, **kw):
  """Pools over windows along some axes."""
  p = eqn.params
  window = p["window_dimensions"]
  if any(d != 1 for d in p["base_dilation"]):
    raise NotImplementedError("holes in the input")
  alone = [i for i, size in enumerate(window) if size == 1]
  if len(alone) < 2:
    raise NotImplementedError(f"windows {tuple(window)}")
  outer = [alone[0], alone[-1]]  # Batch and channels.
  spatial = [i for i in range(len(window)) if i not in outer]
  pick = lambda values: _ints(values[i] for i in spatial)
  strides, padding = p["window_strides"], p["padding"]
  if any(strides[i] != 1 or any(padding[i]) for i in outer):
    raise NotImplementedError("strides of batch or channels")
  low, high = zip(*padding, strict=True)
  if any(d != 1 for d in p["window_dilation"]):
    kw["dilations"] = pick(p["window_dilation"])
  perm = [*outer, *spatial]
  out = graph.add(
    op,
    graph.transpose(x, perm),
    kernel_shape=pick(window),
    strides=pick(strides),
    pads=[*pick(low), *pick(high)],
    **kw,
  )
  return graph.add("Transpose", out, perm=_ints(np.argsort(perm)))


def _max_pool(graph, eqn, x):
  return like(eqn, _pooled(graph, eqn, x, "MaxPool"))


def _sum_pool(graph, eqn, x):
  if any(d != 1 for d in eqn.params["window_dilation"]):
    raise NotImplementedError("holes in windows")
  mean = _pooled(graph, eqn, x, "AveragePool", count_include_pad=1)
  count = math.prod(eqn.params["window_dimensions"])
  factor = graph.name(known(np.asarray(count, x.dtype)))
  return like(eqn, graph.add("Mul", mean, factor))


def _ints(values):
  return [int(v) for v in values]


RULES: dict[str, Rule] = {
  "dot_general": _dot_general,
  "conv_general_dilated": _conv,
  "reduce_window_max": _max_pool,
  "reduce_window_sum": _sum_pool,
}
