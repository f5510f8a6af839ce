"""Graphs: the operations of a traced function, as the planner sees them.

Loops stay what they are: an `Op` with a `Graph` as its body. `jaxpr.py` makes
graphs of functions, `primitives.py` says what the operations cost.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import DTypeLike

from big_vision import compat


@dataclasses.dataclass(eq=False, repr=False)
class Value:
  """An array: the result of an operation, or an input if `op` is None.

  Attributes:
    shape: tuple of int, of the whole array as it was traced.
    dtype: of the elements.
    op: Op that makes it.
    spec: per dimension, the tuple of mesh axes that split it.
    part: "gradients" or "gathered parameters", or "activations" for the rest.
  """

  shape: tuple[int, ...]
  dtype: DTypeLike
  op: "Op | None" = None
  spec: tuple[tuple[str, ...], ...] = ()
  part: str = "activations"

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)

  @property
  def itemsize(self) -> int:
    """Bytes per element; random keys count as their data."""
    if jax.dtypes.issubdtype(self.dtype, jax.dtypes.extended):
      return 8
    return self.dtype.itemsize


@dataclasses.dataclass(eq=False, repr=False)
class Op:
  """An operation.

  Attributes:
    name: of the primitive; "literal" is a constant.
    params: its parameters.
    inputs: list of Value.
    outputs: list of Value.
    bodies: list of Graph: the body of a loop, the branches of a conditional.
    scan: how the operands of a scan are divided; None for other operations.
    moves: whether it communicates; `partition.py` sets it.
  """

  name: str
  params: dict[str, Any]
  inputs: list[Value]
  outputs: list[Value]
  bodies: "list[Graph]" = dataclasses.field(default_factory=list)
  scan: compat.Scan | None = None
  moves: bool = False

  @property
  def times(self) -> int:
    """How often its body runs; that of a `while` counts once."""
    return self.scan.length if self.scan else 1


@dataclasses.dataclass(eq=False, repr=False)
class Graph:
  """A function: its operations in the order of its program."""

  inputs: list[Value]
  ops: list[Op]
  outputs: list[Value]


def needed(ops: Sequence[Op], outputs: Sequence[Value]) -> list[Op]:
  """Selects the operations that some values depend on.

  Args:
    ops: operations in the order of the program.
    outputs: values that are wanted.

  Returns:
    Operations in the same order.
  """
  wanted = set(outputs)
  kept = []
  for op in reversed(ops):
    if wanted.isdisjoint(op.outputs):
      continue
    kept.append(op)
    wanted.update(op.inputs)
  return kept[::-1]
