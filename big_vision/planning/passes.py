"""Where XLA's partitioner puts the communication of parameters and gradients.

A traced step has a mark where parameters become whole and one where gradients
are split (`jaxpr.gather_p`, `jaxpr.scatter_p`), both around the whole gradient.
These passes move the marks to where the communication happens.
"""

from collections.abc import Callable

from big_vision.planning.graph import Graph, Op, Value, needed
from big_vision.planning.primitives import GATHER, SCATTER


def place_communication(graph: Graph) -> None:
  """Moves the marks to where the communication happens; changes the graph.

  Args:
    graph: Graph of an update step, fresh from `jaxpr.from_jaxpr`.
  """
  _gather_in_loops(graph)
  _scatter_in_loops(graph)
  _narrow(graph)


# XLA's default for GPUs; its backend for TPUs may combine more.
_COMBINED_BYTES = 30 * 2**20


def combine_sums(graph: Graph, nbytes: Callable[[Value], int]) -> None:
  """Combines sums of small gradients over devices into one operation.

  Until the last of them is computed the others wait, which takes memory.

  Args:
    graph: Graph, partitioned; is changed.
    nbytes: `Value -> int`, bytes on one device.
  """
  groups, size = [], 0
  for op in graph.ops:
    for body in op.bodies:
      combine_sums(body, nbytes)
    if op.name != SCATTER or not op.moves:
      continue
    own = nbytes(op.inputs[0])
    if not groups or size + own > _COMBINED_BYTES:
      groups.append([])
      size = 0
    groups[-1].append(op)
    size += own
  merged = {}
  for group in groups:
    last = group[-1]
    inputs = [op.inputs[0] for op in group]
    outputs = [op.outputs[0] for op in group]
    one = Op(last.name, last.params, inputs, outputs, moves=True)
    for v in outputs:
      v.op = one
    merged.update({op: None for op in group[:-1]})
    merged[last] = one
  ops = [merged.get(op, op) for op in graph.ops]
  graph.ops = _in_order([op for op in ops if op is not None])


def _in_order(ops):
  """The operations, each after those that make what it reads."""
  made = {v for op in ops for v in op.outputs}
  ready, waiting, done = [], ops, set()
  while waiting:
    later = []
    for op in waiting:
      if all(v in done or v not in made for v in op.inputs):
        ready.append(op)
        done.update(op.outputs)
      else:
        later.append(op)
    waiting = later
  return ready


def _like(value, dtype=None):
  """A new value of the same shape."""
  return Value(value.shape, dtype or value.dtype, spec=value.spec)


def _make(name, params, source, out):
  """An operation from one value to another."""
  out.op = Op(name, params, [source], [out])
  return out.op


def _gather_in_loops(graph):
  """A scan over stacked parameters gathers them one slice at a time.

  What a loop reads whole in every iteration is gathered once, before it.
  """
  hoisted = []
  for op in list(graph.ops):
    for body in op.bodies:
      _gather_in_loops(body)
    if not op.scan:
      continue
    (body,) = op.bodies
    consts = op.scan.num_consts
    hoisted += _hoist(op, body, consts)
    for i in range(consts + op.scan.num_carry, len(op.inputs)):
      _slice_inside(op, body, i)
  for before, op in hoisted:
    graph.ops.insert(graph.ops.index(before), op)
  graph.ops = needed(graph.ops, graph.outputs)


def _hoist(loop, body, consts):
  """Moves gathers of constants of a loop before it: [(loop, gather)]."""
  moved = []
  for op in list(body.ops):
    source = op.inputs[0] if op.inputs else None
    if op.name != GATHER or source not in body.inputs[:consts]:
      continue
    i = body.inputs.index(source)
    body.ops.remove(op)
    _replace(body, {op.outputs[0]: source})
    whole = _like(loop.inputs[i])
    moved.append((loop, _make(GATHER, op.params, loop.inputs[i], whole)))
    loop.inputs[i] = whole
  return moved


def _slice_inside(loop, body, i):
  """Input i of a scan is read slice by slice, and gathered then."""
  inner, outer = body.inputs[i], loop.inputs[i]
  stacked = _like(inner)
  body.inputs[i] = stacked
  if outer.op is not None and outer.op.name == GATHER:
    loop.inputs[i] = outer.op.inputs[0]
    part = _like(inner)
    gather = _make(GATHER, outer.op.params, part, inner)
    body.ops[:0] = [_make("scan_slice", {}, stacked, part), gather]
  else:
    body.ops[:0] = [_make("scan_slice", {}, stacked, inner)]


def _scatter_in_loops(graph):
  """Each layer's gradient is split at once; only the parts are stacked."""
  replaced = {}
  for op in graph.ops:
    for body in op.bodies:
      _scatter_in_loops(body)
    op.inputs = [replaced.get(v, v) for v in op.inputs]
    if op.name != SCATTER or op.inputs[0].op is None:
      continue
    (source,) = op.inputs
    loop = source.op
    if not loop.scan:
      continue
    index = loop.outputs.index(source)
    if index < loop.scan.num_carry:
      continue
    (body,) = loop.bodies
    inner = body.outputs[index]
    part = _like(inner)
    body.ops.append(_make(SCATTER, op.params, inner, part))
    body.outputs[index] = part
    source.part = "gradients"
    replaced[op.outputs[0]] = source
  graph.outputs = [replaced.get(v, v) for v in graph.outputs]
  graph.ops = needed(graph.ops, graph.outputs)


def _narrow(graph):
  """Parameters and gradients travel in the dtype of the computation.

  A conversion to fewer bits comes before the gather, one to more bits after the
  sum over devices.
  """
  readers = {}
  for op in graph.ops:
    for body in op.bodies:
      _narrow(body)
    for v in op.inputs:
      readers.setdefault(v, []).append(op)
  kept = set(graph.outputs)
  replaced, ops = {}, []
  for op in graph.ops:
    op.inputs = [replaced.get(v, v) for v in op.inputs]
    if op.name == GATHER:
      (source,), (out,) = op.inputs, op.outputs
      casts = readers.get(out, [])
      dtypes = {r.outputs[0].dtype for r in casts if _is_cast(r)}
      if out not in kept and len(dtypes) == 1 and all(map(_is_cast, casts)):
        (dtype,) = dtypes
        if dtype.itemsize < source.itemsize:
          small, whole = _like(source, dtype), _like(out, dtype)
          ops.append(_make(casts[0].name, casts[0].params, source, small))
          op = _make(GATHER, op.params, small, whole)
          replaced.update({r.outputs[0]: whole for r in casts})
    elif op.name == SCATTER:
      (source,), (out,) = op.inputs, op.outputs
      cast = source.op
      if cast is not None and _is_cast(cast):
        if cast.inputs[0].itemsize < source.itemsize:
          small = cast.inputs[0]
          part = _like(small)
          ops.append(_make(SCATTER, op.params, small, part))
          op = _make(cast.name, cast.params, part, out)
    ops.append(op)
  graph.ops = ops
  graph.outputs = [replaced.get(v, v) for v in graph.outputs]
  graph.ops = needed(graph.ops, graph.outputs)


def _is_cast(op):
  return op.name == "convert_element_type"


def _replace(graph, replaced):
  """Lets all readers of some values read others."""
  for op in graph.ops:
    op.inputs = [replaced.get(v, v) for v in op.inputs]
  graph.outputs = [replaced.get(v, v) for v in graph.outputs]
