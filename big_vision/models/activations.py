"""Tells devices how to split activations, by `config.sharding_rules`.

Models name the dimensions of what they compute, and a rule says which axes of
the mesh split a dimension of this name:

  act_batch: examples.
  act_len: tokens.
  act_emb: features of a token.
  act_mlp: hidden units of MLPs; without a rule, that of `act_emb`.
  act_heads: heads of attention.
  act_keys: tokens that are attended to.

Of several names on one axis in the same array, the first rule wins. A dimension
that its axes do not divide, such as the one query of a pooling head, stays
whole.
"""

import math

import flax.linen as nn
import jax
from flax.linen import spmd
from jax.sharding import PartitionSpec

from big_vision import compat, lookup
from big_vision.types import Array


def constrain(x: Array, *names: str | None) -> Array:
  """Hints at how devices split an array, if there are rules and a mesh.

  Args:
    x: array.
    *names: one per dimension, see above; None for one that is not split.

  Returns:
    The array.

  Raises:
    lookup.ConfigError: a rule is about an axis that the mesh does not have.
  """
  rules, mesh = nn.get_logical_axis_rules(), compat.active_mesh()
  if not rules or mesh is None:  # Also where code is that of one device.
    return x
  axes = spmd.logical_to_mesh_axes(names, rules) or ()
  spec = []
  for name, entry, size in zip(names, axes, x.shape, strict=True):
    num = _parts(name, entry, mesh.shape)
    # Batches always fit; a plan traces the share of one device.
    spec.append(entry if name == "act_batch" or size % num == 0 else None)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def tokens(x: Array) -> Array:
  """Hints at how devices split the tokens [B, T, D] between blocks."""
  return constrain(x, "act_batch", "act_len", "act_emb")


def patches(x: Array) -> Array:
  """Hints at how devices split embedded patches [B, h, w, D]: rows are whole.

  XLA would split the convolution before them as the tokens after them. Its
  gradient was then a multiple of the right one, where features are split, too
  (jaxlib 0.10.2; `tests/training/test_parallelism.py` has the case).
  """
  return constrain(x, "act_batch", None, None, "act_emb")


def hidden(x: Array) -> Array:
  """Hints at how devices split the hidden units [B, T, M] of an MLP."""
  name = "act_mlp" if _ruled("act_mlp") else "act_emb"
  return constrain(x, "act_batch", "act_len", name)


def heads(x: Array, length: str = "act_len") -> Array:
  """Hints at how devices split the heads of attention.

  Args:
    x: [B, T, H, K], queries, keys or values.
    length: name of the dimension of tokens: "act_keys" for keys and values.

  Returns:
    The array.
  """
  if not _ruled("act_heads", "act_len"):
    return x  # The compiler's own choice.
  return constrain(x, "act_batch", length, "act_heads", None)


def _ruled(*names):
  """Tells whether a rule in scope splits dimensions of one of these names."""
  return any(
    name in names and axes for name, axes in nn.get_logical_axis_rules()
  )


def _parts(name, entry, sizes):
  """Counts the parts of a dimension."""
  if not entry:
    return 1
  axes = (entry,) if isinstance(entry, str) else tuple(entry)
  for axis in axes:
    if axis not in sizes:
      raise lookup.ConfigError(
        f"config.sharding_rules: {name} is on {axis!r}, but the mesh "
        f"{dict(sizes)} does not have this axis"
        f"{lookup.did_you_mean(axis, sizes)} Add it to config.mesh, or change "
        "the rule."
      )
  return math.prod(sizes[axis] for axis in axes)
