"""Passes over all pairs of a batch that is split over devices.

Each device keeps its images, while texts travel around the ring of devices. Of
the B x B matrix of pairs only a block of `chunk` columns exists at a time, on
each device for its own images.

References:
  Zhai et al. 2023, SigLIP, https://arxiv.org/abs/2303.15343, section 3.2 and
    figure 1: texts travel between devices.

Shapes: `B` batch, `n = B / devices` examples of a device, `D` embedding, `c`
columns of a block.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from big_vision.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Ring:
  """Devices over which a batch is split, in a circle.

  Attributes:
    mesh: Mesh; None is a single device.
    axes: names of the axes that split the batch, in the order in which they do.
    chunk: columns of logits that exist at a time.
    ordered: whether sums over devices have a fixed order, for
      `config.deterministic_reductions`.
    abstract: whether arrays are those of one device, which stands for all of them:
      to count operations without devices.
  """

  mesh: Mesh | None = None
  axes: tuple[str, ...] = ()
  chunk: int = 256
  ordered: bool = False
  abstract: bool = False

  @property
  def size(self) -> int:
    """Number of devices in the circle."""
    if self.mesh is None:
      return 1
    return math.prod(self.mesh.shape[a] for a in self.axes)

  @property
  def _alone(self) -> bool:
    """Whether nothing is exchanged."""
    return self.abstract or self.size == 1

  def run(
    self,
    fn: Callable[..., Any],
    split: Sequence[Array],
    scalars: Sequence[Array],
    outputs: PyTree,
  ) -> Any:
    """Calls `fn(*split, *scalars)` on each device with its own examples.

    Args:
      fn: function of arrays [n, ...] and of scalars.
      split: arrays [B, ...].
      scalars: arrays that all devices get.
      outputs: tree of bool like the result: True where it is split.

    Returns:
      The result of `fn`; what is split has the leading axis B.
    """
    if self._alone:
      return fn(*split, *scalars)
    batch, everywhere = PartitionSpec(self.axes), PartitionSpec()
    return jax.shard_map(
      fn,
      mesh=self.mesh,
      in_specs=(batch,) * len(split) + (everywhere,) * len(scalars),
      out_specs=jax.tree.map(lambda s: batch if s else everywhere, outputs),
      axis_names=set(self.axes),
      check_vma=False,
    )(*split, *scalars)

  def shift(self, tree: PyTree) -> PyTree:
    """Sends arrays to the device before and gets those of the next.

    Args:
      tree: arrays of this device.

    Returns:
      The arrays of the next device.
    """
    if self._alone:
      return tree
    to = [(i, (i - 1) % self.size) for i in range(self.size)]
    return jax.tree.map(lambda x: lax.ppermute(x, self.axes, to), tree)

  def mean(self, tree: PyTree) -> PyTree:
    """Averages over devices.

    Args:
      tree: arrays of this device.

    Returns:
      The mean, the same on all devices.
    """
    if self.ordered:
      return jax.tree.map(lambda x: x / self.size, self.sum(tree))
    return tree if self._alone else lax.pmean(tree, self.axes)

  def sum(self, tree: PyTree) -> PyTree:
    """Sums over devices.

    Args:
      tree: arrays of this device.

    Returns:
      The sum, the same on all devices.
    """
    if self._alone:
      return tree
    if not self.ordered:
      return lax.psum(tree, self.axes)

    def ordered(x):
      every = lax.all_gather(x, self.axes)  # In the order of the circle.
      add = lambda total, one: (total + one, None)
      return lax.scan(add, jnp.zeros_like(x), every)[0]

    return jax.tree.map(ordered, tree)

  def blocks(
    self,
    fn: Callable[..., tuple[PyTree, dict[str, Any]]],
    here: PyTree,
    moving: dict[str, Any],
    x: Array,
  ) -> tuple[PyTree, dict[str, Any]]:
    """Goes through all columns of the matrix of pairs, block by block.

    Args:
      fn: `(here, columns, x, is_pair [n, c], exists [c], is_own) -> (here,
        columns)`. `columns` holds what moves, [c, ...] each. `is_pair` is True
        where text and image belong together, `exists` False for columns of
        padding, `is_own` (scalar) True if the texts are those of this device.
      here: tree of what stays on the device.
      moving: dict of arrays [n, ...] that travel, with `y` the texts.
      x: [n, D], the images of the device.

    Returns:
      (here, moving) after all rounds; what traveled is where it started.
    """
    n = x.shape[0]
    c = min(self.chunk, n)
    num = -(-n // c)
    pad = num * c - n
    rows = jnp.arange(n)[:, None]

    def cut(a):  # [n, ...] -> [num, c, ...]
      a = jnp.pad(a, [(0, pad)] + [(0, 0)] * (a.ndim - 1))
      return a.reshape(num, c, *a.shape[1:])

    def join(a):
      return a.reshape(num * c, *a.shape[2:])[:n]

    def one_round(carry, i):
      here, moving = carry

      def one_block(here, xs):
        at, columns = xs
        position = at * c + jnp.arange(c)
        is_pair = (i == 0) & (rows == position[None, :])
        return fn(here, columns, x, is_pair, position < n, i == 0)

      here, columns = lax.scan(
        one_block, here, (jnp.arange(num), jax.tree.map(cut, moving))
      )
      return (here, self.shift(jax.tree.map(join, columns))), None

    carry, _ = lax.scan(one_round, (here, moving), jnp.arange(self.size))
    return carry
