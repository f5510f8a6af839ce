"""Splits of the couplings of `jet`: the orders of patches, and of what is in them.

A permutation is a matrix with a 1 in each column: what is at `j` of the result is
what was in the row of that 1. The first half of the result stays as it is.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import lookup
from big_vision.types import Array, DType, Key

InitFn = Callable[[Key, DType], Array]


def tokens(image_shape: Sequence[int], ps: int) -> tuple[int, int]:
  """Computes the number of patches and how many values one has.

  Args:
    image_shape: (h, w, c).
    ps: pixels of the side of a patch.

  Returns:
    (n, C).

  Raises:
    ConfigError: `ps` does not divide the images.
  """
  h, w, c = image_shape
  if h % ps or w % ps:
    raise lookup.ConfigError(
      f"config.model.ps={ps} does not divide the size of the images, {h}x{w} "
      "pixels."
    )
  return (h // ps) * (w // ps), c * ps**2


def get_channels_coupling_init(
  depth: int, image_shape: Sequence[int], ps: int, proj_kinds: Sequence[str]
) -> InitFn:
  """Makes what initializes the permutations of channels.

  Args:
    depth: number of layers.
    image_shape: (h, w, c).
    ps: pixels of the side of a patch.
    proj_kinds: [depth], "random", or "zero" for a layer that needs none.

  Returns:
    `(key, dtype) -> [depth, C, C]`.

  Raises:
    ConfigError: an unknown permutation, or `ps` does not divide the images.
  """
  _, size = tokens(image_shape, ps)
  _check_names(proj_kinds, ("random", "zero"), "channels")

  def init(key, dtype):
    def make(i, kind):
      if kind == "zero":
        return jnp.zeros((size, size), dtype)
      order = jax.random.permutation(jax.random.fold_in(key, i), size)
      return jax.nn.one_hot(order, size, dtype=dtype, axis=0)

    layers = zip(range(depth), proj_kinds, strict=True)
    return jnp.stack([make(*layer) for layer in layers])

  return init


# The half of a position, from its index and its row.
_PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "checkerboard": lambda index, row: (index + row) % 2,
  "vstripes": lambda index, row: index % 2,
  "hstripes": lambda index, row: row % 2,
}
_SWAPPED = "-inv"


def get_spatial_coupling_init(
  depth: int, image_shape: Sequence[int], ps: int, proj_kinds: Sequence[str]
) -> InitFn:
  """Makes what initializes the permutations of positions.

  Args:
    depth: number of layers.
    image_shape: (h, w, c).
    ps: pixels of the side of a patch.
    proj_kinds: [depth], see `jet.Model`; "zero" for a layer that needs none.

  Returns:
    `(key, dtype) -> [depth, n, n]`, the same for any key.

  Raises:
    ConfigError: an unknown permutation, or `ps` does not divide the images.
  """
  num, _ = tokens(image_shape, ps)
  known = [p + end for p in _PATTERNS for end in ("", _SWAPPED)]
  _check_names(proj_kinds, [*known, "zero"], "spatial")
  index = np.arange(num)
  row = index // (image_shape[1] // ps)

  def init(key, dtype):
    del key
    out = np.zeros((depth, num, num))
    for mask, kind in zip(out, proj_kinds, strict=True):
      if kind == "zero":
        continue
      half = _PATTERNS[kind.removesuffix(_SWAPPED)](index, row)
      half = 1 - half if kind.endswith(_SWAPPED) else half
      mask[np.argsort(half, kind="stable"), index] = 1
    return jnp.asarray(out, dtype)

  return init


def _check_names(names, known, kind):
  """Refuses unknown permutations."""
  for name in names:
    if name not in known:
      key = f"model.{kind}_coupling_projs"
      raise lookup.unknown("permutation", name, known, key, lookup.ConfigError)
