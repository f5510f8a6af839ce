"""Mixup: train on weighted sums of examples and of their labels.

References:
  Zhang et al. 2018, https://arxiv.org/abs/1710.09412.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import guards
from big_vision.types import Key


@guards.transfers
def get_mixup(
  rng: Key, p: float, num_shards: int = 1, n: int = 2
) -> Callable[..., tuple[Key, tuple[Any, ...], dict[str, Any]]]:
  """Draws the mixing weights and returns the function that mixes with them.

  Args:
    rng: random key.
    p: >= 0, all parameters of the Dirichlet distribution (of two: Beta) of the
      weights: 0 leaves everything as it is, 1 draws them uniformly.
    num_shards: divides B. The batch is cut into so many consecutive parts, and
      examples mix within a part. With the number of devices, no example has to
      travel.
    n: number of examples to mix, at least 2.

  Returns:
    `fn(*things, **more_things)` -> (next random key, tuple of the mixed things,
    dict of the mixed more_things). Things are pytrees of arrays [B, ...], None
    passes through. Example i is mixed with example i - 1 (the first with the
    last), or those down to i - n + 1, and has the largest weight; all things
    share the weights.

  Raises:
    ValueError: `p` is negative, or `n` less than two.
  """
  if p < 0:
    raise ValueError(f"config.mixup.p = {p} is negative; use 0 for no mixup.")
  if n < 2:
    raise ValueError(f"config.mixup.n = {n}: at least two examples are mixed.")
  rng, rng_weights = jax.random.split(rng)
  weights = _weights(rng_weights, p, n)

  def mix(x):
    shards = x.reshape(num_shards, x.shape[0] // num_shards, *x.shape[1:])
    before = [
      jnp.roll(shards, shift=i, axis=1).reshape(x.shape) for i in range(1, n)
    ]
    return sum(w * y for w, y in zip(weights, [x, *before], strict=True))

  @guards.transfers
  def fn(*things, **more_things):
    for path, x in jax.tree_util.tree_leaves_with_path(more_things):
      if not np.ndim(x):
        raise ValueError(
          f"mixup got {x!r} as {jax.tree_util.keystr(path)}, which is not a "
          "batch of examples. config.mixup has the settings p, n and num_shards."
        )
    return (rng, *jax.tree.map(mix, (things, more_things)))

  return fn


def _weights(rng, p, n):
  """Draws n float32 scalars that sum up to 1, the largest first."""
  if n == 2:
    # Beta(0, 0) is NaN in jax. Its limit is a fair coin between 0 and 1, which
    # the maximum of a and 1 - a turns into 1.
    a = jax.random.beta(rng, p, p) if p else jnp.float32(1)
    a = jnp.maximum(a, 1.0 - a)
    return a, 1.0 - a
  if not p:
    return np.eye(n, dtype=np.float32)[0]
  return jnp.sort(jax.random.dirichlet(rng, jnp.full(n, p)), descending=True)


def mixup(
  rng: Key, *things: Any, p: float, n: int = 2, **more_things: Any
) -> tuple[Key, tuple[Any, ...], dict[str, Any]]:
  """Mixes right away: `get_mixup(rng, p, n=n)(*things, **more_things)`.

  Args:
    rng: random key.
    *things: pytrees of arrays [B, ...]; None passes through.
    p: see `get_mixup`.
    n: see `get_mixup`.
    **more_things: further things by name.

  Returns:
    (next random key, tuple of the mixed things, dict of the mixed more_things).
  """
  return get_mixup(rng, p, n=n)(*things, **more_things)
