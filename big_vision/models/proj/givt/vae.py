"""VAEs that turn images into short sequences of real vectors, and back.

References:
  Tschannen et al. 2023, GIVT, https://arxiv.org/abs/2312.02116
  Kingma & Welling 2013, VAE, https://arxiv.org/abs/1312.6114

Shapes: `B` batch, `H, W` image, `C` channels, `n` = code_len, `c` size of a
codeword.
"""

import abc
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models.proj.uvim import bottleneck
from big_vision.types import Array


class Model(nn.Module, abc.ABC):
  """Shared by all such VAEs; encoder and decoder are those of a subclass.

  Attributes:
    codeword_dim: int, c.
    code_len: int, n.
    code_dropout: str, how the decoder's codes are left out in training: "none",
      "seq" the last ones, "random" any.
  """

  codeword_dim: int | None = None
  code_len: int = 256
  code_dropout: str = "none"

  @abc.abstractmethod
  def encode(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
    """Encodes images.

    Args:
      x: [B, H, W, C].
      train: turns dropout on.

    Returns:
      (means, logarithms of the variances) of the codes, both [B, n, c].
    """

  @abc.abstractmethod
  def decode(
    self, z: Array, train: bool = False
  ) -> Array | Mapping[str, Array]:
    """Decodes images.

    Args:
      z: [B, n, c].
      train: turns dropout on.

    Returns:
      [B, H, W, C], or name -> [B, H, W, classes].
    """

  def reparametrize(
    self, mu: Array, logvar: Array, rng: Array | None = None
  ) -> Array:
    """Draws codes from their distribution.

    Args:
      mu: [B, n, c], means.
      logvar: [B, n, c], logarithms of the variances.
      rng: random key; None takes the next one of "dropout".

    Returns:
      [B, n, c].
    """
    rng = self.make_rng("dropout") if rng is None else rng
    noise = jax.random.normal(rng, mu.shape, mu.dtype)
    return mu + jnp.exp(logvar / 2) * noise

  def code_dropout_fn(self, z: Array, *, train: bool = False) -> Array:
    """Sets codes to zero, later ones more often.

    Args:
      z: [B, n, c].
      train: whether to do so.

    Returns:
      [B, n, c].

    Raises:
      ConfigError: unknown `code_dropout`, or the length is not `code_len`.
    """
    bottleneck.check_dropout(self.code_dropout)
    if not train or self.code_dropout == "none":
      return z
    if z.shape[1] != self.code_len:
      raise lookup.ConfigError(
        f"config.model.code_len={self.code_len}, but images have {z.shape[1]} "
        "codes: set it to that."
      )
    kept = bottleneck.kept_codes(
      lambda: self.make_rng("dropout"), self.code_dropout, len(z), self.code_len
    )
    return z * kept[..., None]

  def __call__(
    self, x: Array, *, train: bool = False
  ) -> tuple[Array | Mapping[str, Array], dict[str, Any]]:
    """Encodes and decodes images.

    Args:
      x: [B, H, W, C].
      train: draws codes and turns dropout on; else codes are the means.

    Returns:
      (what `decode` returns, out): `out` has `mu`, `logvar` and `z`, what the
      decoder sees, all [B, n, c].
    """
    mu, logvar = self.encode(x, train=train)
    z = self.reparametrize(mu, logvar) if train else mu
    z = self.code_dropout_fn(z, train=train)
    out = {"mu": mu, "logvar": logvar, "z": z}
    return self.decode(z, train=train), out
