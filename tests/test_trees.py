"""Names of leaves, and what is done by name."""

import collections
import logging as py_logging
import typing

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from big_vision import trees


@flax.struct.dataclass
class Box:
  zeta: typing.Any
  alpha: typing.Any
  note: str = flax.struct.field(pytree_node=False, default="")


@jax.tree_util.register_pytree_node_class
class Pair:
  """A container of which only JAX knows."""

  def __init__(self, x, y):
    self.x, self.y = x, y

  def tree_flatten(self):
    return (self.x, self.y), None

  @classmethod
  def tree_unflatten(cls, _, children):
    return cls(*children)


Point = collections.namedtuple("Point", "y x")

TREE = {
  "head": {"kernel": 1, "bias": 2},
  "Transformer": {"block_10": {"kernel": 3}, "block_2": {"kernel": 4}},
  "a": 5,
}
NAMES = [
  "Transformer/block_10/kernel",
  "Transformer/block_2/kernel",
  "a",
  "head/bias",
  "head/kernel",
]
EMPTY = [{}, [], (), None, {"a": {}, "b": [None]}]


def _names(tree):
  return [n for n, _ in trees.tree_flatten_with_names(tree)[0]]


@pytest.mark.parametrize(
  "tree, names",
  [
    (TREE, NAMES),
    (3, [""]),
    ({"l": [7, (8, {"z": 9})]}, ["l/0", "l/1/0", "l/1/1/z"]),
    ({"p": Point(1, 2)}, ["p/0", "p/1"]),
    ({"a": None, "b": {}, "c": [], "d": 1}, ["d"]),
    (Box(1, [2, None, 3]), ["zeta", "alpha/0", "alpha/2"]),
    (Box(Point(1, 2), 3), ["zeta/0", "zeta/1", "alpha"]),
    ({"b": Pair(1, {"c": 2})}, ["b/0", "b/1/c"]),
    (collections.OrderedDict(b=1, a=2), ["b", "a"]),
    ({"x": list(range(12))}, [f"x/{i}" for i in range(12)]),
    ({"w": nn.Partitioned(1, names=("d",))}, ["w/value"]),
    (flax.core.freeze({"b": {"c": 1}, "a": 2}), ["a", "b/c"]),
    ({2: "x", 10: "y"}, ["2", "10"]),
  ],
)
def test_flatten(tree, names):
  named, treedef = trees.tree_flatten_with_names(tree)
  assert [n for n, _ in named] == names
  leaves = [v for _, v in named]
  assert leaves == jax.tree.leaves(tree)
  assert treedef == jax.tree.structure(tree)
  assert jax.tree.leaves(treedef.unflatten(leaves)) == leaves


def test_flatten_a_jax_dataclass():
  import dataclasses

  @jax.tree_util.register_dataclass
  @dataclasses.dataclass
  class Stats:
    mean: typing.Any
    count: typing.Any

  named = trees.tree_flatten_with_names({"s": Stats("m", ["c", "d"])})[0]
  assert named == [("s/mean", "m"), ("s/count/0", "c"), ("s/count/1", "d")]


def test_optimizer_state_has_indices_for_fields():
  params = {"b": jnp.ones(3), "a": {"k": jnp.ones((2, 2))}}
  names = _names(optax.adam(0.1).init(params))
  assert names == ["0/0", "0/1/a/k", "0/1/b", "0/2/a/k", "0/2/b"]


def test_traverse_with_inner_nodes():
  tree = {"b": [1, {}], "a": {"c": None}}
  assert list(trees._traverse_with_names(tree)) == [("b/0", 1)]
  assert list(trees._traverse_with_names(tree, with_inner_nodes=True)) == [
    ("a", {"c": None}),
    ("b/0", 1),
    ("b/1", {}),
    ("b", [1, {}]),
    ("", tree),
  ]


@pytest.mark.parametrize("tree", EMPTY)
def test_empty_trees(tree):
  named, treedef = trees.tree_flatten_with_names(tree)
  assert named == []
  assert treedef.unflatten([]) == tree
  assert trees.tree_map_with_names(lambda n, v: 1 / 0, tree, tree) == tree
  assert trees.tree_map_with_regex(lambda v, a: 1, tree, [(".*", 0)]) == tree
  assert trees.make_mask_trees(tree, [".*", "a"]) == [tree, tree]
  assert trees.tree_replace(tree, {".*": None}) == {}
  assert trees.tree_unflatten(named) == {}
  assert trees.tree_compare(tree, tree) == (set(), set(), {})
  assert trees.tree_broadcast(tree, tree) == tree


