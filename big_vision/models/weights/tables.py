"""Tables of the tensors of a file and the matching parameters, for both ways.

Shapes: `D` width, `M` hidden width of MLPs, `H` heads, `K` size of a head.
"""

import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision import trees
from big_vision.types import Params

FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class Entry:
  """A tensor of a file, or a part of one, and a parameter of this package.

  Attributes:
    name: of the tensor.
    path: of the parameter.
    tensor: shape of the tensor.
    order: order of the dimensions of the part in the parameter.
    shape: shape of the parameter, after dimensions are split or merged.
    part: (index, number) of the part, along the first dimension; the parts of a
      tensor come in their order in a table.
    of: first dimensions of a parameter that is made of several tensors, such as
      (layers,); `shape` is that of one of these.
    at: where in them this one is.
    split: shape of the part with dimensions split, to which `order` refers;
      empty if none are.
  """

  name: str
  path: str
  tensor: tuple[int, ...]
  order: tuple[int, ...]
  shape: tuple[int, ...]
  part: tuple[int, int] = (0, 1)
  of: tuple[int, ...] = ()
  at: tuple[int, ...] = ()
  split: tuple[int, ...] = ()

  def to_param(self, x: np.ndarray) -> np.ndarray:
    """Converts a tensor to the parameter.

    Args:
      x: [*tensor].

    Returns:
      [*shape].
    """
    index, number = self.part
    x = np.split(x, number)[index] if number > 1 else x
    x = x.reshape(self.split or x.shape)
    return x.transpose(self.order).reshape(self.shape)

  def to_tensor(self, x: np.ndarray) -> np.ndarray:
    """Converts the parameter to the tensor, or to its part of it.

    Args:
      x: [*shape].

    Returns:
      [*tensor], or a part of that along the first dimension.
    """
    if not self.tensor:
      return x.reshape(())
    first, *rest = self.tensor
    there = (first // self.part[1], *rest)
    split = self.split or there
    x = x.reshape([split[i] for i in self.order])
    return x.transpose(np.argsort(self.order)).reshape(there)


Table = list[Entry]


def within(
  table: Iterable[Entry], prefix: str, path: str | None = None
) -> Table:
  """Prefixes all names and paths, for a part of a model.

  Args:
    table: entries.
    prefix: of names, and of paths.
    path: prefix of paths, if it is another one.

  Returns:
    The table.
  """
  path = prefix if path is None else path
  return [
    dataclasses.replace(e, name=prefix + e.name, path=path + e.path)
    for e in table
  ]


def stacked(table: Iterable[Entry], index: int, number: int) -> Table:
  """Lists tensors whose parameters are stacked with those of others.

  Args:
    table: entries.
    index: along the new first dimension of the parameters.
    number: size of this dimension.

  Returns:
    The table.
  """
  return [
    dataclasses.replace(e, of=(number, *e.of), at=(index, *e.at)) for e in table
  ]


def same(
  name: str, path: str, *shape: int, there: Sequence[int] | None = None
) -> Table:
  """Lists a tensor whose values are in the order of the parameter's.

  Args:
    name: of the tensor.
    path: of the parameter.
    *shape: of the parameter.
    there: shape of the tensor, if it is another one.

  Returns:
    A table of one entry.
  """
  tensor = shape if there is None else tuple(there)
  return [Entry(name, path, tensor, tuple(range(len(tensor))), shape)]


def dense(
  name: str,
  path: str,
  inputs: Sequence[int],
  outputs: Sequence[int],
  *,
  bias: bool = True,
  part: tuple[int, int] = (0, 1),
  names: tuple[str, str] = (".weight", ".bias"),
  window: tuple[int, ...] = (),
) -> Table:
  """Lists a dense layer.

  Args:
    name: of the layer's tensors, without `names`.
    path: of the layer's parameters.
    inputs: shape of its inputs in parameters, (D,) or (H, K).
    outputs: shape of its outputs in parameters.
    bias: whether it has one.
    part: which part of a tensor with the outputs of several layers it is.
    names: ends of the names of kernel and bias.
    window: (1, 1) if it is a convolution in the file.

  Returns:
    A table.
  """
  num_in, num_out = math.prod(inputs), part[1] * math.prod(outputs)
  shape = (*inputs, *outputs)
  tensor = (num_out, num_in, *window)
  order = (*range(2, len(tensor)), 1, 0)
  kernel = Entry(name + names[0], f"{path}/kernel", tensor, order, shape, part)
  if not bias:
    return [kernel]
  shape = tuple(outputs)
  return [
    kernel,
    Entry(name + names[1], f"{path}/bias", (num_out,), (0,), shape, part),
  ]


def conv(
  name: str,
  path: str,
  size: Sequence[int],
  num_in: int,
  num_out: int,
  *,
  bias: bool = True,
) -> Table:
  """Lists a convolution, or the embedding of patches.

  Args:
    name: of the layer's tensors.
    path: of the layer's parameters.
    size: (height, width) of the kernel.
    num_in: channels, of a group.
    num_out: channels.
    bias: whether it has one.

  Returns:
    A table.
  """
  tensor = (num_out, num_in, *size)
  kernel = Entry(
    f"{name}.weight",
    f"{path}/kernel",
    tensor,
    (2, 3, 1, 0),
    (*size, num_in, num_out),
  )
  return [kernel, *(same(f"{name}.bias", f"{path}/bias", num_out) * bias)]


def norm(name: str, path: str, d: int, *, bias: bool = True) -> Table:
  """Lists a normalization layer.

  Args:
    name: of the layer's tensors.
    path: of the layer's parameters.
    d: number of features.
    bias: whether it has one.

  Returns:
    A table.
  """
  scale = same(f"{name}.weight", f"{path}/scale", d)
  return [*scale, *(same(f"{name}.bias", f"{path}/bias", d) * bias)]


def stages(names: Iterable[str], pattern: str) -> list[int]:
  """Counts the blocks of each stage of a network by the names of tensors.

  Args:
    names: of the tensors.
    pattern: name of a tensor that each block has, with `{}` for the numbers of
      stage and block.

  Returns:
    Number of blocks, from the first stage on.

  Raises:
    ValueError: there are none, or a stage or block is left out.
  """
  regex = re.escape(pattern).replace(r"\{\}", r"(\d+)")
  found = {m.groups() for n in names if (m := re.fullmatch(regex, n))}
  counts = [n for _, n in sorted(Counter(int(i) for i, _ in found).items())]
  expected = {(str(i), str(j)) for i, n in enumerate(counts) for j in range(n)}
  if not found or found != expected:
    lacks = min(expected - found, default=("0", "0"))
    raise ValueError(f"The checkpoint lacks {pattern.format(*lacks)}.")
  return counts


class Renamed(Mapping[str, np.ndarray]):
  """Tensors by other names."""

  def __init__(
    self,
    tensors: Mapping[str, np.ndarray],
    rename: Callable[[str], str | None],
  ):
    """Renames tensors.

    Args:
      tensors: name -> array, looked up one by one.
      rename: name there -> name here; None leaves it out.

    Raises:
      ValueError: two of them have the same name here.
    """
    self._tensors = tensors
    self._names: dict[str, str] = {}
    for name in tensors:
      if (new := rename(name)) is None:
        continue
      if new in self._names:
        raise ValueError(
          f"The checkpoint has both {self._names[new]} and {name}."
        )
      self._names[new] = name

  def __getitem__(self, name: str) -> np.ndarray:
    """Looks up a tensor by its name here."""
    return self._tensors[self._names[name]]

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)


