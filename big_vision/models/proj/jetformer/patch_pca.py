"""Turns images into sequences of patches, compressed by PCA, and back.

Shapes: `B` batch, `H, W` image, `C` channels, `P` = values of a patch, `n`
patches, `f` = depth_to_seq, `k` components of the PCA, `d` = k / f.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from big_vision import checkpoint_npz, fs, lookup
from big_vision.models.patches import unpatchify
from big_vision.models.proj.givt import vae
from big_vision.models.proj.mae.mae import patchify
from big_vision.types import Array, Key, Params

_LEVEL = 1 / 127.5  # Between two values of a pixel, in [-1, 1].


class Pca(NamedTuple):
  """Holds a PCA of patches.

  Attributes:
    components: float32 [k, P].
    scale: float32 [k], the standard deviation of each.
    mean: float32 [P].
  """

  components: np.ndarray
  scale: np.ndarray
  mean: np.ndarray


class Model(vae.Model):
  """Encodes patches without any parameters.

  Attributes:
    codeword_dim, code_len: not used.
    pca_init_file: str, `.npz` with `components_`, `explained_variance_` and
      `mean_` of scikit-learn's PCA.
    noise_std: float, of the noise of `reparametrize`; 0 leaves it out.
    add_dequant_noise: bool, adds noise to pixels, from 0 to their next value,
      of the random keys "dropout".
    input_size: (H, W).
    patch_size: (height, width) of a patch.
    whiten: bool, whether components have a variance of 1.
    depth_to_seq: int, f, so many codes is a patch cut into: of all patches the
      first d components come first.
    skip_pca: bool, takes the values of pixels as they are.
  """

  pca_init_file: str = ""
  noise_std: float = 0.01
  add_dequant_noise: bool = False
  input_size: Sequence[int] = (256, 256)
  patch_size: Sequence[int] = (16, 16)
  whiten: bool = True
  depth_to_seq: int = 1
  skip_pca: bool = False

  def encode(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
    """Encodes images.

    Args:
      x: [B, H, W, C] in [-1, 1].
      train: not used.

    Returns:
      (codes, logarithms of the variances of their noise), both [B, f n, d], or
      [B, n, P] with `skip_pca`.

    Raises:
      ConfigError: images do not have this size, or the PCA does not fit them.
    """
    del train
    grid = self._grid()
    if tuple(x.shape[1:3]) != tuple(self.input_size):
      raise lookup.ConfigError(
        f"config.patch_pca.input_size = {tuple(self.input_size)}, but images "
        f"have the size {x.shape[1:3]}: set it to that."
      )
    if self.add_dequant_noise:
      key = self.make_rng("dropout")
      x += jax.random.uniform(key, x.shape, x.dtype, maxval=_LEVEL)
    x = patchify(x, self.patch_size)
    if self.skip_pca:
      return x, jnp.zeros_like(x)
    pca = self._pca()
    if x.shape[-1] != len(pca.mean):
      raise lookup.ConfigError(
        f"config.patch_pca.pca_init_file={self.pca_init_file!r} is a PCA of "
        f"{len(pca.mean)} values, but a patch has {x.shape[-1]}: use one of "
        "the same patch_size."
      )
    x = _product(x - pca.mean[None, None], pca.components.T)  # [B, n, k]
    if self.whiten:
      x /= np.maximum(pca.scale, np.finfo(np.float32).eps)[None, None]
    x = x.reshape(len(x), math.prod(grid), self.depth_to_seq, -1)
    x = x.swapaxes(1, 2).reshape(len(x), -1, x.shape[-1])
    log_var = 2 * math.log(self.noise_std) if self.noise_std > 0 else 0.0
    return x, jnp.full_like(x, log_var)

  def reparametrize(
    self, mu: Array, logvar: Array, rng: Key | None = None
  ) -> Array:
    """Adds noise to codes, see `vae.Model`; none without `noise_std`."""
    if self.noise_std <= 0:
      return mu
    return super().reparametrize(mu, logvar, rng)

  def decode(self, z: Array, train: bool = False) -> Array:
    """Decodes images.

    Args:
      z: codes [B, f n, d], or [B, n, P] with `skip_pca`.
      train: not used.

    Returns:
      [B, H, W, C] in [-1, 1].
    """
    del train
    grid = self._grid()
    if not self.skip_pca:
      pca = self._pca()
      z = z.reshape(len(z), self.depth_to_seq, math.prod(grid), -1)
      z = z.swapaxes(1, 2).reshape(len(z), math.prod(grid), -1)
      if self.whiten:
        z *= pca.scale[None, None]
      z = _product(z, pca.components) + pca.mean[None, None]
    return jnp.clip(unpatchify(z, grid, self.patch_size), -1, 1)

  def _grid(self):
    """Returns (rows, columns) of patches."""
    (h, w), (p, q) = self.input_size, self.patch_size
    if h % p or w % q:
      raise lookup.ConfigError(
        f"config.patch_pca.patch_size = {(p, q)} does not divide input_size = "
        f"{(h, w)}."
      )
    if self.skip_pca and self.depth_to_seq != 1:
      raise lookup.ConfigError(
        f"config.patch_pca.depth_to_seq = {self.depth_to_seq} needs a PCA, "
        "which skip_pca leaves out: use depth_to_seq = 1."
      )
    return h // p, w // q

  def _pca(self):
    """Returns the PCA."""
    if not self.pca_init_file:
      raise lookup.ConfigError(
        "config.patch_pca.pca_init_file is empty: give the path of a PCA, or "
        "set skip_pca = True."
      )
    pca = _read(self.pca_init_file, fs.stamp(self.pca_init_file))
    if len(pca.components) % self.depth_to_seq:
      raise lookup.ConfigError(
        f"config.patch_pca.depth_to_seq = {self.depth_to_seq} does not divide "
        f"the {len(pca.components)} components of {self.pca_init_file!r}."
      )
    return pca


@functools.lru_cache(maxsize=4)
def _read(path, stamp):
  """Reads a PCA; the stamp tells versions of the file apart."""
  del stamp
  loaded: Any = checkpoint_npz.npload(path)
  names = ("components_", "explained_variance_", "mean_")
  missing = [
    k for k in names if not hasattr(loaded, "items") or k not in loaded
  ]
  if missing:
    raise lookup.ConfigError(
      f"config.patch_pca.pca_init_file={path!r} has no {', '.join(missing)}: "
      "save these attributes of sklearn.decomposition.PCA with numpy.savez."
    )
  components, variance, mean = (loaded[k].astype(np.float32) for k in names)
  return Pca(components, np.sqrt(variance), mean)


def _product(x, matrix):
  """Multiplies exactly, so that codes can be decoded."""
  return jnp.einsum("bni,ij->bnj", x, matrix, precision="highest")


def load(*args: Any, **kw: Any) -> Params:
  """Returns no parameters: there are none.

  Args:
    *args: not used.
    **kw: not used.

  Returns:
    {}.
  """
  del args, kw
  return {}
