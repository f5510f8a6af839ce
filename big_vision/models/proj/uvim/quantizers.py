"""Turns vectors into codes: by a learned dictionary, or by rounding.

References:
  van den Oord et al. 2017 (vector quantization), https://arxiv.org/abs/1711.00937
  Kolesnikov et al. 2022 (UViM: splitting of unused codes, appendix A),
    https://arxiv.org/abs/2205.10337
  Mentzer et al. 2023 (finite scalar quantization),
    https://arxiv.org/abs/2309.15505

Shapes: `B` batch, `n` codes of an example, `c` size of a vector, `K` size of the
dictionary.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision.types import Array

# Two halves of a codeword differ by up to this factor.
PERTURB = 0.001
# Widens the range of `fsq`, so that its ends are not reached at infinity only.
_MARGIN = 1e-3


def quantize(x: Array, e: Array) -> tuple[Array, Array]:
  """Replaces vectors by the nearest codewords.

  Args:
    x: [B, n, c].
    e: [K, c], the codewords.

  Returns:
    (codewords [B, n, c], whose gradient goes to `x` as it is; int32 [B, n], their
    numbers, the lowest of those at the same distance).
  """
  products = jnp.einsum("bnc,kc->bnk", x, e)
  distances = (
    jnp.sum(x**2, axis=-1, keepdims=True)
    - 2 * products
    + jnp.sum(e**2, axis=-1)[None, None]
  )
  code = jnp.argmin(distances, axis=-1)
  return straight_through(x, e[code]), code


def straight_through(x: Array, value: Array) -> Array:
  """Returns `value` with the gradient of `x`, both of one shape."""
  return x + jax.lax.stop_gradient(value - x)


def codewords(dictionary: Array, counts: Array) -> Array:
  """Computes the averages of the vectors of each code, of length 1.

  Args:
    dictionary: [K, c], decayed sums of vectors.
    counts: [K], decayed numbers of vectors.

  Returns:
    [K, c].
  """
  e = dictionary / counts[:, None]
  return e / jnp.linalg.norm(e, axis=-1, keepdims=True)


def count(code: Array, size: int) -> Array:
  """Counts how often each code occurs.

  Args:
    code: int [B, n].
    size: K.

  Returns:
    int32 [K].
  """
  return jnp.zeros([size], jnp.int32).at[code.reshape(-1)].add(1)


def sums(x: Array, code: Array, size: int) -> Array:
  """Adds up the vectors of each code.

  Args:
    x: [B, n, c].
    code: int [B, n].
    size: K.

  Returns:
    [K, c].
  """
  zeros = jnp.zeros([size, x.shape[-1]], x.dtype)
  return zeros.at[code.reshape(-1)].add(x.reshape(-1, x.shape[-1]))


def usage(counts: Array) -> dict[str, Array]:
  """Measures how evenly codes are used.

  Args:
    counts: [K].

  Returns:
    `codebook_max_ratio`, the share of the most frequent code, and
    `codebook_zeros_ratio`, the share of codes that are not used.
  """
  return {
    "codebook_max_ratio": jnp.max(counts) / jnp.sum(counts),
    "codebook_zeros_ratio": jnp.mean(counts == 0),
  }


def update(
  state: Mapping[str, Array],
  counts: Array,
  vectors: Array,
  rng: Array,
  *,
  momentum: float,
  min_count: float,
) -> dict[str, Array]:
  """Moves the averages of a dictionary by those of a batch.

  Codes that become rarer than `min_count` take over half of the most frequent one,
  one after the other.

  Args:
    state: `dictionary` [K, c] and `counts` [K].
    counts: [K], how often each code occurs in the batch.
    vectors: [K, c], sums of the vectors of each code.
    rng: random key of the splits.
    momentum: factor of the old sums.
    min_count: lowest count that stays.

  Returns:
    The new `dictionary` and `counts`.
  """
  new = {
    "rng": rng,
    "dictionary": state["dictionary"] * momentum + vectors,
    "counts": state["counts"] * momentum + counts,
  }
  new = jax.lax.while_loop(
    lambda s: jnp.any(s["counts"] < min_count),
    split_the_most_frequent_embedding,
    new,
  )
  return {k: new[k] for k in ("dictionary", "counts")}


def split_the_most_frequent_embedding(
  state: Mapping[str, Array],
) -> dict[str, Array]:
  """Gives half of the most frequent codeword to the least frequent code.

  Args:
    state: `rng` a random key, `dictionary` [K, c], `counts` [K].

  Returns:
    The same entries; the new codeword differs by a factor of up to
    1 ± `PERTURB` in each dimension.
  """
  dictionary, counts = state["dictionary"], state["counts"]
  rng, local = jax.random.split(state["rng"])
  high, low = jnp.argmax(counts), jnp.argmin(counts)
  word = dictionary[high]
  noise = jax.random.uniform(
    local, word.shape, word.dtype, 1 - PERTURB, 1 + PERTURB
  )
  half = counts[high] / 2
  return {
    "rng": rng,
    "dictionary": dictionary.at[low]
    .set(word * noise / 2)
    .at[high]
    .set(word / 2),
    "counts": counts.at[low].set(half).at[high].set(half),
  }


def fsq(x: Array, levels: Sequence[int]) -> tuple[Array, Array, Array]:
  """Rounds each number of a vector to one of a few levels in [-1, 1].

  Args:
    x: [B, n, c], any numbers.
    levels: c numbers of levels; their product is K.

  Returns:
    (bounded [B, n, c] before and [B, n, c] after the rounding, whose gradient
    goes to the first; int32 [B, n], the numbers of the codes).
  """
  num = np.asarray(levels)
  half = (num - 1) * (1 + _MARGIN) / 2
  # An even number of levels lies around zero with an offset.
  offset = np.where(num % 2, 0.0, 0.5)
  shift = jnp.asarray(np.arctanh(offset / half), x.dtype)
  scale = lambda v: jnp.asarray(v, x.dtype)[None, None]
  bounded = jnp.tanh(x + shift[None, None]) * scale(half) - scale(offset)
  rounded = straight_through(bounded, jnp.round(bounded))
  width = num // 2
  digits = jnp.round(rounded + scale(width)).astype(jnp.int32)
  code = jnp.sum(digits * jnp.asarray(_basis(levels))[None, None], axis=-1)
  return bounded / scale(width), rounded / scale(width), code


def fsq_codewords(levels: Sequence[int]) -> np.ndarray:
  """Lists the vectors of all codes of `fsq`.

  Args:
    levels: c numbers of levels.

  Returns:
    float32 [K, c].
  """
  num = np.asarray(levels)
  digits = np.arange(math.prod(levels))[:, None] // _basis(levels) % num
  return np.asarray((digits - num // 2) / (num // 2), np.float32)


def _basis(levels: Sequence[int]) -> Any:
  """Returns the factors of the digits of a code, int32 [c]."""
  return np.cumprod([1, *levels[:-1]]).astype(np.int32)
