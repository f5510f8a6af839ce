"""ResNet with GroupNorm and weight standardization: BiT in the v1 order.

Activations follow the convolutions (post-activation bottlenecks);
`models/bit_paper.py` is the architecture of the published checkpoints.

References:
  Kolesnikov et al. 2019, https://arxiv.org/abs/1912.11370
  He et al. 2015 (ResNet), https://arxiv.org/abs/1512.03385
  Qiao et al. 2019 (weight standardization), https://arxiv.org/abs/1903.10520

Shapes: `B` batch, `H, W` image, `h, w` feature map, `C` channels.
The names of the modules are the names in checkpoints, and random keys derive
from them.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from big_vision import trees
from big_vision.models import common, convnet
from big_vision.models.convnet import get_block_desc
from big_vision.types import Array, ConfigLike, Params

__all__ = [
  "Model",
  "ResNetStage",
  "ResidualUnit",
  "StdConv",
  "fix_old_checkpoints",
  "get_block_desc",
  "load",
  "weight_standardize",
]


def weight_standardize(
  w: Array, axis: int | Sequence[int], eps: float
) -> Array:
  """Subtracts the mean and divides by the standard deviation plus `eps`.

  Args:
    w: array.
    axis: int or sequence of int, what mean and deviation are taken over.
    eps: float.

  Returns:
    Array of the same shape.
  """
  axis = tuple(axis) if isinstance(axis, Sequence) else axis
  w = w - jnp.mean(w, axis=axis, keepdims=True)
  return w / (jnp.std(w, axis=axis, keepdims=True) + eps)


class StdConv(convnet.StdConv):
  """Convolution with standardized weights."""

  def standardize(self, kernel: Array) -> Array:
    """Standardizes a kernel for use.

    Args:
      kernel: [h, w, C_in, C_out].

    Returns:
      Array of the same shape.
    """
    return weight_standardize(kernel, axis=(0, 1, 2), eps=1e-5)


class ResidualUnit(nn.Module):
  """Bottleneck block with normalization and activation after the convolutions.

  Attributes:
    nmid: int, channels inside; None means a quarter of the input's.
    nout: int, channels of the output; None means four times `nmid`.
    strides: (int, int), of the 3x3 convolution and the shortcut.
    dtype_mm: str, dtype of the computation; None means that of the input.
    project: bool, makes a convolution in the shortcut also where the shapes of
      input and output are the same.
  """

  nmid: int | None = None
  strides: Sequence[int] = (1, 1)
  dtype_mm: str | None = None
  nout: int | None = None
  project: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Applies the block.

    Args:
      x: [B, h, w, C].

    Returns:
      [B, h / strides, w / strides, nout].
    """
    nmid = self.nmid or x.shape[-1] // 4
    nout = self.nout or 4 * nmid
    strides = tuple(self.strides)
    conv = functools.partial(StdConv, use_bias=False, dtype=self.dtype_mm)
    norm = functools.partial(nn.GroupNorm, dtype=self.dtype_mm)

    shortcut = x
    if self.project or x.shape[-1] != nout or strides != (1, 1):
      shortcut = conv(nout, (1, 1), strides, name="conv_proj")(x)
      shortcut = norm(name="gn_proj")(shortcut)

    y = conv(nmid, (1, 1), name="conv1")(x)
    y = nn.relu(norm(name="gn1")(y))
    y = conv(nmid, (3, 3), strides, name="conv2")(y)
    y = nn.relu(norm(name="gn2")(y))
    y = conv(nout, (1, 1), name="conv3")(y)
    # Each block starts as its shortcut.
    y = norm(name="gn3", scale_init=nn.initializers.zeros)(y)
    return nn.relu(shortcut + y)


class ResNetStage(nn.Module):
  """Blocks of one width, of which the first may reduce the resolution.

  Attributes:
    block_size: int, number of blocks.
    first_stride: (int, int), of the first block.
    nmid: int, channels inside the blocks.
    dtype_mm: str, see `ResidualUnit`.
    nout: int, channels of the output; None means four times `nmid`.
  """

  block_size: int
  first_stride: Sequence[int] = (1, 1)
  nmid: int | None = None
  dtype_mm: str | None = None
  nout: int | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Applies the blocks.

    Args:
      x: [B, h, w, C].

    Returns:
      [B, h / stride, w / stride, nout].
    """
    for i in range(self.block_size):
      x = ResidualUnit(
        nmid=self.nmid,
        strides=(1, 1) if i else self.first_stride,
        dtype_mm=self.dtype_mm,
        nout=self.nout,
        project=i == 0 and self.nout is not None,
        name=f"unit{i + 1}",
      )(x)
    return x


class Model(convnet.ResNet):
  """ResNet, activated after the convolutions; `ResNet` lists the attributes."""

  def stem(self, image: Array, width: int) -> Array:
    """Applies the first convolution, normalization, and pooling.

    Args:
      image: [B, H, W, 3].
      width: int, number of output channels.

    Returns:
      [B, H / 4, W / 4, width].
    """
    x = StdConv(
      width,
      (7, 7),
      (2, 2),
      use_bias=False,
      dtype=self.dtype_mm,
      name="conv_root",
    )(image)
    x = nn.relu(nn.GroupNorm(dtype=self.dtype_mm, name="gn_root")(x))
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")

  def stage(self, x: Array, name: str, **kw: Any) -> tuple[Array, Any]:
    """Applies the blocks of one stage.

    Args:
      x: [B, h, w, C].
      name: str, of the module.
      **kw: fields of `ResNetStage`.

    Returns:
      (result, result): the stage has no other intermediates.
    """
    x = ResNetStage(name=name, **kw)(x)
    return x, x


_NORMS = {"gn_root", "gn_proj", "gn1", "gn2", "gn3"}


def fix_old_checkpoints(params: Mapping[str, Any]) -> Params:
  """Converts earlier layouts to the current one.

  Args:
    params: nested mapping, the parameters.

  Returns:
    Nested dict: modules are numbered as in linen, and parameters of
    normalizations have one dimension instead of [1, 1, 1, C].
  """
  params = common.convert_pre_linen(params)
  named, _ = trees.tree_flatten_with_names(params)
  return trees.recover_tree(
    [name for name, _ in named],
    [
      x.reshape(-1) if x.ndim > 1 and _NORMS & set(name.split("/")) else x
      for name, x in named
    ],
  )


def load(
  init_params: Params | None,
  init_file: str,
  model_cfg: ConfigLike,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads a checkpoint, also one of an earlier layout.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]`.
    model_cfg: not used.
    dont_load: regexes of parameters that keep their initial values.

  Returns:
    Nested dict of parameters, see `common.load`.

  Raises:
    ValueError: parameters do not match, see `common.merge_params`.
  """
  del model_cfg
  return common.load(init_params, init_file, dont_load, fix_old_checkpoints)
