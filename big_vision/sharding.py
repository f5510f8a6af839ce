"""Decides which axis of the mesh splits which dimension of which parameter.

A strategy is a list of (regex, tactic), for example

  [(".*/MlpBlock_0/.*kernel", "shard_dim('model', -1)|fsdp('data')"),
   (".*", "fsdp(axis='data')")]

The first rule whose regex matches the full name of a leaf applies to it. Its
tactic is a chain of ops, each of which changes the partition spec that the one
before has left; a spec starts with None (not sharded) for each dimension. Ops
are found in the registry under `shardings.<name>`.
"""

import ast
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
from absl import logging
from flax.linen import spmd
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from big_vision import lookup, rules, tensor_dims, trees, untrusted
from big_vision.pp.registry import Registry
from big_vision.types import Batch, ConfigLike, PyTree

_KEY = "config.sharding_strategy"

# A regular expression for names of leaves, and a tactic.
Rule: TypeAlias = tuple[str, str]
# One entry per dimension: None, an axis of the mesh, or several axes.
Spec: TypeAlias = tuple[str | tuple[str, ...] | None, ...]
# `(spec so far, mesh, name, leaf) -> spec`, a link of a tactic.
Op: TypeAlias = Callable[[Spec, Mesh, str, "Leaf"], Spec]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """Describes a leaf to the ops of a tactic.

  Attributes:
    shape: tuple of int.
    dtype: of the elements.
    box: the flax metadata around the leaf (`nn.Partitioned` and the like), None
      if the model has not annotated it.
  """

  shape: tuple[int, ...]
  dtype: Any
  box: Any = None

  @property
  def ndim(self) -> int:
    """Number of dimensions."""
    return len(self.shape)

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)


def infer_sharding(
  params: PyTree, strategy: Sequence[Rule] | None, mesh: Mesh
) -> PyTree:
  """Derives the shardings of all leaves of a tree from rules on their names.

  Args:
    params: pytree of arrays or shapes; leaves may be in flax boxes, which count
      as one leaf and do not show up in names.
    strategy: list of (regex, tactic), see above. Leaves that no rule matches
      are replicated; so are all of them if it is empty.
    mesh: jax.sharding.Mesh.

  Returns:
    Tree of NamedSharding with the structure of the unboxed `params`.

  Raises:
    ValueError: a rule cannot be read, or does not fit a leaf or the mesh.
    KeyError: a tactic has an unknown op.
  """
  parsed = [_parse_rule(rule) for rule in strategy or ()]
  is_box = lambda x: isinstance(x, nn.meta.AxisMetadata)
  boxed = jax.tree.leaves(params, is_leaf=is_box)
  unboxed = jax.tree.map(
    # Not `nn.unbox`, which also constrains the sharding of the value.
    lambda x: x.unbox(apply_constraint=False) if is_box(x) else x,
    params,
    is_leaf=is_box,
  )
  named, treedef = trees.tree_flatten_with_names(unboxed)

  shardings = []
  for (name, x), box in zip(named, boxed, strict=True):
    leaf = Leaf(tuple(x.shape), x.dtype, box if is_box(box) else None)
    spec = _apply_rules(parsed, mesh, name, leaf)
    shardings.append(NamedSharding(mesh, PartitionSpec(*spec)))
  return treedef.unflatten(shardings)


def check_strategy(
  strategy: Sequence[Rule] | None, names: Sequence[str]
) -> None:
  """Refuses rules of a strategy that match no leaf.

  `infer_sharding` itself cannot tell: it may be given a part of the state.

  Args:
    strategy: list of (regex, tactic).
    names: full names of all leaves of the state and of frozen trees.

  Raises:
    ValueError: a rule cannot be read, or its regex matches no name; suggests
      the nearest.
  """
  patterns = [_parse_rule(rule)[0].pattern for rule in strategy or ()]
  rules.check_used(patterns, names, _KEY, "leaf of the state")


