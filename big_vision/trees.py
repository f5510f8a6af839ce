"""Trees with names: `Transformer/encoderblock_0/LayerNorm_0/scale`.

The name of a leaf is its path, joined by "/", with the decimal index for
positions in lists and tuples (NamedTuples included). Checkpoints, sharding
rules, masks and logs all use these names. None and empty containers have no
leaves, hence no names.
"""

import collections.abc
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.serialization
import jax
import numpy as np
from absl import logging

from big_vision import lookup
from big_vision.types import PyTree


def _children(tree: PyTree) -> list[tuple[str, Any]] | None:
  """Returns the (name, child) pairs of an inner node; None for a leaf."""
  if isinstance(tree, collections.abc.Mapping):
    return [(str(k), tree[k]) for k in sorted(tree, key=str)]
  if isinstance(tree, (list, tuple)):
    return [(str(i), child) for i, child in enumerate(tree)]
  if jax.tree_util.all_leaves([tree]):
    return None
  # Some other class that is registered with JAX, without names.
  nodes, _ = jax.tree_util.default_registry.flatten_one_level(tree)
  return [(str(i), child) for i, child in enumerate(nodes)]


def _fields(tree: Any) -> Any:
  """Returns a dataclass as a dict of the fields that Flax serializes."""
  state = flax.serialization.to_state_dict(tree)
  if isinstance(state, collections.abc.Mapping):
    # The fields themselves: what is below them in `state` is converted too,
    # with field names for the positions of NamedTuples.
    return {k: getattr(tree, k, v) for k, v in state.items()}
  if jax.tree_util.all_leaves([tree]):
    return tree
  # Registered with JAX alone, possibly with fields that are not children.
  nodes, _ = jax.tree_util.default_registry.flatten_one_level(tree)
  nodes = list(nodes)
  fields = [
    (f.name, getattr(tree, f.name, None)) for f in dataclasses.fields(tree)
  ]
  named = {k: v for k, v in fields if any(v is n for n in nodes)}
  return named if len(named) == len(nodes) else nodes


def _traverse_with_names(
  tree: PyTree, with_inner_nodes: bool = False
) -> Iterator[tuple[str, Any]]:
  """Yields (name, leaf), with the keys of mappings in sorted order.

  Args:
    tree: nested mappings, lists, tuples, dataclasses.
    with_inner_nodes: whether to yield each mapping, list and tuple too,
      after its children; the name of the root is "".

  Yields:
    (name, leaf), names without a slash at the end.
  """
  if dataclasses.is_dataclass(tree):
    tree = _fields(tree)
  if tree is None:
    return
  children = _children(tree)
  for name, child in children or ():
    for path, leaf in _traverse_with_names(child, with_inner_nodes):
      yield f"{name}/{path}".rstrip("/"), leaf
  if children is None or with_inner_nodes:
    yield "", tree


def tree_flatten_with_names(
  tree: PyTree,
) -> tuple[list[tuple[str, Any]], Any]:
  """Flattens a tree into leaves with names, in the order of `jax.tree.leaves`.

  Args:
    tree: any pytree.

  Returns:
    (list of (name, leaf), treedef), with the treedef of `jax.tree.flatten`.
  """
  leaves, treedef = jax.tree.flatten(tree)
  # JAX does not always flatten in the order of the names (dataclasses, ordered
  # dicts), so find out which position of its order each name has.
  positions = treedef.unflatten(range(len(leaves)))
  names = {i: name for name, i in _traverse_with_names(positions)}
  return [(names[i], leaf) for i, leaf in enumerate(leaves)], treedef


def tree_unflatten(names_and_vals: Iterable[tuple[str, Any]]) -> dict[str, Any]:
  """Makes nested dicts from pairs of name and value; see `recover_tree`.

  Args:
    names_and_vals: iterable of (name, value).

  Returns:
    Nested dicts.
  """
  pairs = list(names_and_vals)
  return recover_tree([n for n, _ in pairs], [v for _, v in pairs])


def tree_map_with_names(
  f: Callable[..., Any], tree: PyTree, *rest: PyTree
) -> PyTree:
  """Maps leaves as `jax.tree.map` does, and passes their names, too.

  Args:
    f: `f(name, leaf, *leaves_of_rest)` -> the new leaf.
    tree: any pytree.
    *rest: pytrees of the same structure.

  Returns:
    Pytree of the structure of `tree`.
  """
  named, treedef = tree_flatten_with_names(tree)
  others_of = [treedef.flatten_up_to(r) for r in rest]
  return treedef.unflatten(
    f(name, leaf, *others)
    for (name, leaf), *others in zip(named, *others_of, strict=True)
  )


