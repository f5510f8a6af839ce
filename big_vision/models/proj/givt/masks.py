"""Draws which tokens of a sequence a masked model does not see.

Shapes: `B` batch, `L` length of a sequence.
"""

import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.types import Array, Key

_POWER = "pow:"


def apply_mask_schedule(ratio: Array | float, method: str) -> Array:
  """Computes which part of the tokens is hidden.

  Args:
    ratio: array, progress of decoding from 0 (all hidden) to 1.
    method: "cosine", or "pow:x" with an exponent x.

  Returns:
    float of the same shape, from 1e-6 to 1.

  Raises:
    NotImplementedError: there is no such schedule.
  """
  ratio = jnp.asarray(ratio, jnp.float32)
  if method == "cosine":
    hidden = jnp.cos(jnp.pi / 2 * ratio)
  elif _POWER in method:
    hidden = 1 - ratio ** _exponent(method)
  else:
    raise _unknown(method)
  return jnp.clip(hidden, 1e-6, 1)


def random_mask(rng: Key, ratios: Array, seq_len: int) -> Array:
  """Draws masks that hide given parts of the tokens.

  Args:
    rng: random key.
    ratios: float [B], the part of each sequence, limited to 0 to 1.
    seq_len: L.

  Returns:
    bool [B, L], True where hidden; at least `ratios * L` tokens are.

  Raises:
    ValueError: the ratios are not [B].
  """
  if ratios.ndim != 1:
    raise ValueError(
      f"One ratio per sequence is needed, [B], not {ratios.shape}."
    )
  num = jnp.clip(ratios, 0, 1)[:, None] * seq_len
  first = jnp.arange(seq_len)[None] < num
  return jax.random.permutation(rng, first, axis=-1, independent=True)


def _exponent(method):
  """Reads the exponent of "pow:x"."""
  try:
    return float(method.replace(_POWER, ""))
  except ValueError as e:
    raise _unknown(method) from e


def _unknown(method):
  """Makes the error for an unknown schedule."""
  return lookup.unknown(
    "schedule of masks",
    method,
    ("cosine", f"{_POWER}2"),
    "model.mask_schedule_train (or masked_generation_config.schedule)",
    NotImplementedError,
  )
