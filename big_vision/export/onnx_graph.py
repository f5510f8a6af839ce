"""Builds graphs of ONNX: names, constants, sizes that are free.

A value is either known, an array, or computed, a name in the graph. What depends
on parameters only is computed here and now. Values that are yet to be broadcast
stay narrow: the operations of ONNX broadcast by themselves, so that neither the
file nor the memory has to hold a bias for every pixel.

References: https://onnx.ai/onnx/intro/concepts.html,
  https://onnx.ai/onnx/repo-docs/Broadcasting.html
"""

import ast
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from big_vision import extras

OPSET = 18
IR_VERSION = 8  # Of onnx 1.13, the first release with OPSET.
Shape = tuple[Any, ...]  # Sizes: int, or symbols of `jax.export`.


@dataclasses.dataclass(frozen=True)
class Value:
  """Stands for a variable of a traced function.

  Attributes:
    data: array if it is known, else its name in the graph.
    shape: as JAX sees it.
    dtype: in the graph.
    narrow: shape of `data`, if that is yet to be broadcast to `shape`.
  """

  data: Any
  shape: Shape
  dtype: np.dtype
  narrow: Shape | None = None

  @property
  def known(self) -> bool:
    """Tells whether the content is known."""
    return not isinstance(self.data, str)

  @property
  def own_shape(self) -> Shape:
    """Returns the shape of `data`."""
    return self.shape if self.narrow is None else self.narrow

  def array(self) -> np.ndarray:
    """Returns the content of a known value, in its whole shape."""
    return np.broadcast_to(self.data, self.shape)


def dtype_of(dtype: Any) -> np.dtype:
  """Maps dtypes to those of the graph: half precision becomes float32.

  Runtimes on CPUs have few operations in half precision.

  Args:
    dtype: of JAX.

  Returns:
    NumPy dtype.
  """
  if jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4:
    return np.dtype(np.float32)
  return np.dtype(dtype)


def known(array: Any) -> Value:
  """Makes a value of an array.

  Args:
    array: anything that NumPy takes.

  Returns:
    A known Value.
  """
  x = np.asarray(array)
  x = x.astype(dtype_of(x.dtype))
  return Value(x, x.shape, x.dtype)


def is_static(shape: Iterable[Any]) -> bool:
  """Tells whether all sizes are numbers."""
  return all(isinstance(s, int | np.integer) for s in shape)


