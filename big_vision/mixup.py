"""Mixup: train on weighted sums of two examples and of their labels.

References:
  Zhang et al. 2018, https://arxiv.org/abs/1710.09412.
"""

import jax
import jax.numpy as jnp
import numpy as np


def get_mixup(rng, p, num_shards=1):
  """Draws one mixing weight and returns the function that mixes with it.

  Args:
    rng: a jax random key.
    p: float >= 0, both parameters of the Beta distribution of the weight: 0
      leaves everything as it is, 1 draws it uniformly.
    num_shards: int, divides B: the batch is cut into so many consecutive parts
      and each mixes in itself. With the number of devices, no example has to
      travel.

  Returns:
    `fn(*things, **more_things)` -> (next random key, tuple of the mixed things,
    dict of the mixed more_things). Things are pytrees of arrays [B, ...], None
    passes through. Example i is mixed with example i - 1 (the first with the
    last) and keeps at least half of its weight; all things share the weight.

  Raises:
    ValueError: `p` is negative.
  """
  if p < 0:
    raise ValueError(f"config.mixup.p = {p} is negative; use 0 for no mixup.")
  rng, rng_weight = jax.random.split(rng)
  # Beta(0, 0) is NaN in jax. Its limit is a fair coin between 0 and 1, of which
  # the line below it makes 1.
  a = jax.random.beta(rng_weight, p, p) if p else jnp.float32(1)
  a = jnp.maximum(a, 1.0 - a)

  def mix(x):
    shards = x.reshape(num_shards, x.shape[0] // num_shards, *x.shape[1:])
    before = jnp.roll(shards, shift=1, axis=1).reshape(x.shape)
    return a * x + (1.0 - a) * before

  def fn(*things, **more_things):
    for path, x in jax.tree_util.tree_leaves_with_path(more_things):
      if not np.ndim(x):
        raise ValueError(
          f"mixup got {x!r} as {jax.tree_util.keystr(path)}, which is no batch "
          "of examples. config.mixup has one setting, p."
        )
    return (rng, *jax.tree.map(mix, (things, more_things)))

  return fn


def mixup(rng, *things, p, **more_things):
  """Mixes right away: `get_mixup(rng, p)(*things, **more_things)`."""
  return get_mixup(rng, p)(*things, **more_things)
