"""Primitives of JAX that move elements, as operations of ONNX.

Each rule is `(graph, equation, *inputs) -> Value or list of Values`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from big_vision.export.onnx_graph import (
  Graph,
  Value,
  dtype_of,
  is_static,
  known,
)
from big_vision.export.onnx_ops import Rule, cast, like, onnx_type

_LAST = np.iinfo(np.int64).min  # Where a slice ends that runs backwards.


def _reshape(graph, eqn, x):
  return like(eqn, graph.reshape(graph.name(x), eqn.outvars[0].aval.shape))


def _broadcast_in_dim(graph, eqn, x, *sizes):
  del sizes  # Those that are symbols; they stand in the shape, too.
  shape = tuple(eqn.outvars[0].aval.shape)
  narrow: list[Any] = [1] * len(shape)
  axes = eqn.params["broadcast_dimensions"]
  for axis, size in zip(axes, x.own_shape, strict=True):
    narrow[axis] = size
  if x.known:
    data = np.reshape(x.data, narrow)
  else:
    new = [i for i in range(len(shape)) if i not in axes]
    data = graph.narrow_name(x)
    if new:
      data = graph.add("Unsqueeze", data, graph.integers(*new))
  whole = tuple(narrow) == shape
  return Value(data, shape, x.dtype, None if whole else tuple(narrow))


def _transpose(graph, eqn, x):
  return like(eqn, graph.transpose(x, eqn.params["permutation"]))


def _squeeze(graph, eqn, x):
  axes = graph.integers(*eqn.params["dimensions"])
  return like(eqn, graph.add("Squeeze", graph.name(x), axes))


def _expand_dims(graph, eqn, x):
  axes = graph.integers(*eqn.params["dimensions"])
  return like(eqn, graph.add("Unsqueeze", graph.name(x), axes))


def _concatenate(graph, eqn, *inputs):
  axis = eqn.params["dimension"]
  return like(eqn, graph.add("Concat", *map(graph.name, inputs), axis=axis))


def stacked(graph: Graph, inputs: Sequence[Value], axis: int) -> Value:
  """Stacks arrays along a new axis.

  Args:
    graph: is added to.
    inputs: of one shape.
    axis: of the result.

  Returns:
    Value.
  """
  if all(x.known for x in inputs):
    return known(np.stack([x.array() for x in inputs], axis))
  at = graph.integers(axis)
  rows = [graph.add("Unsqueeze", graph.name(x), at) for x in inputs]
  shape = list(inputs[0].shape)
  shape.insert(axis, len(inputs))
  name = graph.add("Concat", *rows, axis=axis)
  return Value(name, tuple(shape), inputs[0].dtype)


def _stack(graph, eqn, *inputs):
  return stacked(graph, inputs, eqn.params["axis"])


def _tile(graph, eqn, x):
  shape = tuple(eqn.outvars[0].aval.shape)
  reps = eqn.params["reps"]
  repeats_ones = len(reps) == len(x.shape) and all(
    is_static([size, rep]) and rep == 1 or is_static([size]) and size == 1
    for size, rep in zip(x.shape, reps, strict=True)
  )
  if repeats_ones and x.narrow is None:
    return Value(x.data, shape, x.dtype, x.shape)
  return like(eqn, graph.add("Tile", graph.name(x), graph.shape(reps)))


def _slice(graph, eqn, x):
  p = eqn.params
  strides = p["strides"] or [1] * len(x.shape)
  starts, ends, axes, steps = [], [], [], []
  for axis, (start, end, step) in enumerate(
    zip(p["start_indices"], p["limit_indices"], strides, strict=True)
  ):
    if is_static([start, step]) and (start, step) == (0, 1):
      if end == x.shape[axis]:
        continue
    starts.append(start)
    ends.append(end)
    axes.append(axis)
    steps.append(step)
  if not axes:
    return x
  name = graph.add(
    "Slice",
    graph.name(x),
    graph.shape(starts),
    graph.shape(ends),
    graph.integers(*axes),
    graph.shape(steps),
  )
  return like(eqn, name)


def _reverse(graph, eqn, x):
  axes = eqn.params["dimensions"]
  ints = lambda value: graph.integers(*[value] * len(axes))
  name = graph.add(
    "Slice",
    graph.name(x),
    ints(-1),
    ints(_LAST),
    graph.integers(*axes),
    ints(-1),
  )
  return like(eqn, name)


def _split(graph, eqn, x):
  sizes = [int(s) for s in eqn.params["sizes"]]
  names = graph.add(
    "Split",
    graph.name(x),
    graph.integers(*sizes),
    num=len(sizes),
    axis=int(eqn.params["axis"]),
  )
  return [like(eqn, name, i) for i, name in enumerate(names)]


def _dynamic_slice(graph, eqn, x, *starts):
  if not all(s.known for s in starts):
    raise NotImplementedError("a start that depends on the inputs")
  sizes = eqn.params["slice_sizes"]
  return _static_slice(graph, eqn, x, [int(s.array()) for s in starts], sizes)


def _static_slice(graph, eqn, x, starts, sizes):
  """Slices where it is known, as JAX does: starts are moved inside."""
  picked = []
  for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
    if size == x.shape[axis]:
      continue
    if not is_static([size, x.shape[axis]]):
      raise NotImplementedError("a slice of free size")
    first = int(np.clip(start, 0, x.shape[axis] - size))
    picked.append((axis, first, first + int(size)))
  if not picked:
    return x
  axes, begins, ends = (
    graph.integers(*column) for column in zip(*picked, strict=True)
  )
  return like(eqn, graph.add("Slice", graph.name(x), begins, ends, axes))


def _pad(graph, eqn, x, value):
  low, high, inner = zip(*eqn.params["padding_config"], strict=True)
  if any(inner):
    raise NotImplementedError("padding between elements")
  name = graph.add(
    "Pad", graph.name(x), graph.integers(*low, *high), graph.name(value)
  )
  return like(eqn, name)


def _iota(graph, eqn):
  """Counts along an axis, whose size is free: others are known already."""
  p = eqn.params
  shape, axis = tuple(eqn.outvars[0].aval.shape), p["dimension"]
  stop = graph.add("Squeeze", graph.size(shape[axis]))
  zero, one = (graph.constant(np.int64(i)) for i in (0, 1))
  name = graph.add("Range", zero, stop, one)
  name = graph.add("Cast", name, to=onnx_type(dtype_of(p["dtype"])))
  narrow = tuple(s if i == axis else 1 for i, s in enumerate(shape))
  name = graph.reshape(name, narrow)
  whole = narrow == shape
  return Value(name, shape, dtype_of(p["dtype"]), None if whole else narrow)


def _dim_as_value(graph, eqn):
  name = graph.add("Squeeze", graph.size(eqn.params["dim"]))
  dtype = eqn.outvars[0].aval.dtype
  return like(eqn, graph.add("Cast", name, to=onnx_type(dtype)))


def _gather(graph, eqn, x, indices):
  """Takes slices: at known places, or whole rows by their numbers."""
  dims = eqn.params["dimension_numbers"]
  axes, batch = dims.start_index_map, dims.operand_batching_dims
  if indices.known and not batch:
    out = _at_known_places(graph, eqn, x, indices.array())
    if out is not None:
      return out
  return _rows(graph, eqn, x, indices, axes, batch)


def _at_known_places(graph, eqn, x, indices):
  """Slices along axes with one start, gathers along one with several.

  None if there are several of the latter, or indices are out of range.
  """
  p = eqn.params
  dims, sizes = p["dimension_numbers"], p["slice_sizes"]
  columns = indices.reshape(-1, indices.shape[-1]).T
  starts = dict(zip(dims.start_index_map, columns, strict=True))
  if not all(is_static([x.shape[axis], sizes[axis]]) for axis in starts):
    return None
  for axis, start in starts.items():
    last = x.shape[axis] - sizes[axis]
    if not _fills(p):
      starts[axis] = start = np.clip(start, 0, last)
    if start.min() < 0 or start.max() > last:
      return None
  varies = [a for a, start in starts.items() if (start != start[0]).any()]
  if not varies and indices.ndim > 1:
    varies = [a for a in starts if a in dims.collapsed_slice_dims][:1]
  if len(varies) > 1 or indices.ndim > 1 and not varies:
    return None
  if any(a not in dims.collapsed_slice_dims for a in varies):
    return None
  name, several = graph.name(x), None
  picked, squeezed = [], []
  for axis, start in starts.items():
    if axis in varies:
      several = axis, start.reshape(indices.shape[:-1])
    elif sizes[axis] != x.shape[axis]:
      picked.append((axis, int(start[0]), int(start[0] + sizes[axis])))
  if picked:
    axes, begins, ends = map(list, zip(*picked, strict=True))
    ints = graph.integers
    name = graph.add("Slice", name, ints(*begins), ints(*ends), ints(*axes))
  # Names of the axes: a number of the operand's, or "i0", "i1" of the indices.
  order: list[Any] = list(range(len(x.shape)))
  if several is not None:
    axis, start = several
    number = graph.constant(start.astype(np.int64))
    name = graph.add("Gather", name, number, axis=int(axis))
    order[axis : axis + 1] = [f"i{j}" for j in range(start.ndim)]
  for axis in dims.collapsed_slice_dims:
    if axis in order:
      squeezed.append(order.index(axis))
  if squeezed:
    name = graph.add("Squeeze", name, graph.integers(*squeezed))
    order = [o for i, o in enumerate(order) if i not in squeezed]
  offsets = iter([o for o in order if not isinstance(o, str)])
  others = iter([o for o in order if isinstance(o, str)])
  wanted = [
    next(offsets if i in dims.offset_dims else others)
    for i in range(len(order))
  ]
  perm = [order.index(o) for o in wanted]
  if perm != sorted(perm):
    name = graph.add("Transpose", name, perm=perm)
  return like(eqn, name)


def _fills(params):
  mode = GatherScatterMode.from_any(params["mode"])
  return mode == GatherScatterMode.FILL_OR_DROP


def _rows(graph, eqn, x, indices, axes, batch):
  """Takes rows whose numbers are computed."""
  dims, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
  offsets, rank = dims.offset_dims, len(eqn.outvars[0].aval.shape)
  num = len(batch)
  rows = (
    tuple(dims.collapsed_slice_dims) == tuple(axes)
    and tuple(batch) == tuple(dims.start_indices_batching_dims)
    and all(
      size == x.shape[axis]
      for axis, size in enumerate(sizes)
      if axis not in axes and axis not in batch
    )
  )
  in_front = tuple(batch) == tuple(range(num)) and tuple(axes) == tuple(
    range(num, num + len(axes))
  )
  depth = len(indices.shape) - 1  # Axes of the result that are of indices.
  if not rows:
    raise NotImplementedError("such slices")
  # The largest indices. Sizes of a batch may be free.
  last = [graph.size(x.shape[axis] - 1) for axis in axes]
  last = last[0] if len(last) == 1 else graph.add("Concat", *last, axis=0)
  kind = np.dtype(np.int64)
  high = cast(graph, Value(last, (len(axes),), kind), indices.dtype)
  low = known(np.zeros([len(axes)], indices.dtype))
  at = graph.elementwise("Max", indices.shape, indices.dtype, indices, low)
  at = graph.elementwise("Min", indices.shape, indices.dtype, at, high)
  if not batch and len(axes) == 1:
    (axis,) = axes
    if offsets != (*range(axis), *range(axis + depth, rank)):
      raise NotImplementedError("axes in such an order")
    squeezed = graph.add("Squeeze", graph.name(at), graph.integers(-1))
    out = graph.add("Gather", graph.name(x), squeezed, axis=int(axis))
    before, after = axis, rank - axis - depth
  elif in_front and offsets == tuple(range(depth, rank)):
    numbers = cast(graph, at, np.int64)
    out = graph.add(
      "GatherND", graph.name(x), graph.name(numbers), batch_dims=num
    )
    before, after = 0, rank - depth
  else:
    raise NotImplementedError("axes in such an order")
  result = like(eqn, out)
  if not _fills(eqn.params):
    return result
  return _filled(graph, eqn, result, indices, at, before, after)


def _filled(graph, eqn, result, indices, inside, before, after):
  """Marks what was taken from outside of the array, as JAX does."""
  same = graph.elementwise("Equal", indices.shape, np.bool_, indices, inside)
  numbers = cast(graph, same, np.int32)
  shape = indices.shape[:-1]
  good = graph.add(
    "ReduceMin", graph.name(numbers), graph.integers(-1), keepdims=0
  )
  good = graph.add("Cast", good, to=onnx_type(np.bool_))
  axes = [
    *range(before),
    *range(before + len(shape), before + len(shape) + after),
  ]
  if axes:
    good = graph.add("Unsqueeze", good, graph.integers(*axes))
  fill = eqn.params["fill_value"]
  if fill is None:
    floating = np.issubdtype(result.dtype, np.floating)
    fill = np.nan if floating else np.iinfo(result.dtype).min
  mask = Value(good, (*[1] * before, *shape, *[1] * after), np.dtype(np.bool_))
  return graph.elementwise(
    "Where",
    result.shape,
    result.dtype,
    mask,
    result,
    known(np.asarray(fill, result.dtype)),
  )


RULES: dict[str, Rule] = {
  "reshape": _reshape,
  "broadcast_in_dim": _broadcast_in_dim,
  "transpose": _transpose,
  "squeeze": _squeeze,
  "expand_dims": _expand_dims,
  "concatenate": _concatenate,
  "stack": _stack,
  "tile": _tile,
  "slice": _slice,
  "rev": _reverse,
  "split": _split,
  "dynamic_slice": _dynamic_slice,
  "pad": _pad,
  "iota": _iota,
  "dim_as_value": _dim_as_value,
  "gather": _gather,
}
