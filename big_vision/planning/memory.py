"""The most bytes that the buffers of a step take at one time.

Buffers live from the operation that writes them to the last that reads them,
directly or through values that are fused with it (`fusion.py`). Operations run
in the order of the program, with what a scheduler that saves memory changes:
those that free more than they take run as soon as they can, those that only
read what is there anyway run when their result is needed.

What the model leaves out: padding of layouts, scratch space of convolutions
and sorts, fragmentation.
"""

import collections
from collections.abc import Callable, Sequence

from big_vision.planning import fusion as fusion_lib
from big_vision.planning.graph import Graph, Op, Value


class Peak(collections.Counter):
  """Counts bytes by part ("activations", "gradients", "gathered parameters")."""


def peak(
  graph: Graph,
  nbytes: Callable[[Value], int],
  donated: Sequence[tuple[int, int]] = (),
  fused_products: bool = False,
) -> tuple[Peak, int]:
  """Finds the most temporary memory, and the traffic, of a graph.

  Temporary memory is neither that of arguments nor of what replaces them. The
  traffic is all that operations read and write, in loops as often as they run,
  as if nothing stayed in caches between operations.

  Args:
    graph: Graph.
    nbytes: `Value -> int`, bytes on one device.
    donated: sequence of pairs (index of input, index of output) that share a
      buffer.
    fused_products: bool, see `fusion.py`; true for TPUs.

  Returns:
    (Peak at the time when its sum is largest, int bytes of traffic).
  """
  return _Simulation(graph, nbytes, donated, fused_products).run()


class _Simulation:
  """One run through the operations of a graph."""

  def __init__(self, graph, nbytes, donated, fused_products):
    self._graph, self._nbytes = graph, nbytes
    self._fusion = fusion_lib.Fusion(graph, nbytes, fused_products)
    self._fused_products = fused_products
    kernels = [op for op in graph.ops if self._fusion.runs(op)]
    self._reads = {op: self._fusion.reads(op) for op in kernels}
    self._readers = collections.Counter(
      v for reads in self._reads.values() for v in reads
    )
    # Results stay, but what is donated need not be kept for its own sake.
    self._kept = set()
    self._into = {}  # Result -> the input whose buffer it takes.
    for v in graph.outputs:
      self._kept.update(self._fusion.roots(v))
    for i, o in donated:
      if len(roots := self._fusion.roots(graph.outputs[o])) == 1:
        self._into[roots[0]] = graph.inputs[i]
    self._inputs = set(graph.inputs)
    self._left = collections.Counter(self._readers)
    self._owned = {}  # Buffer -> bytes that it adds.
    self._live = Peak()
    self._peak = Peak()
    self._done = set()
    self._kernels = kernels
    self._traffic = 0

  def run(self):
    lazy = {op for op in self._kernels if self._is_lazy(op)}
    waiting = collections.defaultdict(list)
    for op in self._kernels:
      for v in self._reads[op]:
        waiting[v].append(op)
    for op in self._kernels:
      if op not in lazy:
        self._emit(op, waiting)
    for op in self._kernels:  # Results that nothing else needs.
      self._emit(op, waiting)
    return self._peak, self._traffic

  def _is_lazy(self, op):
    """It reads arguments only: to run it early would free nothing."""
    return all(v in self._inputs for v in self._reads[op])

  def _emit(self, first, waiting):
    """Runs an operation, what it needs, and then what frees memory."""
    stack = [first]
    while stack:
      op = stack[-1]
      if op in self._done:
        stack.pop()
        continue
      needs = [
        v.op
        for v in self._reads[op]
        if v.op is not None and v.op not in self._done
      ]
      if needs:
        stack.extend(needs)
        continue
      stack.pop()
      self._execute(op)
      for v in (*self._reads[op], *op.outputs):
        if v not in self._inputs and self._left[v] <= 1 or v in op.outputs:
          stack.extend(r for r in waiting[v] if self._frees(r))

  def _frees(self, op):
    """Whether it can run, and leaves no more memory in use than before."""
    if op in self._done:
      return False
    if any(
      v.op is not None and v.op not in self._done for v in self._reads[op]
    ):
      return False
    freed = sum(
      self._owned.get(v, 0)
      for v in self._reads[op]
      if self._left[v] == 1 and v not in self._kept
    )
    return freed > 0 and self._new_bytes(op) <= freed

  def _new_bytes(self, op):
    return sum(
      0 if v in self._into else self._nbytes(v)
      for v in op.outputs
      if v in self._fusion.stored
    )

  def _execute(self, op):
    """Allocates results, notes the peak, frees what is read for the last time."""
    self._done.add(op)
    reads = self._reads[op]
    dying = []
    for v in reads:
      self._left[v] -= 1
      if not self._left[v] and v in self._owned and v not in self._kept:
        dying.append(v)
    for v in op.outputs:
      if v not in self._fusion.stored:
        continue
      size = self._nbytes(v)
      if v in self._into and not self._left[self._into[v]]:
        size = 0  # Written over the argument, which is not read any more.
      same = [d for d in dying if self._owned[d] == size]
      if size and same and self._carries(op, v):
        self._free(same[0])
        dying.remove(same[0])
      self._owned[v] = size
      self._live[v.part] += size
    inside, traffic = self._inside(op)
    if not op.bodies:
      traffic = sum(map(self._nbytes, reads)) + sum(
        self._nbytes(v) for v in op.outputs if v in self._fusion.stored
      )
    self._traffic += traffic
    if self._live.total() + inside.total() > self._peak.total():
      self._peak = Peak(self._live + inside)
    for v in dying:
      self._free(v)
    for v in op.outputs:
      if not self._readers[v] and v in self._owned and v not in self._kept:
        self._free(v)

  def _carries(self, op, value):
    """A loop updates what it carries in place."""
    return op.scan is not None and (op.outputs.index(value) < op.scan.num_carry)

  def _free(self, value):
    self._live[value.part] -= self._owned.pop(value)

  def _inside(self, op):
    """Peak and traffic of a loop's body or of the largest branch."""
    if not op.scan:
      each = [
        peak(body, self._nbytes, (), self._fused_products) for body in op.bodies
      ]
      return max(each, key=lambda e: e[0].total(), default=(Peak(), 0))
    first, carry = op.scan.num_consts, op.scan.num_carry
    donated = [(first + i, i) for i in range(carry)]
    body = _with_stacks(op.bodies[0], carry)
    most, traffic = peak(body, self._nbytes, donated, self._fused_products)
    return most, traffic * op.scan.length


def _with_stacks(body, num_carry):
  """The body of a scan with writes into the stacked results as operations."""
  ops = list(body.ops)
  for v in body.outputs[num_carry:]:
    # Fused with what computes the value, unless that has a buffer anyway.
    done = Value((), v.dtype, part=v.part)
    done.op = Op("scan_stack", {}, [v], [done])
    ops.append(done.op)
  return Graph(body.inputs, ops, body.outputs[:num_carry])
