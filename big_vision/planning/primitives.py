"""Table of what the planner knows about each operation of a traced step.

One table says for every primitive of JAX that can be in a step how XLA treats
its buffers, what it costs, and how a split of its operands goes on to its
results. `fusion.py`, `flops.py`, `partition.py` and `memory.py` all read it.

A primitive that is not in the table is assumed to be elementwise if its shapes
allow that, and the plan says so (`assumed`). Any other one is an error.
"""

import collections
import dataclasses
import enum
import functools

from big_vision.planning.graph import Graph, Op

# Marks where a step needs parameters whole, and where it has gradients that may
# be split again. Traced around `Recipe.grad_fn`, see `trace.py`.
GATHER, SCATTER = "gather_params", "scatter_grads"


class Buffers(enum.Enum):
  """How XLA treats what an operation reads and writes.

  VIEW: another shape of the same numbers; nothing runs.
  CHEAP: elementwise; XLA computes it again wherever it is read, if that takes
    less traffic than to store it.
  EXPENSIVE: elementwise; XLA stores it if more than one operation reads it.
  REDUCTION: its result has a buffer; it is fused with what it reads.
  PRODUCT: a matrix product or a convolution; its operands have buffers on GPUs
    and CPUs, where products are calls of libraries.
  OWN: its operands and results all have buffers.
  MARK: communicates if it changes how a value is split; else nothing runs.
  CONTROL: a loop or a conditional, with functions as its body.
  """

  VIEW = enum.auto()
  CHEAP = enum.auto()
  EXPENSIVE = enum.auto()
  REDUCTION = enum.auto()
  PRODUCT = enum.auto()
  OWN = enum.auto()
  MARK = enum.auto()
  CONTROL = enum.auto()


FUSIBLE = frozenset([Buffers.VIEW, Buffers.CHEAP, Buffers.EXPENSIVE])


@dataclasses.dataclass(frozen=True)
class Primitive:
  """Properties of an operation.

  Attributes:
    buffers: how XLA treats its operands and results.
    flops: FLOPs per element of the result; or a rule of `flops.py`.
    split: rule of `partition.py`.
  """

  buffers: Buffers
  flops: int | str = 0
  split: str = "same shape"


_TABLE = (
  # Elementwise.
  (
    "add sub mul neg abs sign max min square add_any select_n clamp eq ne lt "
    "le gt ge and or not xor floor ceil round is_finite",
    Primitive(Buffers.CHEAP, 1),
  ),
  ("one_minus_square", Primitive(Buffers.CHEAP, 2)),
  ("integer_pow", Primitive(Buffers.CHEAP, "power")),
  (
    "convert_element_type iota shift_left shift_right_logical "
    "shift_right_arithmetic bitcast_convert_type real imag nextafter clz "
    "population_count literal scan_slice random_wrap random_unwrap",
    Primitive(Buffers.CHEAP),
  ),
  ("div rem", Primitive(Buffers.EXPENSIVE, 1)),
  (
    "exp exp2 expm1 log log1p tanh logistic sin cos tan asin acos atan atan2 "
    "sinh cosh asinh acosh atanh erf erfc erf_inv lgamma digamma pow sqrt "
    "rsqrt cbrt",
    Primitive(Buffers.EXPENSIVE),
  ),
  # Other shapes of the same numbers.
  ("reshape", Primitive(Buffers.VIEW, split="reshape")),
  ("transpose", Primitive(Buffers.VIEW, split="transpose")),
  ("squeeze", Primitive(Buffers.VIEW, split="squeeze")),
  ("broadcast_in_dim", Primitive(Buffers.CHEAP, split="broadcast")),
  ("slice pad concatenate rev", Primitive(Buffers.CHEAP, split="equal sizes")),
  ("split", Primitive(Buffers.CHEAP, split="equal sizes")),
  ("stack", Primitive(Buffers.CHEAP, split="stack")),
  ("unstack", Primitive(Buffers.CHEAP, split="unstack")),
  ("dynamic_slice tile", Primitive(Buffers.CHEAP)),
  # Sums and the like.
  (
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or "
    "reduce_xor argmax argmin",
    Primitive(Buffers.REDUCTION, "operand", "reduce"),
  ),
  ("cumsum cumprod cummax cummin", Primitive(Buffers.OWN, "operand")),
  (
    "reduce_window_sum reduce_window_max reduce_window_min reduce_window "
    "select_and_scatter_add select_and_gather_add",
    Primitive(Buffers.OWN, "window", "none"),
  ),
  # Products.
  ("dot_general", Primitive(Buffers.PRODUCT, "product", "product")),
  (
    "conv_general_dilated",
    Primitive(Buffers.PRODUCT, "convolution", "convolution"),
  ),
  # Table look-ups, sorting, random numbers: XLA counts no FLOPs for them.
  (
    "gather scatter scatter-add scatter_add scatter-mul scatter_mul "
    "scatter-min scatter_min scatter-max scatter_max scatter_sub "
    "dynamic_update_slice sort top_k cumlogsumexp random_bits random_split "
    "random_fold_in random_gamma random_seed threefry2x32 rng_bit_generator "
    "scan_stack",
    Primitive(Buffers.OWN),
  ),
  # Communication, with code of its own in `partition.py`.
  (f"{GATHER} {SCATTER} sharding_constraint", Primitive(Buffers.MARK)),
  ("scan while cond", Primitive(Buffers.CONTROL)),
)
KNOWN = {name: row for names, row in _TABLE for name in names.split()}

_ELEMENTWISE = Primitive(Buffers.CHEAP, 1)


def of(op: Op) -> Primitive:
  """Looks up an operation.

  Args:
    op: the operation.

  Returns:
    Its properties; those of an elementwise one if the planner does not know it
    and each of its operands is a scalar or as large as its results.

  Raises:
    ValueError: the planner does not know it, and it is not elementwise.
  """
  if op.name in KNOWN:
    return KNOWN[op.name]
  shapes = [v.shape for v in op.inputs]
  return _assume(op.name, tuple(shapes), tuple(v.shape for v in op.outputs))


@functools.cache
def _assume(name, operands, results):
  if len({*results}) == 1 and operands and {*operands} - {()} <= {*results}:
    if results[0] in operands:
      return _ELEMENTWISE
  raise unknown(name, f" from {list(operands)} to {list(results)}")


def unknown(name: str, shapes: str = "") -> ValueError:
  """Makes the error for an operation that cannot be planned.

  Args:
    name: of the primitive.
    shapes: text about its operands and results.

  Returns:
    The error, to be raised.
  """
  return ValueError(
    f"The planner does not know the operation {name!r} of JAX{shapes}, so any "
    "figure would be a guess. Add it to the table in "
    "big_vision/planning/primitives.py."
  )


def assumed(graph: Graph) -> dict[str, int]:
  """Lists what a graph has that the planner does not know.

  Args:
    graph: a traced function.

  Returns:
    Name of a primitive -> how many there are. All are taken as elementwise.

  Raises:
    ValueError: one of them cannot be elementwise.
  """
  found = collections.Counter()
  for op in graph.ops:
    of(op)
    if op.name not in KNOWN:
      found[op.name] += 1
    for body in op.bodies:
      found.update(assumed(body))
  return dict(found)