def test_map_with_names():
  out = trees.tree_map_with_names(lambda n, v: f"{n}={v}", TREE)
  assert jax.tree.leaves(out) == [
    f"{n}={v}" for n, v in trees.tree_flatten_with_names(TREE)[0]
  ]
  assert out["head"]["bias"] == "head/bias=2"
  double = trees.tree_map_with_names(lambda n, v, w: v + w, TREE, TREE)
  assert double["Transformer"]["block_10"]["kernel"] == 6
  with pytest.raises(ValueError):
    trees.tree_map_with_names(lambda n, v, w: 0, TREE, {"head": 1})


def test_map_with_regex_uses_the_first_full_match(caplog):
  rules = [("head/.*", 10), (".*kernel", 100), ("a|b", -1), ("head", 0)]
  with caplog.at_level(py_logging.INFO, logger="absl"):
    out = trees.tree_map_with_regex(
      lambda v, a: v * a, TREE, rules, lambda v: "rest", name="mult"
    )
  assert out == {
    "head": {"kernel": 10, "bias": 20},
    "Transformer": {"block_10": {"kernel": 300}, "block_2": {"kernel": 400}},
    "a": -5,
  }
  assert "mult to head/bias with 10" in caplog.text
  out = trees.tree_map_with_regex(lambda v, a: 0, TREE, [("kernel", 1)])
  assert out == TREE  # Nothing is called exactly "kernel".


def test_get():
  assert trees.tree_get(TREE, "head/bias") == 2
  assert trees.tree_get(TREE, "Transformer/block_2") == {"kernel": 4}
  assert trees.tree_get({"x": [1, (2, 3)]}, "x/1") == (2, 3)
  assert trees.tree_get({"x": [1, (2, 3)]}, "x/1/0") == 2


def test_get_unknown():
  with pytest.raises(KeyError) as e:
    trees.tree_get(TREE, "head/bais")
  lines = str(e.value).split("\n")
  assert lines[:2] == ["head/bais", "Available keys:"]
  assert {*NAMES, "head", "Transformer/block_2", "Transformer"} < set(lines)
  assert lines[-1].startswith("Did you mean 'head/bias'")
  with pytest.raises(KeyError) as e:
    trees.tree_get(TREE, "zzzzzzzz")
  assert "Did you mean" not in str(e.value)


@pytest.mark.parametrize(
  "rules, want",
  [
    # Chained renames; removal looks at the original name first.
    (
      {"a/b": "a/b/x", ".*c": "C", "C": "D", ".*/c": None},
      {"a": {"b": {"x": 2}}, "D": 4},
    ),
    ({}, {"a": {"b": 2, "c": 3}, "c": 4}),
    ({"a": "x/y"}, {"x": {"y": {"b": 2, "c": 3}}, "c": 4}),
    ({"a/(.)": r"\1\1"}, {"bb": 2, "cc": 3, "c": 4}),
    ({"b": "x"}, {"a": {"b": 2, "c": 3}, "c": 4}),  # Only at the start.
    ({"a": None}, {"c": 4}),
    ({"": "new/"}, {"new": {"a": {"b": 2, "c": 3}, "c": 4}}),
    # A removal that matches only after renaming.
    ({"a/b": "gone", "gone": None}, {"a": {"c": 3}, "c": 4}),
    # A removal before the rename that would make it match.
    ({"gone": None, "a/b": "gone"}, {"a": {"c": 3}, "c": 4, "gone": 2}),
    ({"a/.": "x"}, {"x": 3, "c": 4}),  # The later one wins.
  ],
)
def test_replace(rules, want):
  assert trees.tree_replace({"a": {"b": 2, "c": 3}, "c": 4}, rules) == want


def test_compare():
  a = {"x": np.zeros((2, 3)), "y": {"z": jnp.zeros(2), "w": np.zeros(1)}}
  b = {
    "x": np.zeros((2, 3), np.float32),
    "y": {"z": jax.ShapeDtypeStruct((3,), jnp.float32), "w": np.ones(1)},
    "new": 1.0,
  }
  only1, only2, differ = trees.tree_compare({**a, "old": 1}, b)
  assert (only1, only2) == ({"old"}, {"new"})
  assert differ == {
    "x": [(np.dtype("float64"), (2, 3)), (np.dtype("float32"), (2, 3))],
    "y/z": [(np.dtype("float32"), (2,)), (np.dtype("float32"), (3,))],
  }