def to_params(
  table: Iterable[Entry],
  tensors: Mapping[str, np.ndarray],
  source: str,
  model: str,
) -> Params:
  """Converts tensors to parameters.

  Args:
    table: all entries.
    tensors: name -> array of floats, looked up one by one; any others are
      refused.
    source: what the tensors are from, for errors.
    model: whose they should be, for errors.

  Returns:
    Nested dict of float32 arrays.

  Raises:
    ValueError: a tensor is missing, unknown, or has another shape or type.
  """
  table = list(table)
  _check_names(tensors, [e.name for e in table], f"tensors in {source}", model)
  out: dict[str, np.ndarray] = {}
  for e in table:
    x = tensors[e.name]
    if tuple(x.shape) != e.tensor:
      raise ValueError(
        f"{e.name} in {source} is {tuple(x.shape)}, but according to its "
        f"config.json {e.tensor}."
      )
    if x.dtype.name not in FLOATS:
      raise ValueError(
        f"{e.name} in {source} is of type {x.dtype.name}, but should be one of "
        f"{', '.join(FLOATS)}: quantized weights cannot be loaded."
      )
    param = e.to_param(np.asarray(x, np.float32))
    if not e.of:
      out[e.path] = param
      continue
    if e.path not in out:
      out[e.path] = np.empty((*e.of, *e.shape), np.float32)
    out[e.path][e.at] = param
  return trees.tree_unflatten(out.items())


