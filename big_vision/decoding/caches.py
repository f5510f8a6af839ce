"""Caches of decoders for several samples per example, and their counters.

Shapes: `B` examples, `S` samples per example; those of an example lie next to
each other.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.types import Array, PyTree


def set_cache_index(cache: PyTree, index: Array | int) -> PyTree:
  """Sets how many tokens a cache holds, to overwrite those that follow.

  Args:
    cache: nested mapping, leaves `cache_index` count tokens.
    index: int.

  Returns:
    The cache.
  """

  def change(name, leaf):
    if name != "cache_index":
      return leaf
    return jnp.broadcast_to(jnp.asarray(index, leaf.dtype), leaf.shape)

  return _map_with_names(change, cache)


def cache_map(fn: Callable[[Any], Any], cache: PyTree) -> PyTree:
  """Applies a function to a cache, except where it is shared by all examples.

  Args:
    fn: function of a leaf.
    cache: nested mapping, frozen or not.

  Returns:
    A mapping of the same kind. Leaves named `cached_bias` are unchanged.
  """
  return _map_with_names(
    lambda name, leaf: leaf if name == "cached_bias" else fn(leaf), cache
  )


def _map_with_names(fn, tree, name=""):
  """Applies `fn(last part of the name, leaf)` to nested mappings."""
  if not isinstance(tree, Mapping):
    return fn(name, tree)
  mapped = {k: _map_with_names(fn, v, k) for k, v in tree.items()}
  is_frozen = isinstance(tree, flax.core.FrozenDict)
  return flax.core.freeze(mapped) if is_frozen else mapped


def repeat_cache(
  make_cache: Callable[[int], PyTree], cache: PyTree, num_samples: int
) -> PyTree:
  """Repeats each example of a cache, wherever leaves have their batch axis.

  Models that scan over their layers have it behind that of the layers; counters
  have none.

  Args:
    make_cache: `B -> cache` of so many examples. Only shapes are looked at.
    cache: tree of arrays for B examples.
    num_samples: int, S.

  Returns:
    Tree of arrays for B * S examples.
  """
  if num_samples == 1:
    return cache
  shapes = [jax.eval_shape(lambda n=n: make_cache(n)) for n in (2, 3)]

  def repeat(x, two, three):
    axes = [i for i, n in enumerate(two.shape) if n != three.shape[i]]
    return jnp.repeat(x, num_samples, axis=axes[0]) if axes else x

  return jax.tree.map(repeat, cache, *shapes)


def expand_samples_dim(x: Array, num_samples: int) -> Array:
  """Repeats each example: [B, ...] becomes [B, S, ...]; scalars stay.

  Args:
    x: array.
    num_samples: int, S.

  Returns:
    Array.
  """
  if jnp.ndim(x) == 0:
    return x
  shape = (x.shape[0], num_samples, *x.shape[1:])
  return jnp.broadcast_to(jnp.expand_dims(x, 1), shape)


def flatten_samples_dim(x: Array) -> Array:
  """Merges the first two axes: [B, S, ...] becomes [B * S, ...]; scalars stay.

  Args:
    x: array.

  Returns:
    Array.
  """
  if jnp.ndim(x) == 0:
    return x
  return jnp.reshape(x, (-1, *x.shape[2:]))


def unflatten_samples_dim(x: Array, batch_size: int, num_samples: int) -> Array:
  """Splits the first axis: [B * S, ...] becomes [B, S, ...]; scalars stay.

  Args:
    x: array.
    batch_size: int, B.
    num_samples: int, S.

  Returns:
    Array.

  Raises:
    ConfigError: the first axis has another size.
  """
  if jnp.ndim(x) == 0:
    return x
  if x.shape[0] != batch_size * num_samples:
    raise lookup.ConfigError(
      f"{batch_size} examples with {num_samples} samples each are not the "
      f"{x.shape[0]} sequences of an array {x.shape}."
    )
  return jnp.reshape(x, (batch_size, num_samples, *x.shape[1:]))


def expand_samples_dim_and_flatten(x: Array, num_samples: int) -> Array:
  """Repeats each example: [B, ...] becomes [B * S, ...]; scalars stay.

  Args:
    x: array.
    num_samples: int, S.

  Returns:
    Array.
  """
  return flatten_samples_dim(expand_samples_dim(x, num_samples))
