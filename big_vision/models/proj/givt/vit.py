"""VAE of two ViTs, for images and for label maps: stage I of GIVT's UViM.

References:
  Tschannen et al. 2023, GIVT, https://arxiv.org/abs/2312.02116
  Kolesnikov et al. 2022, UViM, https://arxiv.org/abs/2205.10337

Shapes: `B` batch, `H, W` image, `N` patches, `n` = code_len, `D` width, `c` size
of a codeword. The names of the modules are the names in checkpoints, and random
keys derive from them and from the order of calls.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import activations, common, fields, patches
from big_vision.models import vit as models_vit
from big_vision.models.proj.givt import vae
from big_vision.models.proj.uvim import bottleneck
from big_vision.types import Array, ConfigLike, Params


class Model(vae.Model):
  """Encodes images or label maps as vectors, and decodes them.

  Attributes:
    codeword_dim: int, c; None means D.
    input_size: (height, width), pixels.
    patch_size: (height, width), pixels.
    width: int, D.
    enc_depth, dec_depth: ints, numbers of blocks.
    mlp_dim: int, hidden width of MLPs; None means 4 D.
    num_heads: int.
    posemb: str, "learn" or "sincos2d".
    dropout: float, rate in encoder and decoder.
    head_zeroinit: bool, whether the kernel of the decoder's head starts as
      zeros.
    bottleneck_resize: bool, whether codes are a square grid that is resized,
      instead of learned combinations of the patches.
    inout_specs: name -> (channel, number of classes) of label maps; None for
      images with three channels. In alphabetical order, as those of a
      ConfigDict are, they are the channels of embedding and head.
    scan, remat_policy: see `vit.Encoder`.
    dtype_mm: str, dtype of the layers but those that make codes and the head;
      parameters are float32.
  """

  input_size: Sequence[int] = (256, 256)
  patch_size: Sequence[int] = (16, 16)
  width: int = 768
  enc_depth: int = 6
  dec_depth: int = 6
  mlp_dim: int | None = None
  num_heads: int = 12
  posemb: str = "learn"
  dropout: float = 0.0
  head_zeroinit: bool = True
  bottleneck_resize: bool = False
  inout_specs: Mapping[str, Sequence[int]] | None = None
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  dtype_mm: str = "float32"

  @property
  def grid(self) -> tuple[int, int]:
    """Numbers of (rows, columns) of patches."""
    (h, w), (p, q) = self.input_size, self.patch_size
    return h // p, w // q

  def setup(self):
    fields.check_dtype(self.dtype_mm, "model.dtype_mm")
    bottleneck.check_dropout(self.code_dropout)
    bottleneck.check_sizes(
      self.input_size, self.patch_size, self.code_len, self.bottleneck_resize
    )
    num, patch = math.prod(self.grid), tuple(self.patch_size)
    # Direct parameters in this order: their random keys depend on it.
    self.pos_embedding_encoder = self._positions("pos_embedding_encoder")
    if not self.bottleneck_resize:
      xavier = nn.initializers.xavier_uniform()
      self.bottleneck_downsample = self.param(
        "bottleneck_downsample", xavier, (num, self.code_len)
      )
      self.bottleneck_upsample = self.param(
        "bottleneck_upsample", xavier, (self.code_len, num)
      )
    self.pos_embedding_decoder = self._positions("pos_embedding_decoder")

    self.embedding = nn.Conv(
      self.width, patch, strides=patch, padding="VALID", dtype=self.dtype_mm
    )
    blocks: dict[str, Any] = dict(
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout=self.dropout,
      scan=self.scan,
      remat_policy=self.remat_policy,
      dtype_mm=self.dtype_mm,
    )
    self.encoder = models_vit.Encoder(depth=self.enc_depth, **blocks)
    self.decoder = models_vit.Encoder(depth=self.dec_depth, **blocks)
    self.encoder_head = nn.Dense(2 * (self.codeword_dim or self.width))
    self.decoder_stem = nn.Dense(self.width, dtype=self.dtype_mm)
    zeros = nn.initializers.zeros
    kernel: dict[str, Any] = (
      {"kernel_init": zeros} if self.head_zeroinit else {}
    )
    channels = sum(n for _, _, n in self._specs()) or 3
    self.decoder_head = nn.Dense(channels * math.prod(patch), **kernel)

  def _positions(self, name):
    """Makes positions of patches [1, N, D]."""
    return models_vit.get_posemb(self, self.posemb, self.grid, self.width, name)

  def _specs(self):
    """Lists (name, channel, number of classes) of label maps."""
    specs = sorted((self.inout_specs or {}).items())
    return [(name, channel, num) for name, (channel, num) in specs]

  def encode(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
    """Encodes images or label maps.

    Args:
      x: [B, H, W, 3]; or labels [B, H, W, C], see `inout_specs`, of which those
        outside of the classes embed as zeros.
      train: turns dropout on.

    Returns:
      (means, logarithms of the variances), both [B, n, c].

    Raises:
      ConfigError: the image has another size or too few channels.
    """
    tokens = activations.patches(self.embedding(self._channels(x)))
    tokens = tokens.reshape(len(x), -1, self.width)
    tokens = tokens + self.pos_embedding_encoder.astype(tokens.dtype)
    tokens, _ = self.encoder(tokens, not train)
    if self.bottleneck_resize:
      tokens = bottleneck.resize(tokens, self.grid, self._code_grid())
    else:
      weights = self.bottleneck_downsample
      tokens = bottleneck.combine("btc,tn->bnc", tokens, weights, self.dtype_mm)
    z = self.encoder_head(jnp.asarray(tokens, jnp.float32))
    mu, logvar = jnp.split(z, 2, axis=-1)
    return mu, logvar

  def _channels(self, x):
    """Checks images, and encodes labels as one channel per class."""
    specs = self._specs()
    size = tuple(self.input_size)
    least = max((channel + 1 for _, channel, _ in specs), default=3)
    if x.ndim != 4 or x.shape[1:3] != size or x.shape[3] < least:
      channels = f"at least {least} channels" if specs else "3 channels"
      raise lookup.ConfigError(
        f"The image has shape {list(x.shape)}, but config.model.input_size is "
        f"{size}, with {channels}: change it, or config.input.pp."
      )
    if not specs:
      return x
    classes = [
      jax.nn.one_hot(x[..., channel].astype(jnp.int32), num)
      for _, channel, num in specs
    ]
    return jnp.concatenate(classes, axis=-1)

  def _code_grid(self):
    """Returns the (rows, columns) of codes."""
    side = math.isqrt(self.code_len)
    return side, side

  def decode(self, z: Array, train: bool = False) -> Array | dict[str, Array]:
    """Decodes images or label maps.

    Args:
      z: [B, n, c].
      train: turns dropout on.

    Returns:
      [B, H, W, 3] in [-1, 1]; or name -> logits [B, H, W, classes].
    """
    tokens = self.decoder_stem(z)
    if self.bottleneck_resize:
      tokens = bottleneck.resize(tokens, self._code_grid(), self.grid)
    else:
      weights = self.bottleneck_upsample
      tokens = bottleneck.combine("bnc,nt->btc", tokens, weights, self.dtype_mm)
    tokens = tokens + self.pos_embedding_decoder.astype(tokens.dtype)
    tokens, _ = self.decoder(tokens, not train)
    x = self.decoder_head(jnp.asarray(tokens, jnp.float32))
    x = patches.unpatchify(x, self.grid, self.patch_size)
    specs = self._specs()
    if not specs:
      return jnp.clip(x, -1, 1)
    ends = [sum(n for _, _, n in specs[:i]) for i in range(1, len(specs))]
    maps = jnp.split(x, ends, axis=-1)
    return {name: y for (name, _, _), y in zip(specs, maps, strict=True)}


def load(
  init_params: Params | None,
  init_file: Any,
  model_params: ConfigLike = None,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads a checkpoint, whether its blocks are stacked or not.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all that
      the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]`, or a Loaded.
    model_params: mapping, `config.model`, or None. Without `init_params` it tells
      whether blocks are stacked; else they stay as they are.
    dont_load: regexes of parameters that keep their initial values.

  Returns:
    Nested dict of parameters.

  Raises:
    ValueError: parameters do not match, see `common.merge_params`.
  """
  scan = None
  if init_params is not None:
    scan = "encoderblock" in init_params["encoder"]
  elif model_params is not None:
    scan = bool(model_params.get("scan"))

  def restack(params):
    if scan is None:
      return params
    new = {
      name: models_vit.restack({"Transformer": params[name]}, scan)
      for name in ("encoder", "decoder")
      if name in params
    }
    return {**params, **{k: v["Transformer"] for k, v in new.items()}}

  return common.load(init_params, init_file, dont_load, restack)
