"""Rotary positions in two dimensions.

Shapes: `h, w` grid of patches, `B` batch, `T` tokens, `H` heads, `K` size of a
head.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from big_vision import lookup
from big_vision.types import Array

KINDS = ("dinov3",)


class Rope(NamedTuple):
  """Rotations of queries and keys.

  Attributes:
    sin: [T, K] float32.
    cos: [T, K] float32.
  """

  sin: Array
  cos: Array


def make(
  kind: str,
  grid: tuple[int, int],
  size: int,
  theta: float = 100.0,
  prefix: int = 0,
) -> Rope:
  """Makes the rotations of the tokens of an image.

  Args:
    kind: "dinov3": centers of patches in [-1, 1] along each axis, whatever the
      number of patches, times 2 pi / theta^(4 i / K); the first half of the
      features turns with the row, the second with the column
      (https://arxiv.org/abs/2508.10104).
    grid: (h, w).
    size: K.
    theta: ratio of the largest to the smallest wavelength.
    prefix: number of tokens before the patches, which are not rotated.

  Returns:
    The `Rope` of `prefix + h * w` tokens.

  Raises:
    ConfigError: unknown kind, or K is not a multiple of 4.
  """
  if kind not in KINDS:
    raise lookup.unknown(
      "kind of rotary positions", kind, KINDS, "model.rope", lookup.ConfigError
    )
  if size % 4:
    raise lookup.ConfigError(
      f"config.model.rope={kind!r} needs heads whose size is a multiple of 4, not "
      f"{size}: change width or num_heads."
    )
  frequency = 2 * np.pi / theta ** (np.arange(size // 4) * 4 / size)
  at = [2 * (np.arange(n) + 0.5) / n - 1 for n in grid]
  y, x = np.meshgrid(*at, indexing="ij")
  angle = np.stack([y.reshape(-1), x.reshape(-1)], axis=1)[:, :, None]
  angle = (angle * frequency).reshape(-1, size // 2)
  angle = np.pad(np.tile(angle, [1, 2]), [(prefix, 0), (0, 0)])
  return Rope(*(np.asarray(f(angle), np.float32) for f in (np.sin, np.cos)))


def rotate(x: Array, rope: Rope) -> Array:
  """Rotates queries or keys by the positions of their tokens.

  Args:
    x: [B, T, H, K].
    rope: of these T tokens.

  Returns:
    [B, T, H, K] in the dtype of `x`.
  """
  sin, cos = (jnp.asarray(a, x.dtype)[None, :, None] for a in rope)
  first, second = jnp.split(x, 2, axis=-1)
  return x * cos + jnp.concatenate([-second, first], axis=-1) * sin
