"""Which constraints a block of a transformer asks for, under which rules."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from big_vision import compat, lookup
from big_vision.models import activations, transformer

BATCH = ("act_batch", "data")
TENSOR = [("act_mlp", "model"), ("act_heads", "model")]
SIZES = {"data": 2, "seq": 2, "model": 2}


def asked(rules, fn=None, shape=(4, 6, 8), sizes=SIZES):
  """Specs of the constraints in a traced function of x, in their order."""
  model = transformer.Encoder1DBlock(num_heads=2, mlp_dim=16)
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  mesh = compat.abstract_mesh(sizes)
  with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules(rules):
    if fn is None:
      params = jax.eval_shape(model.init, jax.random.key(0), x)
      traced = jax.make_jaxpr(lambda p, x: model.apply(p, x)[0])(params, x)
    else:
      traced = jax.make_jaxpr(fn)(x)
  return [
    e.params["sharding"].spec
    for e in traced.jaxpr.eqns
    if e.primitive.name == "sharding_constraint"
  ]


def test_default_rules_split_examples():
  """What blocks ask for by default is what they always have: five hints."""
  assert asked([BATCH]) == [P("data", None, None)] * 5
  assert asked([]) == []


def test_names_of_hidden_units_and_heads():
  whole, hidden = P("data", None, None), P("data", None, "model")
  heads = P("data", None, "model", None)
  assert asked([BATCH, *TENSOR]) == [
    whole, heads, heads, heads, whole, hidden, whole, whole,
  ]  # fmt: skip


def test_tokens_are_split_where_features_are_whole():
  split, hidden = P("data", "model", None), P("data", None, "model")
  heads = P("data", None, "model", None)
  assert asked([BATCH, *TENSOR, ("act_len", "model")]) == [
    split, heads, heads, heads, split, hidden, split, split,
  ]  # fmt: skip


def test_queries_are_split_but_not_what_they_attend_to():
  split = P("data", "seq", None)
  queries, keys = P("data", "seq", None, None), P("data", None, None, None)
  assert asked([BATCH, ("act_len", "seq")]) == [
    split, queries, keys, keys, *[split] * 4,
  ]  # fmt: skip


def test_hidden_units_are_features_without_a_rule_of_their_own():
  both = P("data", None, "model")
  assert asked([BATCH, ("act_emb", "model")]) == [both] * 5


def test_dimensions_that_do_not_divide_stay_whole():
  rules = [BATCH, *TENSOR, ("act_len", ("seq", "model"))]
  assert asked(rules, activations.tokens, (4, 1, 8)) == [P("data", None, None)]
  both = P("data", ("seq", "model"), None)
  assert asked(rules, activations.tokens, (4, 8, 8)) == [both]
  # Batches always fit, but the planner traces the share of one device.
  assert asked(rules, activations.tokens, (1, 8, 8)) == [both]


def test_axes_that_are_not_there():
  with pytest.raises(
    lookup.ConfigError,
    match=r"config\.sharding_rules: act_len is on 'sq'.*'seq'",
  ):
    asked([BATCH, ("act_len", "sq")], activations.tokens)


def test_nothing_to_split_within_the_code_of_one_device():
  """There, `jax.shard_map` has split the examples already."""
  mesh = compat.abstract_mesh({"data": 2})
  one = lambda x: activations.tokens(x) * 2
  split = jax.shard_map(one, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
  x = jax.ShapeDtypeStruct((4, 6, 8), jnp.float32)
  with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules([BATCH]):
    text = str(jax.make_jaxpr(split)(x))
  assert "shard_map" in text and "sharding_constraint" not in text
