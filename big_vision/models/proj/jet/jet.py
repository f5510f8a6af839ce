"""Jet: a normalizing flow whose coupling layers are small ViTs.

A coupling layer splits its tokens into two halves, and scales and shifts one of them
by what a ViT computes of the other, so that it can be inverted. The halves are of
the channels, in a random order, or of the positions, in a pattern.

  Kolesnikov et al. 2024, Jet: A Modern Transformer-Based Normalizing Flow,
  https://arxiv.org/abs/2412.15129

Shapes: `B` batch, `n` tokens, `C` channels of a token, `h, w` pixels, `c` colors.
The names of the modules are the names in checkpoints, and random keys derive
from them and from the order of calls.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import common, fields, patches
from big_vision.models.proj.jet.coupling import (
  CHANNELS,
  DNN,
  KINDS,
  SPATIAL,
  Coupling,
)
from big_vision.models.proj.jet.permutations import (
  get_channels_coupling_init,
  get_spatial_coupling_init,
  tokens,
)
from big_vision.models.proj.mae.mae import patchify
from big_vision.types import Array, ConfigLike, Params

__all__ = [
  "Coupling",
  "DNN",
  "MASKS",
  "Model",
  "get_channels_coupling_init",
  "get_spatial_coupling_init",
  "load",
]

# Permutations. They are parameters by name only, and must not be trained.
MASKS = (
  "channel_coupling_masks-FREEZE_ME",
  "spatial_coupling_masks-FREEZE_ME",
)


class Model(nn.Module):
  """Normalizing flow: `forward` from images to noise, `inverse` back.

  Attributes:
    depth: int, number of coupling layers.
    block_depth: int, blocks of the ViT of a layer.
    emb_dim, num_heads: ints, of these ViTs.
    scale_factor: float, the largest scale of a layer.
    ps: int, pixels of the side of a patch.
    channels_coupling_projs: names of the permutations of layers that split
      channels, which take turns: "random".
    spatial_coupling_projs: names of the permutations of layers that split
      positions, which take turns: "checkerboard", "vstripes", "hstripes", and these
      with halves swapped, as in "checkerboard-inv".
    kinds: what layers split, which take turns: "channels" or "spatial".
    dtype_mm: str, dtype of the ViTs; the flow itself is in float32.
  """

  depth: int = 2
  block_depth: int = 1
  emb_dim: int = 256
  num_heads: int = 4
  scale_factor: float = 2.0
  ps: int = 4
  channels_coupling_projs: Sequence[str] = ("random",)
  spatial_coupling_projs: Sequence[str] = ("checkerboard", "checkerboard-inv")
  kinds: Sequence[str] = ("channels", "channels", "spatial")
  dtype_mm: str = "float32"

  def __post_init__(self):
    # So that equal models are equal to `jax.jit`, which hashes them.
    for key in ("channels_coupling_projs", "spatial_coupling_projs", "kinds"):
      object.__setattr__(self, key, tuple(getattr(self, key)))
    super().__post_init__()

  def __call__(
    self, x: Array, context: Array | None = None
  ) -> tuple[Array, Array]:
    """Does the same as `forward`.

    Args:
      x: [B, h, w, c], images.
      context: [B, S, D], or None.

    Returns:
      ([B, h, w, c], log-determinant [B]).
    """
    return self._flow(x, context, False)

  def forward(
    self, x: Array, context: Array | None = None
  ) -> tuple[Array, Array]:
    """Turns images into noise. At first, with scale factor 2, it changes nothing.

    Args:
      x: [B, h, w, c], images.
      context: [B, S, D], what all layers attend to, such as a class; None if the
        flow is not conditional.

    Returns:
      ([B, h, w, c], log-determinant of the Jacobian [B]).

    Raises:
      ConfigError: an unknown kind or permutation, or `ps` does not fit the images.
    """
    return self._flow(x, context, False)

  def inverse(
    self, x: Array, context: Array | None = None
  ) -> tuple[Array, Array]:
    """Turns noise into images.

    Args:
      x: [B, h, w, c], noise.
      context: [B, S, D], see `forward`.

    Returns:
      ([B, h, w, c], log-determinant of the Jacobian of the inverse [B]).

    Raises:
      ConfigError: see `forward`.
    """
    return self._flow(x, context, True)

  @nn.compact
  def _flow(self, x, context, inverse):
    """Applies all layers, or their inverses from the last to the first."""
    shape = x.shape[1:]
    kinds, *projs = self._layers()
    self._check_halves(shape, kinds)
    channel, spatial = (
      self.param(name, init(self.depth, shape, self.ps, names), jnp.float32)
      for name, init, names in zip(
        MASKS,
        (get_channels_coupling_init, get_spatial_coupling_init),
        projs,
        strict=True,
      )
    )
    # A branch that no layer takes costs memory, too.
    same = len(set(kinds)) == 1
    kind = kinds[0] if same else jnp.array(kinds)
    methods = ["forward", "inverse"]
    axes: Any = (nn.broadcast if same else 0, 0, 0, nn.broadcast)
    layer = nn.remat(
      Coupling,
      prevent_cse=False,  # Scan itself prevents it.
      policy=jax.checkpoint_policies.nothing_saveable,
      static_argnums=(2,) if same else (),  # `kind`; 0 is self.
      methods=methods,
    )
    layers = nn.scan(
      layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=axes,
      length=self.depth,
      reverse=inverse,
      methods=methods,
    )(
      depth=self.block_depth,
      emb_dim=self.emb_dim,
      num_heads=self.num_heads,
      scale_factor=self.scale_factor,
      dtype_mm=self.dtype_mm,
      name="couplings",
    )
    apply = layers.inverse if inverse else layers.forward
    x = patchify(x, (self.ps, self.ps))
    x, logdets = apply(x, kind, channel, spatial, context)
    grid = (shape[0] // self.ps, shape[1] // self.ps)
    x = patches.unpatchify(x, grid, (self.ps, self.ps))
    return x, jnp.sum(logdets, axis=0)

  def _layers(self):
    """Returns indices of kinds, names of channel and of spatial permutations."""
    projs = {
      SPATIAL: self.spatial_coupling_projs,
      CHANNELS: self.channels_coupling_projs,
    }
    key = f"{fields.key(self)}.kinds"
    if not self.kinds:
      raise lookup.ConfigError(
        f"config.{key} is empty: use for example {KINDS}."
      )
    for kind in self.kinds:
      if kind not in projs:
        raise lookup.unknown("kind", kind, KINDS, key, lookup.ConfigError)
      if not projs[kind]:
        raise lookup.ConfigError(
          f"config.{fields.key(self)}.{kind}_coupling_projs is empty, but layers "
          f"of kind {kind!r} need a permutation."
        )
    turns = {kind: itertools.cycle(names) for kind, names in projs.items()}
    kinds = list(itertools.islice(itertools.cycle(self.kinds), self.depth))
    names = lambda of: [next(turns[of]) if k == of else "zero" for k in kinds]
    return (
      [KINDS.index(k) for k in kinds],
      names(CHANNELS),
      names(SPATIAL),
    )

  def _check_halves(self, shape, kinds):
    """Refuses tokens that have no halves."""
    num, size = tokens(shape, self.ps)
    where = f"config.{fields.key(self)}"
    if size % 2:
      raise lookup.ConfigError(
        f"{where}.ps={self.ps}: patches of {shape[-1]} channels have {size} "
        "values, which have no halves. Use an even ps."
      )
    if num % 2 and KINDS.index(SPATIAL) in kinds:
      raise lookup.ConfigError(
        f"{where}.kinds: {num} patches have no halves. Use images of an even "
        f"number of patches, or kinds=({CHANNELS!r},) only."
      )


def load(
  init_params: Params | None,
  init_files: Any,
  model_params: ConfigLike | None = None,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads a flow.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all that
      the checkpoint has.
    init_files: path of a checkpoint.
    model_params: mapping, `config.model`; not used.
    dont_load: regexes of parameters that keep their initial values.

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of
    `init_params`.

  Raises:
    ValueError: parameters do not match, see `common.merge_params`.
  """
  del model_params
  return common.load(init_params, init_files, dont_load)
