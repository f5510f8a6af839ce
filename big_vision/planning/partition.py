"""Which mesh axes split which dimension of every value of a step.

The graph is that of one data-parallel share of the batch (`trace.py`), so axes
that split the batch only matter where parameters, gradients and optimizer state
are split over them. Axes that split the computation of one example (tensor
parallelism) are followed from the parameters through the operations: dimension
by dimension, as far as that is simple. A sum over a split dimension is an
all-reduce; what cannot be followed counts as not split.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from jax.sharding import NamedSharding

from big_vision.planning import primitives
from big_vision.planning.graph import Graph, Op, Value


@dataclasses.dataclass(frozen=True)
class Collective:
  """Communication of one tensor.

  Attributes:
    kind: "all-reduce", "all-gather" or "reduce-scatter".
    bytes: of the tensor on one device: the operand of a reduction, the result
      of an all-gather.
    devices: int, how many take part.
    times: int, how often per step.
    axes: mesh axes over which it runs.
  """

  kind: str
  bytes: int
  devices: int
  times: int
  axes: tuple[str, ...]

  @property
  def payload(self) -> int:
    """Bytes of the tensor, of all times together."""
    return self.bytes * self.times

  @property
  def sent(self) -> float:
    """Bytes that a device sends per step, on a ring."""
    rounds = 2 if self.kind == "all-reduce" else 1
    return rounds * self.payload * (self.devices - 1) / self.devices


class Partition:
  """Follows splits through a graph; sets `spec` of its values.

  Attributes:
    collectives: list of Collective.
  """

  def __init__(self, mesh: Mapping[str, int], batch_axes: Sequence[str]):
    """Starts without collectives.

    Args:
      mesh: dict of axis name -> size.
      batch_axes: axes over which the batch is split.
    """
    self._mesh, self._batch_axes = mesh, tuple(batch_axes)
    self.collectives = []

  def parts(self, axes: Iterable[str]) -> int:
    """Counts the devices along some axes."""
    return math.prod(self._mesh[a] for a in axes)

  def bytes(self, value: Value) -> int:
    """Counts the bytes of a value on one device."""
    split = self.parts(a for axes in value.spec for a in axes)
    return -(-value.size // split) * value.itemsize

  def share(self, op: Op) -> int:
    """Tells into how many parts the work of an operation is divided."""
    axes = {a for v in op.outputs for entry in v.spec for a in entry}
    if op.name == "dot_general":
      axes |= set(_contracted(op))
    elif op.name.startswith("reduce_") and op.inputs:
      axes |= {a for entry in op.inputs[0].spec for a in entry}
    return self.parts(axes)

  def run(self, graph: Graph, times: int = 1) -> None:
    """Sets the specs of all values from those of the inputs.

    Args:
      graph: Graph whose inputs have their specs.
      times: int, how often it runs per step.
    """
    for op in graph.ops:
      if op.bodies:
        self._control(op, times)
        continue
      if op.name == primitives.GATHER:
        self._gather(op, times)
      elif op.name == primitives.SCATTER:
        self._scatter(op, times)
      elif op.name == "sharding_constraint":
        self._constrain(op, times)
      else:
        rule = RULES[primitives.of(op).split]
        for v, spec in zip(op.outputs, rule(op), strict=True):
          v.spec = _once(spec)
      if op.name == "dot_general" and (axes := _contracted(op)):
        self._add(op, "all-reduce", self.bytes(op.outputs[0]), axes, times)

  def _add(self, op, kind, nbytes, axes, times):
    if axes and self.parts(axes) > 1:
      op.moves = True
      c = Collective(kind, nbytes, self.parts(axes), times, tuple(axes))
      self.collectives.append(c)

  def _gather(self, op, times):
    """Parameters become whole along the axes that split the batch, too."""
    (source,), (out,) = op.inputs, op.outputs
    gone = [a for e in source.spec for a in e if a in self._batch_axes]
    out.spec = tuple(
      tuple(a for a in e if a not in self._batch_axes) for e in source.spec
    )
    if gone:
      out.part = "gathered parameters"
    self._add(op, "all-gather", self.bytes(out), gone, times)

  def _scatter(self, op, times):
    """Gradients are summed over the batch, and split like their parameter."""
    (source,), (out,) = op.inputs, op.outputs
    spec = op.params["spec"][-len(out.shape) :] if out.shape else ()
    out.spec = tuple(spec)
    source.part = out.part = "gradients"
    split = [a for e in spec for a in e if a in self._batch_axes]
    rest = [a for a in self._batch_axes if a not in split]
    # What model axes split is split already.
    whole = self.bytes(out) * self.parts(split)
    self._add(op, "reduce-scatter", whole, split, times)
    self._add(op, "all-reduce", self.bytes(out), rest, times)

  def _constrain(self, op, times):
    """Follows a constraint along the axes that do not split the batch."""
    (source,), (out,) = op.inputs, op.outputs
    asked = spec_of(op.params["sharding"], len(out.shape))
    spec = []
    for was, wants in zip(source.spec, asked, strict=True):
      batch = tuple(a for a in was if a in self._batch_axes)
      spec.append(batch + tuple(a for a in wants if a not in self._batch_axes))
    out.spec = _once(spec)
    kept = {a for e in out.spec for a in e}
    op.moves = self.bytes(source) != self.bytes(out)
    gone = [a for e in source.spec for a in e if a not in kept]
    self._add(op, "all-gather", self.bytes(out), gone, times)

  def _control(self, op, times):
    if op.scan:
      self._scan(op, times)
      return
    for body in op.bodies:
      offset = len(op.inputs) - len(body.inputs)
      sources = op.inputs[max(offset, 0) :]
      for v, source in zip(body.inputs, sources, strict=False):
        if len(v.shape) == len(source.spec):
          v.spec = source.spec
      self.run(body, times)
    for v, inner in zip(op.outputs, op.bodies[-1].outputs, strict=False):
      v.spec = inner.spec

  def _scan(self, op, times):
    (body,) = op.bodies
    consts, carry = op.scan.num_consts, op.scan.num_carry
    first = consts + carry
    for i, (v, source) in enumerate(zip(body.inputs, op.inputs, strict=True)):
      v.spec = source.spec if i < first else source.spec[1:]
    kept = list(self.collectives)
    for _ in range(2):  # Carries take the split that they have after a round.
      self.collectives = list(kept)
      self.run(body, times * op.scan.length)
      for v, out in zip(
        body.inputs[consts:first], body.outputs[:carry], strict=True
      ):
        v.spec = _once(_merge(v.spec, out.spec))
    for i, (v, inner) in enumerate(zip(op.outputs, body.outputs, strict=True)):
      v.spec = inner.spec if i < carry else ((), *inner.spec)
    for v, inner in zip(
      op.inputs[consts:first], body.inputs[consts:first], strict=True
    ):
      if v.op is not None and not any(v.spec):
        v.spec = inner.spec  # Zeros are made where they are needed.


def spec_of(sharding: NamedSharding, ndim: int) -> tuple[tuple[str, ...], ...]:
  """Returns the spec of a Value: per dimension, the axes that split it.

  Args:
    sharding: NamedSharding of an array.
    ndim: dimensions of that array.
  """
  entries = [*sharding.spec, *[None] * ndim][:ndim]
  return tuple(
    (e,) if isinstance(e, str) else e if isinstance(e, tuple) else ()
    for e in entries
  )


def _contracted(op):
  """Axes that split a dimension over which a matrix product sums."""
  (lhs, rhs), _ = op.params["dimension_numbers"]
  axes = []
  for v, dims in zip(op.inputs, (lhs, rhs), strict=False):
    axes += [a for d in dims for a in v.spec[d] if a not in axes]
  return tuple(axes)


def _once(spec):
  """A spec in which every axis appears once: where it came first."""
  used, out = set(), []
  for entry in spec:
    out.append(tuple(a for a in entry if a not in used))
    used.update(entry)
  return tuple(out)


def _merge(a, b):
  return tuple(x or y for x, y in zip(a, b, strict=True))


def _same_shape(op):
  """Elementwise operations: the union of the splits of the operands."""
  specs = []
  for out in op.outputs:
    spec = ((),) * len(out.shape)
    for v in op.inputs:
      if v.shape == out.shape:
        spec = _merge(spec, v.spec)
    specs.append(spec)
  return specs


def _no_split(op):
  return [((),) * len(v.shape) for v in op.outputs]


def _broadcast(op):
  spec = [()] * len(op.outputs[0].shape)
  source = op.inputs[0]
  for i, d in enumerate(op.params["broadcast_dimensions"]):
    if source.shape[i] == op.outputs[0].shape[d]:
      spec[d] = source.spec[i]
  return [tuple(spec)]


def _transpose(op):
  return [tuple(op.inputs[0].spec[d] for d in op.params["permutation"])]


def _squeeze(op):
  gone = op.params["dimensions"]
  return [tuple(e for i, e in enumerate(op.inputs[0].spec) if i not in gone)]


def _reshape(op):
  """A dimension keeps its split if it starts at the same stride."""
  source, out = op.inputs[0], op.outputs[0]
  starts = {}
  before = 1
  for n, entry in zip(source.shape, source.spec, strict=True):
    if n > 1:
      starts[before] = entry
    before *= n
  spec, before = [], 1
  for n in out.shape:
    spec.append(starts.get(before, ()) if n > 1 else ())
    before *= n
  return [tuple(spec)]


def _reduce(op):
  axes = op.params["axes"]
  spec = tuple(e for i, e in enumerate(op.inputs[0].spec) if i not in axes)
  return [spec] * len(op.outputs)


def _keep_equal_sizes(op):
  """Slices, pads, concatenations: dimensions that they leave as they are."""
  specs = []
  for out in op.outputs:
    source = op.inputs[0]
    specs.append(
      tuple(
        e if n == m else ()
        for e, n, m in zip(source.spec, source.shape, out.shape, strict=True)
      )
    )
  return specs


def _stack(op):
  """A new dimension, which is not split."""
  axis = op.params["axis"]
  specs = [v.spec for v in op.inputs]
  spec = specs[0]
  for other in specs[1:]:
    spec = _merge(spec, other)
  return [(*spec[:axis], (), *spec[axis:])]


def _unstack(op):
  """Each result has all dimensions but one."""
  spec, axis = op.inputs[0].spec, op.params["axis"]
  return [(*spec[:axis], *spec[axis + 1 :])] * len(op.outputs)


def _dot(op):
  (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = op.params["dimension_numbers"]
  lhs, rhs = op.inputs[:2]
  batch = _merge(
    [lhs.spec[d] for d in lhs_batch], [rhs.spec[d] for d in rhs_batch]
  )
  left = [
    e for d, e in enumerate(lhs.spec) if d not in lhs_sum and d not in lhs_batch
  ]
  right = [
    e for d, e in enumerate(rhs.spec) if d not in rhs_sum and d not in rhs_batch
  ]
  summed = set(_contracted(op))
  spec = [*batch, *left, *right]
  return [tuple(tuple(a for a in e if a not in summed) for e in spec)]


def _conv(op):
  """Only the output features are followed, from the kernel."""
  numbers = op.params["dimension_numbers"]
  spec = [()] * len(op.outputs[0].shape)
  spec[numbers.out_spec[1]] = op.inputs[1].spec[numbers.rhs_spec[0]]
  return [tuple(spec)]


RULES = {
  "same shape": _same_shape,
  "none": _no_split,
  "broadcast": _broadcast,
  "transpose": _transpose,
  "squeeze": _squeeze,
  "reshape": _reshape,
  "equal sizes": _keep_equal_sizes,
  "stack": _stack,
  "unstack": _unstack,
  "reduce": _reduce,
  "product": _dot,
  "convolution": _conv,
}