def tree_map_with_regex(
  f: Callable[[Any, Any], Any],
  tree: PyTree,
  regex_rules: Sequence[tuple[str, Any]],
  not_f: Callable[[Any], Any] = lambda x: x,
  name: str | None = None,
) -> PyTree:
  """Maps leaves with the argument of the first rule that matches their name.

  Args:
    f: `f(leaf, arg)` for leaves that a rule matches.
    tree: any pytree.
    regex_rules: list of (regex, arg); the regex matches the full name.
    not_f: `not_f(leaf)` for the other leaves; by default they are kept.
    name: name of the mapping in a log line per match; None does not log.

  Returns:
    Pytree of the structure of `tree`.
  """

  def apply(leaf_name, leaf):
    for pattern, arg in regex_rules:
      if re.fullmatch(pattern, leaf_name):
        if name and jax.process_index() == 0:
          logging.info(
            "Applying %s to %s with %s due to `%s`",
            name,
            leaf_name,
            arg,
            pattern,
          )
        return f(leaf, arg)
    return not_f(leaf)

  return tree_map_with_names(apply, tree)


class _UnknownName(KeyError):
  """Shows line breaks, which KeyError itself would escape."""

  def __str__(self):
    return str(self.args[0])


def tree_get(tree: PyTree, name: str) -> Any:
  """Returns the leaf or sub-tree at the path `name`.

  Args:
    tree: any pytree.
    name: path, for example "Transformer/encoderblock_0"; "" is the tree.

  Returns:
    The node.

  Raises:
    KeyError: the path does not exist; lists all names and suggests the nearest.
  """
  nodes = dict(_traverse_with_names(tree, with_inner_nodes=True))
  if name not in nodes:
    lines = [str(name), "Available keys:", *nodes]
    near = lookup.did_you_mean(name, nodes).removeprefix(". ")
    if near.startswith("Did you mean"):  # Else it lists all names once more.
      lines.append(near)
    raise _UnknownName("\n".join(lines))
  return nodes[name]


def tree_replace(
  tree: PyTree, replacements: Mapping[str, str | None]
) -> dict[str, Any]:
  """Renames and removes leaves by regular expressions.

  Example:
    `tree_replace({"a": {"b": 2, "c": 3}, "c": 4}, {
        "a/b": "a/b/x",  # Moves a/b to a/b/x.
        ".*c": "C",  # Renames c.
        "C": "D",  # Renames what is called C by now.
        ".*/c": None,  # Removes a/c.
    })` is `{"a": {"b": {"x": 2}}, "D": 4}`.

  Args:
    tree: nested dicts.
    replacements: dict from regex to template or None. A regex matches at the
      start of a name. A template replaces the part that is matched, and may
      refer to groups. All rules are applied, one after the other, to the name
      that the rules before them have left. None removes the leaf, if it matches
      either the original name or, in its turn, the name so far.

  Returns:
    Nested dicts. If two leaves end up with one name, the later one wins.
  """
  removals = [k for k, v in replacements.items() if v is None]

  def rename(name):
    if any(re.match(pattern, name) for pattern in removals):
      return None
    for pattern, template in replacements.items():
      if match := re.match(pattern, name):
        if template is None:
          return None
        name = match.expand(template) + name[match.end() :]
    return name

  named = tree_flatten_with_names(tree)[0]
  renamed = [(rename(name), leaf) for name, leaf in named]
  return tree_unflatten((n, leaf) for n, leaf in renamed if n is not None)


def tree_compare(
  tree1: PyTree, tree2: PyTree
) -> tuple[set[str], set[str], dict[str, list[Any]]]:
  """Compares the names, dtypes and shapes of two trees.

  Args:
    tree1: nested dicts of arrays (or shapes).
    tree2: the same.

  Returns:
    (set of names only in tree1, set of names only in tree2, dict from name to
    [(dtype1, shape1), (dtype2, shape2)] for common names that differ).
  """

  def specs(tree):
    named = tree_flatten_with_names(tree)[0]
    return {name: (_dtype(x), tuple(np.shape(x))) for name, x in named}

  specs1, specs2 = specs(tree1), specs(tree2)
  differ = {
    name: [spec, specs2[name]]
    for name, spec in specs1.items()
    if name in specs2 and spec != specs2[name]
  }
  return set(specs1) - set(specs2), set(specs2) - set(specs1), differ


def _dtype(x):
  return x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype


