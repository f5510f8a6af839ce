"""Codes between an encoder and a decoder of patches: grids, dropout of codes.

Shapes: `B` batch, `N` patches, `n` = code_len, `D` width.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.types import Array

_DROPOUTS = ("none", "seq", "random")


def check_dropout(kind: str) -> None:
  """Checks how codes are left out.

  Args:
    kind: `config.model.code_dropout`.

  Raises:
    ConfigError: there is no such way.
  """
  if kind not in _DROPOUTS:
    raise lookup.unknown(
      "code dropout", kind, _DROPOUTS, "model.code_dropout", lookup.ConfigError
    )


def check_sizes(
  input_size: Sequence[int],
  patch_size: Sequence[int],
  code_len: int,
  bottleneck_resize: bool,
) -> None:
  """Checks that patches fill the image, and codes their grid.

  Args:
    input_size, patch_size: (height, width), pixels.
    code_len: n.
    bottleneck_resize: whether the codes are a square grid.

  Raises:
    ConfigError: they do not.
  """
  sizes = zip(input_size, patch_size, strict=True)
  if any(size % patch for size, patch in sizes):
    raise lookup.ConfigError(
      f"config.model.input_size={tuple(input_size)} is not divisible by "
      f"config.model.patch_size={tuple(patch_size)}."
    )
  if bottleneck_resize and math.isqrt(code_len) ** 2 != code_len:
    raise lookup.ConfigError(
      f"config.model.code_len={code_len} is not a square number, which it must "
      "be with bottleneck_resize: the codes are a square grid."
    )


def kept_codes(
  make_rng: Callable[[], Array], kind: str, num: int, code_len: int
) -> Array:
  """Draws which codes the decoder sees: later ones less often.

  Args:
    make_rng: returns the next random key.
    kind: "seq" leaves out the last ones, "random" any.
    num: number of examples, B.
    code_len: n.

  Returns:
    [B, n] bool.
  """
  importance = jnp.linspace(1, 0, code_len + 2)[1:-1]
  threshold = jax.random.uniform(make_rng(), (num, 1))
  kept = importance[None] > threshold
  if kind == "random":
    kept = jax.random.permutation(make_rng(), kept, axis=1, independent=True)
  return kept


def combine(spec: str, x: Array, weights: Array, dtype: str) -> Array:
  """Makes combinations of tokens.

  Args:
    spec: of `jnp.einsum`.
    x: [B, tokens, D].
    weights: matrix of tokens and combinations.
    dtype: of the computation.

  Returns:
    [B, combinations, D].
  """
  return jnp.einsum(spec, jnp.asarray(x, dtype), jnp.asarray(weights, dtype))


def resize(x: Array, old: Sequence[int], new: Sequence[int]) -> Array:
  """Resizes a grid of tokens, linearly.

  Args:
    x: [B, h * w, D].
    old: (h, w).
    new: (rows, columns).

  Returns:
    [B, rows * columns, D].
  """
  num, _, d = x.shape
  x = jax.image.resize(x.reshape(num, *old, d), (num, *new, d), "linear")
  return x.reshape(num, -1, d)
