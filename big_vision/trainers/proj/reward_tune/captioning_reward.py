"""Rewards captions by what they share with those of people: CIDEr-D.

The reward of captioning in Pinto et al. 2023, https://arxiv.org/abs/2302.08242,
is CIDEr (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726), with a
baseline that leaves each sample out in turn: `config.reward.num_grads =
num_samples`.

It compares runs of 1 to 4 tokens, of which rare ones count more. How many
images have a run in their captions is counted once, on the training set, into a
table in which each run has its place by a hash: `count_images`. Captions end
with token 0 or 1.

Shapes: `B` examples, `N` samples, `R` captions of an image, `L` tokens, `K`
places.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import fs, lookup
from big_vision.trainers.proj.reward_tune import reinforce
from big_vision.types import Array, ArrayLike, ConfigLike

_SIZES = (1, 2, 3, 4)
_LAST_SPECIAL = 1  # Padding and the end.
_SIGMA = 6.0  # Difference of lengths that is tolerated.


def count_images(
  references: Iterable[ArrayLike], places: int = 2**20
) -> dict[str, Any]:
  """Counts in how many images runs of tokens occur.

  Args:
    references: int [R, L] of each image, padded with 0.
    places: K; runs in the same place are counted as one.

  Returns:
    Dict of `counts` int32 [K] and `num_images` int32 []: what
    `np.savez(PATH, **count_images(...))` keeps for `config.reward.counts =
    PATH`.
  """
  counts, num = np.zeros(places, np.int32), 0
  for captions in references:
    num += 1
    captions = np.asarray(captions, np.int32)
    found = [
      np.asarray(_hash(runs))[np.asarray(there)] % places
      for runs, there in map(lambda n: _runs(captions, n), _SIZES)
    ]
    counts[np.unique(np.concatenate(found))] += 1
  return {"counts": counts, "num_images": np.int32(num)}


def get_reward(config: ConfigLike) -> reinforce.Reward:
  """Makes the reward of captions.

  Args:
    config: `config.reward`; reads `counts`, the path of what `count_images`
      makes, or that dict.

  Returns:
    `(int [B, N, L], int [B, R, L]) -> [B, N]`, CIDEr-D in [0, 10]. A caption
    without tokens does not count as a reference.

  Raises:
    ConfigError: counts are missing.
  """
  table = config.get("counts")
  if table is None:
    raise lookup.ConfigError(
      "config.reward.counts should be the path of an npz file, which tells how "
      "rare words are: see `count_images` of captioning_reward.py."
    )
  if isinstance(table, str):
    with fs.open(table, "rb") as f, np.load(f) as stored:
      table = dict(stored)
  rarity = np.log(table["num_images"] / np.maximum(table["counts"], 1))
  rarity = jnp.asarray(rarity, jnp.float32)

  def one(caption, references):
    """Averages over the references of an image."""
    each = jax.vmap(lambda r: _similarity(caption, r, rarity))(references)
    there = jnp.any(references > _LAST_SPECIAL, axis=1)
    return 10 * jnp.sum(each * there) / jnp.maximum(jnp.sum(there), 1)

  return jax.vmap(jax.vmap(one, (0, None)))


def _similarity(a, b, rarity):
  """Compares captions [L] and [M] with each other: []."""
  length = lambda x: jnp.sum(_until_end(x))
  apart = (length(a) - length(b)).astype(jnp.float32)
  total = sum(_of_size(a, b, n, rarity) for n in _SIZES)
  return jnp.exp(-(apart**2) / (2 * _SIGMA**2)) * total / len(_SIZES)


def _of_size(a, b, n, rarity):
  """Compares runs of n tokens: [], the cosine of what is weighted by rarity."""
  if min(len(a), len(b)) < n:
    return jnp.float32(0)
  (x, x_there), (y, y_there) = _runs(a, n), _runs(b, n)
  weight = jnp.square(rarity[_hash(x) % len(rarity)])
  y_weight = jnp.square(rarity[_hash(y) % len(rarity)])
  same = lambda u, v: jnp.all(u[:, None] == v[None, :], axis=-1)
  count = lambda u, v, there: jnp.sum(same(u, v) & there[None, :], axis=1)
  own = count(x, x, x_there)
  # At each of the places of a run, its share of the sum over distinct runs.
  product = jnp.minimum(own, count(x, y, y_there)) * count(x, y, y_there)
  product = jnp.sum(x_there * weight * product / jnp.maximum(own, 1))
  norm = jnp.sum(x_there * weight * own)
  y_norm = jnp.sum(y_there * y_weight * count(y, y, y_there))
  return product / jnp.sqrt(jnp.maximum(norm * y_norm, 1e-12))


def _until_end(tokens: Array) -> Array:
  """Tells which tokens [..., L] come before the end."""
  return jnp.cumprod(tokens > _LAST_SPECIAL, axis=-1)


def _runs(tokens, n):
  """Lists runs of n tokens, [..., L - n + 1, n], and whether they are there."""
  num = tokens.shape[-1] - n + 1
  if num < 1:
    shape = tokens.shape[:-1]
    return jnp.zeros([*shape, 0, n], jnp.int32), jnp.zeros([*shape, 0], bool)
  parts = [tokens[..., i : num + i] for i in range(n)]
  there = _until_end(jnp.asarray(tokens))[..., n - 1 :] > 0
  return jnp.stack(parts, axis=-1), there


def _hash(runs: Array) -> Array:
  """Mixes the tokens of runs [..., n] to uint32 [...]."""
  mixed = jnp.full(runs.shape[:-1], runs.shape[-1], jnp.uint32)
  for i in range(runs.shape[-1]):
    mixed = mixed * jnp.uint32(0x01000193) + runs[..., i].astype(jnp.uint32)
    # The finalizer of MurmurHash3.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
      mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    mixed ^= mixed >> 16
  return mixed