def axis_rules(config: ConfigLike) -> list[tuple[Any, ...]]:
  """Reads `config.sharding_rules`.

  Args:
    config: ConfigDict of the run.

  Returns:
    List of pairs (logical axis, mesh axes), for `nn.logical_axis_rules`. By
    default "data" splits examples, and what `tensor_parallel` splits in the
    parameters is split in activations.

  Raises:
    ValueError: `config.sharding_strategy` cannot be read.
  """
  if pairs := config.get("sharding_rules"):
    return [tuple(rule) for rule in pairs]
  pairs = [("act_batch", "data")]
  for rule in config.get("sharding_strategy") or ():
    _, tactic, _ = _parse_rule(rule)
    for op in _split_tactic(tactic):
      call: Any = ast.parse(op, mode="eval").body
      if getattr(getattr(call, "func", None), "id", None) == "tensor_parallel":
        axis = [*call.args, *(k.value for k in call.keywords)][0]
        axis = _entry(ast.literal_eval(axis))
        return [*pairs, ("act_mlp", axis), ("act_heads", axis)]
  return pairs


def batch_axes(config: ConfigLike, mesh: Mapping[str, int]) -> tuple[str, ...]:
  """Returns the axes of the mesh that split the examples of activations.

  Args:
    config: ConfigDict of the run.
    mesh: mapping of axis name -> size.

  Returns:
    Tuple of the axes of the rule `act_batch` of `config.sharding_rules`.

  Raises:
    ValueError: the mesh has no such axis.
  """
  to = dict(axis_rules(config)).get("act_batch") or ()
  axes = (to,) if isinstance(to, str) else tuple(to)
  unknown = [a for a in axes if a not in mesh]
  if unknown:
    raise ValueError(
      f"config.sharding_rules: act_batch is on {unknown[0]!r}, but the mesh "
      f"{dict(mesh)} does not have this axis. Add it to config.mesh, or change "
      "the rule."
    )
  return axes


def example_axes(
  config: ConfigLike, mesh: Mesh | AbstractMesh
) -> tuple[str, ...]:
  """Returns the axes of the mesh that split examples; all, if no rule says so.

  Args:
    config: ConfigDict of the run.
    mesh: the mesh of the run.

  Returns:
    Tuple of the axes of the rule `act_batch` that the mesh has.
  """
  to = dict(axis_rules(config)).get("act_batch")
  return tuple(a for a in _axes(to) if a in mesh.shape) or mesh.axis_names


def batch_splitter(
  config: ConfigLike, mesh: Mesh | AbstractMesh
) -> Callable[[Batch], Batch]:
  """Makes the function that splits a batch for the step as activations are.

  Batches come split over all devices, so that each host reads its own examples.
  Devices along an axis that splits heads, hidden units or tokens work on the
  same examples.

  Args:
    config: ConfigDict of the run.
    mesh: the mesh of the run.

  Returns:
    Function of a batch, to be called under `jax.jit`; does nothing on a mesh
    whose axes all split examples.
  """
  axes = example_axes(config, mesh)
  if all(a in axes or n == 1 for a, n in mesh.shape.items()):
    return lambda batch: batch
  split = NamedSharding(mesh, PartitionSpec(axes))
  return lambda batch: jax.lax.with_sharding_constraint(batch, split)


def _parse_rule(rule):
  """Parses (regex, tactic) into (pattern, tactic, functions of the ops)."""
  if isinstance(rule, str) or len(rule) != 2:
    raise ValueError(
      f"{_KEY} is a list of (regex, tactic), for example "
      f"[('.*', 'replicate')]; {rule!r} is not such a pair."
    )
  regex, tactic = rule
  (pattern,) = trees.check_and_compile_patterns([regex])
  ops = []
  for op in _split_tactic(tactic):
    lookup_string = f"shardings.{op}"
    try:
      known = Registry.knows(lookup_string)
    except ValueError as e:
      raise ValueError(
        f"{_KEY}: cannot read {op!r} in {tactic!r}; arguments must be literals "
        f"({e.__cause__ or e})."
      ) from e
    if not known:
      prefix = "shardings."
      names = [n for n in Registry.global_registry() if n.startswith(prefix)]
      names = [n.removeprefix(prefix) for n in names]
      error = lookup.unknown(
        "tactic", re.sub(r"\(.*", "", op, flags=re.S), names,
        "sharding_strategy",
      )  # fmt: skip
      raise KeyError(str(error))
    try:
      ops.append(Registry.lookup(lookup_string)())
    except (TypeError, ValueError) as e:
      raise ValueError(f"{_KEY}: wrong arguments in {op!r}: {e}") from e
  return pattern, tactic, ops


