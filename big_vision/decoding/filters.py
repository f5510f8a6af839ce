"""Filters of logits, and drawing tokens from what they leave.

Shapes: `N` sequences, `V` vocabulary.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from big_vision.types import Array, Key

# Logit of what a filter has removed. It is finite: no infinity minus infinity.
NEG_INF = -1e7


def check_filters(top_k: int, top_p: float) -> None:
  """Refuses settings of `sample` that make no sense.

  Args:
    top_k: int.
    top_p: float.

  Raises:
    ValueError: both are given, or one of them is out of range.
  """
  if top_k < 0:
    raise ValueError(f"top_k={top_k} should be a number of tokens; 0 is all.")
  if not 0 <= top_p <= 1:
    raise ValueError(f"top_p={top_p} should be a probability, in [0, 1].")
  if top_k and top_p:
    raise ValueError(
      f"top_k={top_k} and top_p={top_p} exclude each other: one has to be 0."
    )


def without_tokens(logits: Array, token_ids: Sequence[int]) -> Array:
  """Removes tokens and normalizes the others.

  Args:
    logits: [..., V].
    token_ids: ints, the tokens; none leave the logits as they are.

  Returns:
    [..., V], logarithms of probabilities, -inf for the tokens.

  Raises:
    ValueError: there are no such tokens.
  """
  if not len(token_ids):
    return logits
  num = logits.shape[-1]
  if unknown := [i for i in token_ids if not 0 <= i < num]:
    raise ValueError(
      f"mask_token_ids: {unknown} are not among the {num} tokens."
    )
  removed = jnp.zeros([num], bool).at[jnp.asarray(token_ids)].set(True)
  removed = jnp.broadcast_to(removed, logits.shape)
  return jax.nn.log_softmax(jnp.where(removed, -jnp.inf, logits))


def nucleus(logits: Array, top_p: float) -> Array:
  """Keeps the most probable tokens, until they have a probability of `top_p`.

  Holtzman et al. 2020, https://arxiv.org/abs/1904.09751. The probabilities are
  those without temperature. At least one token is kept, and all that are as
  probable as the last one.

  Args:
    logits: [N, V].
    top_p: float in (0, 1].

  Returns:
    [N, V], `NEG_INF` for what is removed.
  """
  ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
  cumulative = jnp.cumsum(jax.nn.softmax(ordered), axis=-1)
  last = jnp.sum(cumulative < top_p, axis=-1, keepdims=True)
  # Rounding may keep the sum of all below 1.
  last = jnp.minimum(last, logits.shape[-1] - 1)
  cutoff = jnp.take_along_axis(ordered, last, axis=-1)
  return jnp.where(
    logits < jnp.broadcast_to(cutoff, logits.shape), NEG_INF, logits
  )


def draw(
  rng: Key, logits: Array, temperature: float | Array, top_k: int = 0
) -> Array:
  """Draws a token for each sequence.

  Args:
    rng: random key, or keys [N].
    logits: [N, V].
    temperature: float, divides the logits; 0 takes the largest.
    top_k: int, draws from so many of the largest; 0 from all.

  Returns:
    [N] int32.
  """
  best = jnp.argmax(logits, axis=-1)
  tokens = None
  if top_k:
    logits, tokens = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))
  scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
  fn = (
    jax.vmap(jax.random.categorical)
    if is_batched(rng)
    else (jax.random.categorical)
  )
  drawn = fn(rng, scaled)
  if tokens is not None:
    drawn = jnp.take_along_axis(tokens, drawn[:, None], axis=1)[:, 0]
  return jnp.where(temperature > 0, drawn, best).astype(jnp.int32)


def is_batched(rng: Key) -> bool:
  """Tells whether these are many keys or a single one.

  Args:
    rng: keys of `jax.random.PRNGKey` or `jax.random.key`.

  Returns:
    True for keys [N].
  """
  is_new = jax.dtypes.issubdtype(rng.dtype, jax.dtypes.prng_key)
  return rng.ndim > (0 if is_new else 1)