def to_tensors(
  table: Iterable[Entry], params: Params, model: str
) -> dict[str, np.ndarray]:
  """Converts parameters to tensors, the inverse of `to_params`.

  Args:
    table: all entries.
    params: nested mapping.
    model: whose they should be, for errors.

  Returns:
    Name -> contiguous float32 array.

  Raises:
    ValueError: a parameter is missing, unknown, or has another shape.
  """
  return dict(Tensors(table, params, model))


class Tensors(Mapping[str, np.ndarray]):
  """The tensors of parameters, each made when it is looked up.

  Attributes:
    shapes: name -> shape.
  """

  def __init__(self, table: Iterable[Entry], params: Params, model: str):
    """Takes parameters.

    Args:
      table: all entries.
      params: nested mapping.
      model: whose they should be, for errors.

    Raises:
      ValueError: a parameter is missing, unknown, or has another shape.
    """
    self._table: dict[str, Table] = {}
    flat: dict[str, Any] = dict(trees.tree_flatten_with_names(params)[0])
    paths = []
    for e in table:
      self._table.setdefault(e.name, []).append(e)
      paths.append(e.path)
    _check_names(flat, paths, "parameters of the model", model)
    for e in itertools.chain.from_iterable(self._table.values()):
      shape, expected = tuple(np.shape(flat[e.path])), (*e.of, *e.shape)
      if shape != expected:
        raise ValueError(
          f"The parameter {e.path} is {shape}, but in {model} {expected}."
        )
    self._params = flat
    self.shapes = {name: x[0].tensor for name, x in self._table.items()}

  def __getitem__(self, name: str) -> np.ndarray:
    """Makes a tensor, a contiguous float32 array."""
    pieces = []
    for e in self._table[name]:
      x = np.asarray(self._params[e.path])[e.at]
      pieces.append(e.to_tensor(x.astype(np.float32, copy=False)))
    whole = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
    return np.array(whole, order="C")

  def __iter__(self) -> Iterator[str]:
    return iter(self._table)

  def __len__(self) -> int:
    return len(self._table)


def shapes_of(
  tensors: Mapping[str, np.ndarray],
) -> dict[str, tuple[int, ...]]:
  """Lists the shapes of tensors, without making them.

  Args:
    tensors: name -> array.

  Returns:
    Name -> shape.
  """
  if isinstance(tensors, Tensors):
    return tensors.shapes
  return {name: x.shape for name, x in tensors.items()}


def _check_names(got, expected, what, model):
  """Raises ValueError if the names are not the expected ones."""
  missing, unknown = set(expected) - set(got), set(got) - set(expected)
  lists = [
    f"{title} {', '.join(sorted(names)[:5])}"
    + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    for title, names in (("missing", missing), ("unknown", unknown))
    if names
  ]
  if lists:
    raise ValueError(
      f"The {what} are not those of {model}: {'; '.join(lists)}."
    )