def _split_tactic(tactic: str) -> list[str]:
  """Splits "a|b(x)" into its ops.

  A tactic is a Python expression, so that arguments may contain a `|`.
  """
  ops = []
  try:
    node = untrusted.expression(tactic.strip())
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
      ops.append(node.right)
      node = node.left
    ops.append(node)
    return [ast.unparse(op) for op in reversed(ops)]
  except (SyntaxError, AttributeError, RecursionError) as e:
    raise ValueError(
      f"{_KEY}: cannot read {tactic!r:.200}; a tactic is a chain of ops like "
      "\"shard_dim('model', -1)|fsdp('data')\"."
    ) from e


def _apply_rules(
  parsed: Sequence[Any], mesh: Mesh, name: str, leaf: Leaf
) -> Spec:
  """Returns the spec of a leaf by the first matching rule."""
  spec = (None,) * leaf.ndim
  for pattern, tactic, ops in parsed:
    if not pattern.fullmatch(name):
      continue
    try:
      for op in ops:
        spec = tuple(op(spec, mesh, name, leaf))
      _check_spec(spec, mesh, leaf)
    except ValueError as e:
      raise ValueError(
        f"{_KEY}: rule ({pattern.pattern!r}, {tactic!r}) for {name} with shape "
        f"{leaf.shape}: {e}"
      ) from e
    break
  return spec


def _check_spec(spec: Spec, mesh: Mesh, leaf: Leaf) -> None:
  """Raises ValueError where JAX would complain much later."""
  if len(spec) != leaf.ndim:
    raise ValueError(f"The spec {spec} needs one entry per dimension.")
  used = [axis for entry in spec for axis in _axes(entry)]
  for axis in used:
    if used.count(axis) > 1:
      raise ValueError(
        f"The mesh axis {axis!r} shards more than one dimension in {spec}."
      )
  for entry, size in zip(spec, leaf.shape, strict=True):
    num = _axis_size(mesh, entry)
    if size % num:
      raise ValueError(
        f"A dimension of size {size} cannot be split over the {num} devices "
        f"of mesh axis {entry!r}."
      )


def _axes(entry: str | Sequence[str] | None) -> tuple[str, ...]:
  """Returns the mesh axes of an entry of a spec, as a tuple."""
  if entry is None:
    return ()
  return (entry,) if isinstance(entry, str) else tuple(entry)


def _axis_size(mesh: Mesh, entry: str | Sequence[str] | None) -> int:
  """Counts the parts into which an entry of a spec splits a dimension."""
  for axis in _axes(entry):
    if axis not in mesh.shape:
      raise ValueError(
        f"The mesh has no axis {axis!r}"
        f"{lookup.did_you_mean(axis, mesh.axis_names)} Axes are defined in "
        "config.mesh."
      )
  return math.prod(mesh.shape[axis] for axis in _axes(entry))


def _entry(axis: str | Sequence[str]) -> str | tuple[str, ...]:
  """Returns axis names as a spec holds them: a string or a tuple."""
  if isinstance(axis, str):
    return axis
  if len(set(axis)) < len(axis):
    raise ValueError(f"The mesh axes {axis!r} are not distinct.")
  return tuple(axis)


@Registry.register("shardings.replicate")
def replicate() -> Op:
  """Keeps a copy on each device.

  Returns:
    The op. It raises ValueError if a dimension is sharded already.
  """

  def apply(cur_spec, mesh, name, x):
    del mesh, x
    if any(_axes(entry) for entry in cur_spec):
      raise ValueError(
        f"Inconsistent sharding instructions: {name} is sharded as {cur_spec}, "
        "it cannot be replicated."
      )
    return cur_spec

  return apply


