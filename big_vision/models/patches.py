"""Puts images together from patches.

Shapes: `B` batch, `h, w` grid of patches, `p, q` pixels of a patch, `C`
channels.
"""

from collections.abc import Sequence

from big_vision.types import Array


def unpatchify(
  x: Array, grid: Sequence[int], patch_size: Sequence[int]
) -> Array:
  """Puts images together: the inverse of `mae.patchify`.

  Args:
    x: [B, h * w, p * q * C].
    grid: (h, w).
    patch_size: (p, q).

  Returns:
    [B, h * p, w * q, C].
  """
  (h, w), (p, q) = grid, patch_size
  num = x.shape[0]
  x = x.reshape(num, h, w, p, q, -1).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(num, h * p, w * q, -1)