def tree_filter(tree: PyTree, mask: PyTree) -> PyTree:
  """Removes the parts of a tree whose mask is False.

  Args:
    tree: nested dicts.
    mask: nested dicts with the same keys and bool leaves. False in place of a
      dict removes the whole sub-tree.

  Returns:
    Nested dicts.

  Raises:
    lookup.ConfigError: the keys differ, or a mask is not a bool.
  """
  if not isinstance(tree, collections.abc.Mapping):
    if not isinstance(mask, bool):
      raise lookup.ConfigError(
        f"The mask of a leaf must be a Python bool, not {mask!r}."
      )
    return tree
  if not isinstance(mask, Mapping):
    raise lookup.ConfigError(
      f"The mask of a sub-tree must be a dict or False, not {mask!r}."
    )
  if set(tree) != set(mask):
    raise lookup.ConfigError(
      f"Keys of tree and mask differ: {sorted(tree)} and {sorted(mask)}."
    )
  return {
    k: tree_filter(v, mask[k]) for k, v in tree.items() if mask[k] is not False
  }


def tree_broadcast(prefix: PyTree, target: PyTree) -> PyTree:
  """Repeats the leaves of `prefix` over the sub-trees of `target` below them.

  Args:
    prefix: pytree, the upper part of `target`; for example one leaf.
    target: pytree.

  Returns:
    Pytree of the structure of `target`.

  Raises:
    ValueError: `prefix` is not a prefix of `target`.
  """
  leaves, treedef = jax.tree.flatten(prefix)
  subtrees = treedef.flatten_up_to(target)
  return treedef.unflatten(
    jax.tree.map(lambda _, leaf=leaf: leaf, subtree)
    for leaf, subtree in zip(leaves, subtrees, strict=True)
  )


def recover_tree(keys: Iterable[str], values: Iterable[Any]) -> dict[str, Any]:
  """Makes nested dicts from flat names.

  Args:
    keys: iterable of str, split at "/".
    values: iterable of as many leaves.

  Returns:
    Nested dicts with string keys, also for lists. A name that is both
    a leaf and a folder becomes the folder; of equal names the last one wins.
  """
  tree = {}
  folders = {id(tree)}  # Told apart from leaves that are dicts themselves.
  for key, value in zip(keys, values, strict=True):
    *parents, last = key.split("/")
    node = tree
    for parent in parents:
      if id(node.get(parent)) not in folders:
        node[parent] = {}
        folders.add(id(node[parent]))
      node = node[parent]
    if id(node.get(last)) not in folders:
      node[last] = value
  return tree


def recover_dtype(a: Any) -> Any:
  """Restores bfloat16, which NumPy files keep as two bytes without a type.

  Args:
    a: array, or any other value.

  Returns:
    The array as bfloat16 if it is of void dtype, else `a` itself.

  Raises:
    lookup.ConfigError: the void dtype has another size than 2 bytes.
  """
  if not hasattr(a, "dtype") or a.dtype.type is not np.void:
    return a
  if a.dtype.itemsize != 2:
    raise lookup.ConfigError(
      f"Only bfloat16 is stored as void, but this is {a.dtype.itemsize} bytes."
    )
  return a.view(jax.numpy.bfloat16)


def check_and_compile_patterns(
  patterns: str | Sequence[str],
) -> list[re.Pattern[str]]:
  """Compiles regular expressions for names.

  Args:
    patterns: or list or tuple of str.

  Returns:
    List of compiled patterns.

  Raises:
    AssertionError: something else, or a pattern that starts with "/", which no
      name does.
  """
  if isinstance(patterns, str):
    patterns = [patterns]
  if not isinstance(patterns, (list, tuple)):
    raise lookup.ConfigError(
      f"Patterns must be a string or a list of strings, not {patterns!r}."
    )
  for pattern in patterns:
    if not isinstance(pattern, str):
      raise lookup.ConfigError(f"{pattern!r} is not a string.")
    if pattern.startswith("/"):
      raise lookup.ConfigError(
        f"The pattern {pattern!r} starts with a slash, but names do not; it "
        "would never match."
      )
  return [re.compile(pattern) for pattern in patterns]


def make_mask_trees(
  tree: PyTree, patterns: str | Sequence[str], *, log: str | None = None
) -> list[PyTree]:
  """Marks for each pattern the leaves that it is the first to match.

  Args:
    tree: any pytree.
    patterns: or list of str, matching full names.
    log: prefix of a log line for each leaf that is matched, or None.

  Returns:
    List of pytrees of bool, of the structure of `tree`.
  """
  compiled = check_and_compile_patterns(patterns)
  named, treedef = tree_flatten_with_names(tree)

  def first_match(name):
    for i, pattern in enumerate(compiled):
      if pattern.fullmatch(name):
        if log is not None and jax.process_index() == 0:
          logging.info("%s: %s - matched by %s", log, name, pattern.pattern)
        return i
    return None

  matches = [first_match(name) for name, _ in named]
  return [
    treedef.unflatten(match == i for match in matches)
    for i in range(len(compiled))
  ]