def test_filter():
  mask = {
    "head": {"kernel": True, "bias": False},
    "Transformer": {"block_10": False, "block_2": {"kernel": True}},
    "a": False,
  }
  want = {"head": {"kernel": 1}, "Transformer": {"block_2": {"kernel": 4}}}
  assert trees.tree_filter(TREE, mask) == want


def test_filter_takes_the_masks_of_make_mask_trees():
  (mask,) = trees.make_mask_trees(TREE, ["head/.*"])
  assert trees.tree_filter(TREE, mask)["head"] == TREE["head"]


@pytest.mark.parametrize(
  "mask", [{"a": np.True_}, {"a": 1}, {"b": True}, {}, {"a": {}}, True]
)
def test_filter_rejects(mask):
  with pytest.raises(AssertionError):
    trees.tree_filter({"a": 5}, mask)


def test_broadcast():
  target = {"x": {"a": 1, "b": [2, 3]}, "y": 3}
  out = trees.tree_broadcast({"x": 10, "y": 20}, target)
  assert out == {"x": {"a": 10, "b": [10, 10]}, "y": 20}
  out = trees.tree_broadcast(7, target)
  assert out == {"x": {"a": 7, "b": [7, 7]}, "y": 7}
  for bad in ({"x": 10}, {"x": {"a": 1}, "y": 2}, {"x": 1, "y": {"z": 2}}):
    with pytest.raises(ValueError):
      trees.tree_broadcast(bad, target)


def test_recover_tree():
  tree = {"a": [1, {"b": 2}], "c": {"d": 3}}
  keys, values = zip(*trees.tree_flatten_with_names(tree)[0], strict=True)
  want = {"a": {"0": 1, "1": {"b": 2}}, "c": {"d": 3}}
  assert trees.recover_tree(keys, values) == want
  named = zip(keys, values, strict=True)
  assert trees.tree_unflatten(named) == want


@pytest.mark.parametrize("order", [1, -1])
def test_recover_tree_prefers_folders(order):
  keys, values = ["a", "a/b", "a/c/d", "a/c"][::order], [1, 2, 3, 4][::order]
  want = {"a": {"b": 2, "c": {"d": 3}}}
  assert trees.recover_tree(keys, values) == want


def test_recover_dtype():
  x = np.array([1, 2.5, -3], ml_dtypes.bfloat16)
  y = trees.recover_dtype(x.view("V2"))
  assert y.dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(y, x)
  for same in (np.ones(3), np.float32(1), 3, "text"):
    assert trees.recover_dtype(same) is same
  with pytest.raises(AssertionError, match="4 bytes"):
    trees.recover_dtype(np.zeros(2, "V4"))


def test_check_and_compile_patterns():
  for ok in (["a/.*", "b"], ("a/.*", "b")):
    out = trees.check_and_compile_patterns(ok)
    assert [p.pattern for p in out] == ["a/.*", "b"]
  assert trees.check_and_compile_patterns("a.")[0].fullmatch("ab")
  for bad in ("/a", ["ok", "/b"], 3, [3], None):
    with pytest.raises(AssertionError):
      trees.check_and_compile_patterns(bad)


def test_make_mask_trees(caplog):
  with caplog.at_level(py_logging.INFO, logger="absl"):
    masks = trees.make_mask_trees(
      TREE, ["head/.*", ".*/kernel", "zz"], log="config.wd_mults"
    )
  assert masks == [
    {
      "head": {"kernel": True, "bias": True},
      "Transformer": {
        "block_10": {"kernel": False},
        "block_2": {"kernel": False},
      },
      "a": False,
    },
    {
      "head": {"kernel": False, "bias": False},
      "Transformer": {
        "block_10": {"kernel": True},
        "block_2": {"kernel": True},
      },
      "a": False,
    },
    jax.tree.map(lambda _: False, TREE),
  ]
  assert all(type(m) is bool for m in jax.tree.leaves(masks))
  line = "config.wd_mults: head/bias - matched by head/.*"
  assert line in caplog.text


def test_make_mask_trees_with_one_string():
  (mask,) = trees.make_mask_trees({"kernel": 1, "b": 2}, "kernel")
  assert mask == {"kernel": True, "b": False}
  assert trees.make_mask_trees(TREE, []) == []