@Registry.register("shardings.fsdp")
def fsdp(axis: str | Sequence[str], min_size_to_shard_mb: float = 4) -> Op:
  """Fully sharded data parallelism: splits the largest dimension that can be.

  Args:
    axis: name of a mesh axis; or several, which then split one dimension
      together.
    min_size_to_shard_mb: leaves of at most this size in MiB are not split.

  Returns:
    The op.
  """
  axis = _entry(axis)

  def apply(cur_spec, mesh, name, x):
    num = _axis_size(mesh, axis)
    if x.size * x.dtype.itemsize <= min_size_to_shard_mb * 2**20:
      return cur_spec
    # Among equal sizes, the later dimension.
    for i in sorted(range(x.ndim), key=lambda i: (-x.shape[i], -i)):
      if x.shape[i] % num == 0 and cur_spec[i] is None:
        return (*cur_spec[:i], axis, *cur_spec[i + 1 :])
    logging.info(
      "fsdp: no dimension of %s with shape %s and spec %s can be split over %s "
      "(%d devices).", name, x.shape, cur_spec, axis, num,
    )  # fmt: skip
    return cur_spec

  return apply


@Registry.register("shardings.shard_dim")
def shard_dim(
  axis: str | Sequence[str], dim: int, ignore_ndim_error: bool = False
) -> Op:
  """Splits the given dimension.

  Args:
    axis: name of a mesh axis, or several.
    dim: the dimension; negative ones count from the end.
    ignore_ndim_error: whether leaves with too few dimensions are left as
      they are.

  Returns:
    The op.
  """
  axis = _entry(axis)

  def apply(cur_spec, mesh, name, x):
    del mesh
    if not -x.ndim <= dim < x.ndim:
      if ignore_ndim_error:
        logging.warning("%s: shape %s has no dim %d.", name, x.shape, dim)
        return cur_spec
      raise ValueError(
        f"There is no dimension {dim}; `ignore_ndim_error=True` skips such "
        "parameters."
      )
    i = dim % x.ndim
    if cur_spec[i] is not None:
      raise ValueError(f"Dimension {dim} is sharded already: {cur_spec}.")
    return (*cur_spec[:i], axis, *cur_spec[i + 1 :])

  return apply


@Registry.register("shardings.tensor_parallel")
def tensor_parallel(axis: str | Sequence[str]) -> Op:
  """Splits heads and hidden units of transformers, known by their names.

  Other leaves stay as they are, and so do those whose dimension the axis does
  not divide. Rules that split activations alike are the default of
  `config.sharding_rules`: `("act_mlp", axis)` and `("act_heads", axis)`.

  Args:
    axis: name of a mesh axis, or several.

  Returns:
    The op.
  """
  axis = _entry(axis)

  def apply(cur_spec, mesh, name, x):
    num = _axis_size(mesh, axis)
    dim = tensor_dims.find(name)
    # Optimizers have statistics of fewer dimensions.
    if dim is None or x.ndim < -dim or cur_spec[dim] is not None:
      return cur_spec
    i = dim % x.ndim
    if x.shape[i] % num:
      logging.warning(
        "tensor_parallel: dimension %d of %s with shape %s stays whole: it does "
        "not split over %s (%d devices).", i, name, x.shape, axis, num,
      )  # fmt: skip
      return cur_spec
    return (*cur_spec[:i], axis, *cur_spec[i + 1 :])

  return apply


@Registry.register("shardings.logical_partitioning")
def logical_partitioning() -> Op:
  """Follows the annotations of the model, by the logical axis rules in scope.

  Names without a rule, and parameters without annotation, stay as they are.
  """

  def apply(cur_spec, mesh, name, x):
    del mesh
    # Optimizers keep the box around statistics of another shape.
    names = getattr(x.box, "names", None)
    if names is None or len(names) != x.ndim:
      return cur_spec
    if isinstance(x.box, nn.LogicallyPartitioned):
      # An empty list is not the same as None: it does not look at the scope.
      names = spmd.logical_to_mesh_axes(tuple(names), rules=x.box.rules or None)
    new_spec = []
    for cur, new in zip(cur_spec, names or (), strict=True):
      if cur is not None and new is not None and cur != new:
        raise ValueError(
          f"The annotation of {name} asks for {tuple(names or ())}, but it is sharded "
          f"already: {cur_spec}."
        )
      new_spec.append(new if cur is None else cur)
    return tuple(new_spec)

  return apply