class Graph:
  """Collects nodes and constants.

  Attributes:
    nodes: of `onnx.helper.make_node`, in the order of their computation.
    constants: name -> array.
    scope: part of the model that is converted, for the names of nodes.
  """

  def __init__(self) -> None:
    """Makes an empty graph."""
    self.nodes: list[Any] = []
    self.constants: dict[str, np.ndarray] = {}
    self.scope = ""
    self._helper = extras.load("onnx").helper
    self._symbols: dict[str, str] = {}
    self._small: dict[Any, str] = {}
    self._large: dict[int, tuple[Any, str]] = {}

  def add(
    self, op: str, *inputs: str, num: int | None = None, **kw: Any
  ) -> Any:
    """Adds a node.

    Args:
      op: of ONNX.
      *inputs: names.
      num: of outputs; None: one.
      **kw: attributes.

    Returns:
      Name of the output, or a list of `num` names.
    """
    number = len(self.nodes)
    base = f"{self.scope}/{op}_{number}".lstrip("/")
    outputs = [f"{base}:{i}" for i in range(num or 1)]
    self.nodes.append(
      self._helper.make_node(op, list(inputs), outputs, name=base, **kw)
    )
    return outputs if num else outputs[0]

  def constant(self, array: np.ndarray, name: str | None = None) -> str:
    """Adds a constant, once.

    Args:
      array: content.
      name: None: a number.

    Returns:
      Its name.
    """
    array = np.asarray(array)
    if array.size <= 64:
      key = (array.dtype.str, array.shape, array.tobytes())
      if key in self._small and name is None:
        return self._small[key]
    elif id(array) in self._large:
      return self._large[id(array)][1]
    name = name or f"constant_{len(self.constants)}"
    self.constants[name] = array
    if array.size <= 64:
      self._small[array.dtype.str, array.shape, array.tobytes()] = name
    else:
      self._large[id(array)] = array, name  # Kept, so that its id stays taken.
    return name

  def integers(self, *values: int) -> str:
    """Adds a constant of 64 bits, as shapes and axes are."""
    return self.constant(np.array(values, np.int64))

  def narrow_name(self, x: Value) -> str:
    """Returns the name of a value for operations that broadcast."""
    return self.constant(x.data) if x.known else x.data

  def name(self, x: Value) -> str:
    """Returns the name of a value in its whole shape."""
    if x.narrow is None:
      return self.narrow_name(x)
    return self.add("Expand", self.narrow_name(x), self.shape(x.shape))

  def define(self, symbol: str, input_name: str, axis: int) -> None:
    """Says where a free size is found.

    Args:
      symbol: its name.
      input_name: an input that has it.
      axis: of that input.
    """
    if symbol not in self._symbols:
      self._symbols[symbol] = self.add(
        "Shape", input_name, start=axis, end=axis + 1
      )

  def shape(self, shape: Shape) -> str:
    """Computes a shape.

    Args:
      shape: sizes.

    Returns:
      Name of an int64 array.
    """
    if is_static(shape):
      return self.integers(*map(int, shape))
    return self.add("Concat", *map(self.size, shape), axis=0)

  def size(self, size: Any) -> str:
    """Computes a size.

    Args:
      size: int or an expression of symbols.

    Returns:
      Name of an int64 array [1].
    """
    if isinstance(size, int | np.integer):
      return self.integers(int(size))
    # What JAX prints is an expression of Python, but for powers.
    text = str(size).replace("^", "**")
    return self._expression(ast.parse(text, mode="eval").body)

  def _expression(self, node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
      return self.integers(int(node.value))  # pyright: ignore
    if isinstance(node, ast.Name):
      return self._symbols[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
      return self.add("Neg", self._expression(node.operand))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      # Sizes are not negative: truncation is the floor.
      calls = {"floordiv": "Div", "mod": "Mod", "max": "Max", "min": "Min"}
      if op := calls.get(node.func.id):
        return self.add(op, *map(self._expression, node.args))
    if isinstance(node, ast.BinOp):
      ops = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Pow: "Pow"}
      if op := ops.get(type(node.op)):
        sides = node.left, node.right
        return self.add(op, *map(self._expression, sides))
    raise NotImplementedError(f"the size {ast.unparse(node)}")

  def elementwise(
    self, op: str, shape: Shape, dtype: Any, *inputs: Value, **kw: Any
  ) -> Value:
    """Adds an operation that broadcasts its operands.

    Args:
      op: of ONNX.
      shape, dtype: of the result, as JAX sees it.
      *inputs: operands.
      **kw: attributes.

    Returns:
      The result; it is narrow if all operands are.
    """
    name = self.add(op, *map(self.narrow_name, inputs), **kw)
    narrow: list[Any] = [1] * len(shape)
    for x in inputs:
      own = x.own_shape
      for axis, size in enumerate(own, len(shape) - len(own)):
        narrow[axis] = narrow[axis] if _is_one(size) else size
    whole = tuple(narrow) == tuple(shape)
    return Value(
      name, tuple(shape), dtype_of(dtype), None if whole else tuple(narrow)
    )

  def reshape(self, name: str, shape: Shape) -> str:
    """Reshapes an array.

    Args:
      name: of the array.
      shape: sizes.

    Returns:
      Name of the result.
    """
    free = [i for i, s in enumerate(shape) if not is_static([s])]
    if len(free) == 1:
      sizes = [-1 if i in free else int(s) for i, s in enumerate(shape)]
      if 0 not in sizes:
        return self.add("Reshape", name, self.integers(*sizes))
    return self.add("Reshape", name, self.shape(shape))

  def transpose(self, x: Value, perm: Sequence[int]) -> str:
    """Transposes an array, a known one at once.

    Args:
      x: the array.
      perm: axes of `x` in their new order.

    Returns:
      Name of the result.
    """
    perm = [int(p) for p in perm]
    if perm == sorted(perm):
      return self.name(x)
    if x.known:
      return self.constant(np.ascontiguousarray(x.array().transpose(perm)))
    return self.add("Transpose", self.name(x), perm=perm)

  def rename(self, x: Value, name: str) -> None:
    """Gives a result of the graph its name.

    Args:
      x: the result.
      name: new one.
    """
    old = self.name(x)
    self.nodes.append(self._helper.make_node("Identity", [old], [name]))

  def used_nodes(self, outputs: Sequence[str]) -> list[Any]:
    """Lists the nodes that results depend on.

    Args:
      outputs: names.

    Returns:
      Nodes in the order of their computation.
    """
    wanted, kept = set(outputs), []
    for node in reversed(self.nodes):
      if wanted.intersection(node.output):
        wanted.update(node.input)
        kept.append(node)
    return kept[::-1]


def _is_one(size):
  return isinstance(size, int | np.integer) and size == 1
