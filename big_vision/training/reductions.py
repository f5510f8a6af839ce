"""Sums over devices in one fixed order: `config.deterministic_reductions`.

How devices add up a gradient is up to the library that connects them: four devices
of one process add in another order than two and two, so that the last bits differ.
Here the batch is cut into groups of consecutive examples. Each group has a gradient
of its own; devices exchange these as they are, and add them in the order of the
groups.

Letters: G groups, N devices, B examples of a batch.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import grads, sharding
from big_vision.lookup import ConfigError
from big_vision.training.recipe import Recipe
from big_vision.types import (
  Array,
  Batch,
  ConfigLike,
  Key,
  LossFn,
  Params,
  PyTree,
)

KEY = "deterministic_reductions"


def num_groups(config: ConfigLike, mesh: Mesh) -> int:
  """Returns how many groups of examples have a gradient of their own.

  Args:
    config: ConfigDict of the run; `deterministic_reductions` is True for one group
      on each device, or the number of groups.
    mesh: Mesh of the run.

  Returns:
    The number; 1 if the config does not ask for a fixed order.

  Raises:
    ConfigError: the number does not fit to devices or batch; or the config splits
      parameters or single examples, whose sums would have no fixed order.
  """
  asked, devices = config.get(KEY), math.prod(mesh.shape.values())
  if not asked:
    return 1
  groups = devices if asked is True else asked
  if not isinstance(groups, int) or groups < 1 or groups % devices:
    raise ConfigError(
      f"config.{KEY}={asked!r} should be True, or a number of groups that the "
      f"{devices} devices divide."
    )
  steps = config.get("grad_accum_steps") or 1
  batch_size = config.input.batch_size
  if batch_size % (groups * steps):
    raise ConfigError(
      f"config.{KEY}={asked!r}: the batch of {batch_size} examples cannot be cut "
      f"into {steps} micro-batches (config.grad_accum_steps) of {groups} groups."
    )
  rules = config.get("sharding_strategy") or ()
  if split := [rule for _, rule in rules if rule != "replicate"]:
    raise ConfigError(
      f"config.{KEY} needs all parameters on every device, but "
      f"config.sharding_strategy has {split[0]!r}. Remove one of them."
    )
  axes = sharding.batch_axes(config, mesh.shape)
  if other := [a for a, n in mesh.shape.items() if n > 1 and a not in axes]:
    raise ConfigError(
      f"config.{KEY} needs a mesh that splits examples only, but the axis "
      f"{other[0]!r} of config.mesh does something else. Remove one of them."
    )
  return groups


def adapt(recipe: Recipe, config: ConfigLike, mesh: Mesh) -> Recipe:
  """Makes a recipe whose loss and gradient are summed in a fixed order.

  Args:
    recipe: of any method.
    config: ConfigDict of the run.
    mesh: Mesh of the run.

  Returns:
    The Recipe; the same one if the config does not ask for it.

  Raises:
    ConfigError: see `num_groups`; or the method sums in ways of its own.
  """
  if not config.get(KEY):
    return recipe
  groups = Groups(num_groups(config, mesh), mesh)
  if isinstance(recipe.loss_fn, grads.EmbeddingLoss):
    loss_fn = _embedding_loss(recipe.loss_fn, groups)
    return dataclasses.replace(
      recipe, loss_fn=loss_fn, accumulate=loss_fn.accumulate
    )
  if recipe.accumulate:
    raise ConfigError(
      f"config.{KEY}: this loss compares all examples in a way of its own "
      "(config.lora of image and text?), which has no fixed order. Remove it."
    )
  return dataclasses.replace(recipe, loss_fn=_mean_loss(recipe.loss_fn, groups))


@dataclasses.dataclass(frozen=True)
class Groups:
  """Computes on groups of a batch, and sums over them in their order.

  Attributes:
    num: number of groups G, a multiple of the number of devices.
    mesh: Mesh of the run, over all axes of which a batch is split.
  """

  num: int
  mesh: Mesh

  def map(
    self,
    fn: Callable[[Params, Batch, Key], PyTree],
    params: Params,
    batch: Batch,
    rng: Key,
  ) -> PyTree:
    """Calls a function for each group, on the device that has its examples.

    Args:
      fn: `(params, part of the batch [B / G, ...], key) -> tree of arrays`.
      params: parameters, whole on every device. Their gradient through this is
        summed in the order of the groups.
      batch: tree of arrays [B, ...].
      rng: random key; group i gets it folded with i.

    Returns:
      Tree of arrays [G, ...].
    """
    split = PartitionSpec(self.mesh.axis_names)
    cut = lambda x: x.reshape(self.num, x.shape[0] // self.num, *x.shape[1:])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(self.num))

    def of_device(*args):  # [G / N, ...] each.
      # Constraints on where arrays are have no meaning within a device.
      with nn.logical_axis_rules(()):
        return jax.lax.map(lambda each: fn(*each), args)

    return jax.shard_map(
      of_device, mesh=self.mesh, in_specs=split, out_specs=split,
      check_vma=False,
    )(_copies(params, self), jax.tree.map(cut, batch), keys)  # fmt: skip

  def sum(self, x: Array) -> Array:
    """Adds up [G, ...] in the order of the groups.

    Each device adds a part of the numbers for all groups, where their count allows
    it. That moves as many bytes as a sum of the library does.

    Args:
      x: [G, ...], split over devices along G.

    Returns:
      [...], whole on every device, in at least float32.
    """
    flat = x.reshape(self.num, -1)
    flat = flat.astype(jnp.promote_types(x.dtype, jnp.float32))
    even = flat.shape[1] % math.prod(self.mesh.shape.values()) == 0
    flat = self._place(flat, None, self.mesh.axis_names if even else None)
    total, _ = jax.lax.scan(
      lambda carry, row: (carry + row, None), jnp.zeros_like(flat[0]), flat
    )
    return self._place(total).reshape(x.shape[1:])

  def mean(self, x: Array) -> Array:
    """Averages [G, ...] in the order of the groups, see `sum`.

    Args:
      x: [G, ...], split over devices along G.

    Returns:
      [...], whole on every device, in at least float32.
    """
    return self.sum(x) / self.num

  def join(self, x: Array) -> Array:
    """Puts the examples of all groups one after the other.

    Args:
      x: [G, B / G, ...], split over devices along G.

    Returns:
      [B, ...], whole on every device.
    """
    return self._place(x.reshape(-1, *x.shape[2:]))

  def _place(self, x, *spec):
    """Says along which axes of the mesh an array is split."""
    at = NamedSharding(self.mesh, PartitionSpec(*spec))
    return jax.lax.with_sharding_constraint(x, at)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _copies(params: Params, groups: Groups) -> Params:
  """Gives each group parameters of its own, [G, ...], split along G."""

  def copy(x):
    x = jnp.broadcast_to(x, (groups.num, *jnp.shape(x)))
    return groups._place(x, groups.mesh.axis_names)

  return jax.tree.map(copy, params)


def _copies_forward(params, groups):
  return _copies(params, groups), None


def _copies_backward(groups, _, gradients):
  return (jax.tree.map(lambda g: groups.sum(g).astype(g.dtype), gradients),)


_copies.defvjp(_copies_forward, _copies_backward)


def _mean_loss(loss_fn: LossFn, groups: Groups) -> LossFn:
  """Averages a loss, which is a mean over examples, over groups."""

  def loss(params, batch, rng, state, *static):
    each = groups.map(
      lambda p, b, key: loss_fn(p, b, key, state, *static), params, batch, rng
    )
    value, measured = jax.tree.map(groups.mean, each)
    return value, jax.lax.stop_gradient(measured)

  return loss


def _embedding_loss(
  loss: grads.EmbeddingLoss, groups: Groups
) -> grads.EmbeddingLoss:
  """Embeds each group on its own; all devices have all embeddings."""

  def embed(params, batch, rng, state, *static):
    z, shared = groups.map(
      lambda p, b, key: loss.embed(p, b, key, state, *static)[:2],
      params,
      batch,
      rng,
    )
    return jax.tree.map(groups.join, z), jax.tree.map(groups.mean, shared), {}

  return grads.EmbeddingLoss(embed, loss.compare)
