"""Positional embeddings: sine-cosine or learned, and grids of other sizes.

Shapes: `n, m` rows and columns of the stored grid, `h, w` those of the new one,
`B` batch, `T` tokens, `D` width.
"""

import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision import lookup
from big_vision.types import AnyArray, Array, DType

_METHODS = ("linear", "corners", "bicubic", "bicubic_antialias", "bicubic_dino")


class ImageGrid(NamedTuple):
  """Describes how a model lays out the positions of its images.

  Attributes:
    stored: (rows, columns) of the grid of positions among the parameters.
    left_out: (rows, columns) of pixels at the bottom and at the right that no
      patch covers.
  """

  stored: tuple[int, int]
  left_out: tuple[int, int] = (0, 0)


def image_grid(
  size: Sequence[int], patch_size: Sequence[int], key: str = "model"
) -> ImageGrid:
  """Cuts an image into patches that do not overlap.

  Args:
    size: (height, width) of the image in pixels.
    patch_size: (height, width) of a patch in pixels.
    key: config key of the model, for the error message.

  Returns:
    The ImageGrid of a model with one position per patch.

  Raises:
    ConfigError: the patch is larger than the image, or not a pair; or the image
      does not have these two axes.
  """
  pair = isinstance(patch_size, Sequence) and len(patch_size) == 2
  if not pair or not all(isinstance(p, int) and p > 0 for p in patch_size):
    raise lookup.ConfigError(
      f"config.{key}.patch_size={patch_size!r} should be (height, width) in "
      "pixels, for example (16, 16)."
    )
  if len(size) != 2:
    raise lookup.ConfigError(
      "images must be [height, width, channels]. Does the preprocessing begin "
      "with decode?"
    )
  (height, width), (ph, pw) = size, patch_size
  if ph > height or pw > width:
    raise lookup.ConfigError(
      f"config.{key}.patch_size: a patch of {ph}x{pw} pixels is larger than the "
      f"image of {height}x{width} pixels. Use smaller patches (a variant "
      "'B/16' has 16x16 pixels), or larger images in config.input.pp."
    )
  return ImageGrid((height // ph, width // pw), (height % ph, width % pw))


def stored_size(
  given: Any, grid: Sequence[int], key: str = "model"
) -> tuple[int, int]:
  """Reads the size of a grid that a model stores for images of any size.

  Args:
    given: `config.<key>.posemb_size`; None is that of the images.
    grid: (rows, columns) of the images.
    key: config key of the model, for the error message.

  Returns:
    (rows, columns).

  Raises:
    ConfigError: it is not a pair of positive numbers.
  """
  if given is None:
    return (grid[0], grid[1])
  pair = isinstance(given, Sequence) and len(given) == 2
  if not pair or not all(isinstance(n, int) and n > 0 for n in given):
    raise lookup.ConfigError(
      f"config.{key}.posemb_size={given!r} should be (rows, columns), for example "
      f"{tuple(grid)}."
    )
  return (given[0], given[1])


def grid_kw(module: ModuleType, grid: tuple[int, int] | None) -> dict[str, Any]:
  """Makes the keyword of a model's `load` that is the grid of positions.

  Args:
    module: module of the model.
    grid: (rows, columns), or None.

  Returns:
    {"grid": grid}; {} without a grid, or if `load` does not take it, as that of
    a model of one's own.
  """
  if grid is None:
    return {}
  takes = inspect.signature(module.load).parameters
  return {"grid": grid} if "grid" in takes else {}


def posemb_sincos_2d(
  h: int,
  w: int,
  width: int,
  temperature: float = 10_000.0,
  dtype: DType = jnp.float32,
) -> Array:
  """Computes sine-cosine positions in two dimensions, as in MoCo v3.

  Args:
    h: int, rows of the grid.
    w: int, columns of the grid.
    width: int, number of features, a multiple of 4.
    temperature: float, ratio of the largest to the smallest wavelength.
    dtype: of the result.

  Returns:
    [1, h * w, width]: sin and cos of the column, then of the row.

  Raises:
    ConfigError: `width` is not a multiple of 4.

  References:
    Chen et al. 2021, https://arxiv.org/abs/2104.02057
  """
  if width % 4:
    raise lookup.ConfigError(
      f"posemb='sincos2d' needs a width that is a multiple of 4, not {width}."
    )
  y, x = jnp.mgrid[:h, :w]
  num_omegas = width // 4
  # With a single frequency it is 1, whatever the temperature.
  omega = jnp.arange(num_omegas) / max(num_omegas - 1, 1)
  omega = 1.0 / temperature**omega
  y, x = jnp.outer(y.reshape(-1), omega), jnp.outer(x.reshape(-1), omega)
  features = [jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)]
  return jnp.asarray(jnp.concatenate(features, axis=1), dtype)[None]


def get_posemb(
  self: nn.Module,
  typ: str | None,
  seqshape: int | Sequence[int],
  width: int,
  name: str,
  dtype: DType = jnp.float32,
) -> Array:
  """Makes positional embeddings, a parameter of the calling module if learned.

  Args:
    self: linen module that will own the parameter.
    typ: str, "learn" or "sincos2d"; None gives zeros.
    seqshape: (h, w), or the number of tokens if they are learned.
    width: int.
    name: str, of the parameter.
    dtype: of the embeddings.

  Returns:
    [1, prod(seqshape), width].

  Raises:
    ValueError: unknown type.
  """
  if typ == "learn":
    return self.param(
      name,
      nn.initializers.normal(stddev=1 / np.sqrt(width)),
      (1, int(np.prod(seqshape)), width),
      dtype,
    )
  if typ == "sincos2d":
    return posemb_sincos_2d(*seqshape, width, dtype=dtype)
  if typ is None:
    return jnp.zeros((1, int(np.prod(seqshape)), width), dtype)
  raise lookup.unknown(
    "positional embedding", typ, ["learn", "sincos2d"], "model.posemb"
  )


def resample(
  posemb: AnyArray,
  size: tuple[int | Array, int | Array],
  *,
  method: str = "linear",
  at: tuple[Array, Array] | None = None,
) -> AnyArray:
  """Resamples a grid of positions.

  Args:
    posemb: [..., n, m, D] array.
    size: (h, w), rows and columns of the new grid. With `at`, two int arrays
      [B], a size for each example.
    method: str, where the new grid lies on the stored one:
      "linear" aligns the outer edges of both grids, as images are resized
        (half-pixel centers), and smooths where the new grid is coarser.
      "corners" aligns the centers of the corners, which keep their values; it
        does not smooth. For arrays on the host, computed in float64.
      "bicubic" as PyTorch without, "bicubic_antialias" with antialiasing, and
        "bicubic_dino" as DINO, whose factor of size is (new + 0.1) / old; on the
        host, too.
    at: (rows [B, T], columns [B, T]) int, which embeddings of the new grids to
      compute, instead of all; only for "linear" and a `posemb` [n, m, D].

  Returns:
    [..., h, w, D], or [B, T, D] with `at`, in the dtype of `posemb`; a NumPy
    array unless "linear".

  Raises:
    ValueError: unknown method.
  """
  if method not in _METHODS:
    raise lookup.unknown("resampling method", method, _METHODS, "method")
  if at is not None:
    return _linear_at(posemb, size, at)
  *batch, n, m, d = posemb.shape
  if method == "linear":
    return jax.image.resize(posemb, (*batch, *size, d), "linear")
  rows, columns = (
    _corner_weights(old, new)
    if method == "corners"
    else _cubic_weights(old, new, method)
    for old, new in ((n, int(size[0])), (m, int(size[1])))
  )
  grid = np.asarray(posemb).astype(np.float64)
  grid = np.einsum("ya,xb,...abd->...yxd", rows, columns, grid, optimize=True)
  return grid.astype(posemb.dtype)


def _corner_weights(num_old, num_new):
  """Computes the matrix [new, old] that samples a line and keeps its ends."""
  at = np.arange(num_new) * ((num_old - 1) / max(num_new - 1, 1))
  distance = np.abs(at[:, None] - np.arange(num_old)[None, :])
  return np.maximum(1.0 - distance, 0.0)


def _cubic_weights(num_old, num_new, method):
  """Computes the matrix [new, old] that samples a line with cubic splines."""
  scale = (num_new + 0.1 * (method == "bicubic_dino")) / num_old
  smooth = method == "bicubic_antialias"
  a = -0.5 if smooth else -0.75  # As PyTorch.
  reach = max(1 / scale, 1.0) if smooth else 1.0
  center = (np.arange(num_new)[:, None] + 0.5) / scale - 0.5
  taps = np.floor(center) + np.arange(
    -np.ceil(2 * reach), np.ceil(2 * reach) + 1
  )
  x = np.abs(center - taps) / reach
  near = ((a + 2) * x - (a + 3)) * x**2 + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  weights = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
  if smooth:  # What lies outside does not count; else it is the border.
    weights *= (taps >= 0) & (taps < num_old)
    weights /= weights.sum(axis=1, keepdims=True)
  out = np.zeros([num_new, num_old])
  at = np.clip(taps, 0, num_old - 1).astype(int)
  np.add.at(out, (np.arange(num_new)[:, None], at), weights)
  return out


def _linear_at(posemb, size, at):
  """Computes some embeddings [B, T, D] of the grids of `jax.image.resize`.

  Here sizes may be traced, and differ between examples.
  """
  n, m, d = posemb.shape
  (height, width), (y, x) = size, at
  rows, columns = _linear_weights(y, height, n), _linear_weights(x, width, m)
  weights = rows[..., :, None] * columns[..., None, :]  # [B, T, n, m]
  out = jnp.matmul(
    weights.reshape(*y.shape, n * m),
    posemb.reshape(n * m, d).astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,  # Else positions blur on TPUs.
  )
  return out.astype(posemb.dtype)


def _linear_weights(index, size, num):
  """Computes weights [B, T, num], float32, of values stretched over `size`."""
  scale = (num / size)[:, None]  # Stored values per patch.
  center = (index + 0.5) * scale - 0.5
  stored = jnp.arange(num, dtype=jnp.float32)[None, None]
  # A triangle; a wider one if patches are further apart than stored values.
  reach = jnp.maximum(scale, 1.0)[:, :, None]
  distance = jnp.abs(center[:, :, None] - stored)
  weights = jnp.maximum(1.0 - distance / reach, 0.0)
  return weights / jnp.sum(weights, axis=-1, keepdims=True)
