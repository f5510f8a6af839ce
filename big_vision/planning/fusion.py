"""Which values of a graph are written to memory, as XLA decides it.

XLA turns elementwise operations, and changes of shape, into parts of the
operations that read them ("fusion"). A value gets a buffer of its own if

- an operation makes it that is not elementwise: products, convolutions,
  reductions, loops, random bits (`primitives.py` has the list),
- such an operation reads it (reductions do not need it: they are fused with
  what they read; and a product reads a transposed or reshaped buffer directly),
- it is expensive to compute, and more than one operation would do so again,
- it is cheap, but reading it would take less memory traffic than reading, in
  each place where it is used, all that it is computed from,
- it is a result of the program.

All others are computed again wherever they are used, and instead of them lives
what they are computed from: their roots.

On TPUs products, too, are fused with what they read (`fused_products`), and
nothing elementwise is expensive: there the second and third rule do not apply
to products. On GPUs and CPUs products are calls of libraries.
"""

from collections.abc import Callable

from big_vision.planning import primitives
from big_vision.planning.graph import Graph, Op, Value
from big_vision.planning.primitives import Buffers

# Beyond so many places of use their exact number decides nothing.
_MANY = 8


class Fusion:
  """The decisions for one graph.

  Attributes:
    stored: set of the values that have a buffer, inputs of the graph included.
  """

  def __init__(
    self,
    graph: Graph,
    nbytes: Callable[[Value], int],
    fused_products: bool = False,
  ):
    """Decides for all values of a graph.

    Args:
      graph: Graph.
      nbytes: `Value -> int`, bytes on one device.
      fused_products: bool, see above.
    """
    self._graph, self._nbytes = graph, nbytes
    self._fused_products = fused_products
    self.stored = set(graph.inputs)
    self._roots = {v: (v,) for v in graph.inputs}
    self._must_store()
    places = self._places()
    for op in graph.ops:  # In order: what is read comes first.
      self._decide(op, places)

  def roots(self, value: Value) -> tuple[Value, ...]:
    """Lists the buffers that are read to compute a value (itself, if stored)."""
    return self._roots[value]

  def reads(self, op: Op) -> list[Value]:
    """Lists the buffers that an operation reads when it runs."""
    found = {}
    for v in op.inputs:
      found.update(dict.fromkeys(self._roots[v]))
    return list(found)

  def runs(self, op: Op) -> bool:
    """Tells whether an operation runs by itself, not within its readers."""
    return any(v in self.stored for v in op.outputs)

  def _must_store(self):
    """Stores the results that XLA keeps whatever they cost."""
    for op in self._graph.ops:
      buffers = primitives.of(op).buffers
      if buffers in primitives.FUSIBLE or self._is_no_op(op):
        continue
      self.stored.update(op.outputs)
      if buffers is Buffers.REDUCTION:
        continue
      if self._fused_products and buffers is Buffers.PRODUCT:
        continue
      for v in op.inputs:
        self.stored.add(self._base(v))
    self.stored.update(self._base(v) for v in self._graph.outputs)

  def _is_no_op(self, op):
    """A mark where there is nothing to communicate."""
    return primitives.of(op).buffers is Buffers.MARK and not op.moves

  def _base(self, value):
    """The buffer that is read for a value which has to be in memory."""
    while value.op is not None and (
      primitives.of(value.op).buffers is Buffers.VIEW
      or self._is_no_op(value.op)
    ):
      value = value.op.inputs[0]
    return value

  def _places(self):
    """For each value the operations (at most `_MANY`) that would compute it."""
    places = {}
    for op in reversed(self._graph.ops):
      fused = not any(v in self.stored for v in op.outputs)
      if fused:
        uses = set().union(*(places.get(v, ()) for v in op.outputs))
        buffers = primitives.of(op).buffers
        expensive = buffers is Buffers.EXPENSIVE and not self._fused_products
        if expensive and len(uses) > 1:
          self.stored.update(op.outputs)
          fused = False
      if not fused:
        uses = {op}
      for v in op.inputs:
        known = places.setdefault(v, set())
        if len(known) < _MANY:
          known |= uses
    return places

  def _decide(self, op, places):
    """Whether a cheap value is stored; the roots of all values of `op`."""
    reads = self.reads(op)
    elementwise = primitives.of(op).buffers in (
      Buffers.CHEAP,
      Buffers.EXPENSIVE,
    )
    for v in op.outputs:
      if v not in self.stored and elementwise:
        own = self._nbytes(v)
        # What is small beside the result stays in cache.
        again = sum(b for b in map(self._nbytes, reads) if b > own / 64)
        n = len(places.get(v, ()))
        if n > 1 and n * again > again + own + n * own:
          self.stored.add(v)
      self._roots[v] = (v,) if v in self.stored else tuple(reads)
