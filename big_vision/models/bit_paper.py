"""BiT as published: ResNet v2 with GroupNorm and weight standardization.

Normalization and activation come before the convolutions. `load` accepts the
names that the paper gives to the published checkpoints.

References:
  Kolesnikov et al. 2019 (BiT), https://arxiv.org/abs/1912.11370
  Beyer et al. 2021 (FunMatch), https://arxiv.org/abs/2106.05237

Shapes: `B` batch, `H, W` image, `h, w` feature map, `C` channels.
The names of the modules are the names in checkpoints, and random keys derive
from them.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from absl import logging
from jax import lax

from big_vision import lookup, trees
from big_vision.models import common, convnet
from big_vision.types import Array, ConfigLike, Params


def standardize(x: Array, axis: int | Sequence[int], eps: float) -> Array:
  """Subtracts the mean and divides by the root of the variance plus `eps`.

  Args:
    x: array.
    axis: int or sequence of int, what mean and variance are taken over.
    eps: float.

  Returns:
    Array of the same shape.
  """
  axis = tuple(axis) if isinstance(axis, Sequence) else axis
  x = x - jnp.mean(x, axis=axis, keepdims=True)
  return x * lax.rsqrt(jnp.mean(x * x, axis=axis, keepdims=True) + eps)


class GroupNorm(nn.Module):
  """Normalization over positions and groups of channels.

  Parameters have the shape [1, 1, 1, C], as in the published checkpoints.

  Attributes:
    ngroups: int, number of groups.
    dtype: str, of the result; statistics are at least float32. None means that
      of the input and the parameters.
  """

  ngroups: int = 32
  dtype: str | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Applies the layer.

    Args:
      x: [B, h, w, C].

    Returns:
      [B, h, w, C].

    Raises:
      ValueError: the channels cannot be divided into the groups.
    """
    num_channels = x.shape[-1]
    if num_channels % self.ngroups:
      raise ValueError(
        f"{num_channels} channels are not divisible into {self.ngroups} groups;"
        " choose config.model.width as a multiple of 0.5, or num_groups."
      )
    shape = (1, 1, 1, num_channels)
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    dtype = self.dtype or jnp.result_type(x, scale, bias)

    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    x = x - self._mean(x)
    scale = scale * lax.rsqrt(self._mean(x * x) + 1e-5)
    return (x * scale + bias).astype(dtype)

  def _mean(self, x):
    """Averages over positions and groups, [B, 1, 1, C]."""
    # Channel by channel first: on CPU, and in the backward pass, that is up to
    # five times as fast as one reduction of [B, h, w, groups, C / groups].
    x = jnp.mean(x, axis=(1, 2))
    n, num_channels = x.shape
    size = num_channels // self.ngroups
    x = jnp.mean(x.reshape(n, self.ngroups, size), axis=-1)
    return jnp.repeat(x, size, axis=-1)[:, None, None, :]


class StdConv(convnet.StdConv):
  """Convolution with standardized weights.

  Attributes:
    eps: float, added to the variance of the weights.
  """

  eps: float = 1e-10

  def standardize(self, kernel: Array) -> Array:
    """Standardizes a kernel for use.

    Args:
      kernel: [h, w, C_in, C_out].

    Returns:
      Array of the same shape.
    """
    return standardize(kernel, axis=(0, 1, 2), eps=self.eps)


class RootBlock(nn.Module):
  """The first convolution and pooling, which quarter the resolution.

  Attributes:
    width: int, channels.
    dtype_mm: str, dtype of the computation; None means that of the input.
    std_eps: float, see `StdConv.eps`.
    pool_padding: float, what stands beyond the border in pooling.
  """

  width: int
  dtype_mm: str | None = None
  std_eps: float = 1e-10
  pool_padding: float = -math.inf

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Applies the block.

    Args:
      x: [B, H, W, 3].

    Returns:
      [B, H / 4, W / 4, width].
    """
    x = StdConv(
      self.width,
      (7, 7),
      (2, 2),
      padding=((3, 3), (3, 3)),
      use_bias=False,
      dtype=self.dtype_mm,
      eps=self.std_eps,
      name="conv_root",
    )(x)
    border = ((1, 1), (1, 1))
    if self.pool_padding != -math.inf:
      x = jnp.pad(
        x, ((0, 0), *border, (0, 0)), constant_values=self.pool_padding
      )
      border = "VALID"
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=border)


class ResidualUnit(nn.Module):
  """Bottleneck block with normalization and activation before the convolutions.

  Attributes:
    nmid: int, channels inside; None means a quarter of the input's.
    nout: int, channels of the output; None means four times `nmid`.
    strides: (int, int), of the 3x3 convolution and the shortcut.
    dtype_mm: str, dtype of the computation; None means that of the input.
    project: bool, makes a convolution in the shortcut also where the shapes of
      input and output are the same.
    num_groups: int, of channels that are normalized together.
    std_eps: float, see `StdConv.eps`.
  """

  nmid: int | None = None
  strides: Sequence[int] = (1, 1)
  dtype_mm: str | None = None
  nout: int | None = None
  project: bool = False
  num_groups: int = 32
  std_eps: float = 1e-10

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
    conv = functools.partial(
      StdConv, use_bias=False, dtype=self.dtype_mm, eps=self.std_eps
    )
    norm = functools.partial(GroupNorm, self.num_groups, dtype=self.dtype_mm)

    y = nn.relu(norm(name="gn1")(x))
    shortcut = x
    if self.project or x.shape[-1] != nout or strides != (1, 1):
      shortcut = conv(nout, (1, 1), strides, name="conv_proj")(y)

    y = conv(nmid, (1, 1), name="conv1")(y)
    y = nn.relu(norm(name="gn2")(y))
    y = conv(nmid, (3, 3), strides, padding=((1, 1), (1, 1)), name="conv2")(y)
    y = nn.relu(norm(name="gn3")(y))
    return conv(nout, (1, 1), name="conv3")(y) + shortcut


class ResNetStage(nn.Module):
  """Blocks of one width, of which the first may reduce the resolution.

  Attributes:
    block_size: int, number of blocks.
    nmid: int, channels inside the blocks.
    first_stride: (int, int), of the first block.
    dtype_mm: str, see `ResidualUnit`.
    nout: int, channels of the output; None means four times `nmid`.
    num_groups: int, see `ResidualUnit`.
    std_eps: float, see `ResidualUnit`.
  """

  block_size: int
  nmid: int | None = None
  first_stride: Sequence[int] = (1, 1)
  dtype_mm: str | None = None
  nout: int | None = None
  num_groups: int = 32
  std_eps: float = 1e-10

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
    """Applies the blocks.

    Args:
      x: [B, h, w, C].

    Returns:
      ([B, h / stride, w / stride, nout], dict with the result of each
      unit).
    """
    out = {}
    for i in range(self.block_size):
      name = f"unit{i + 1:02d}"
      x = out[name] = ResidualUnit(
        nmid=self.nmid,
        strides=(1, 1) if i else self.first_stride,
        dtype_mm=self.dtype_mm,
        nout=self.nout,
        project=i == 0 and self.nout is not None,
        num_groups=self.num_groups,
        std_eps=self.std_eps,
        name=name,
      )(x)
    return x, out


class Model(convnet.ResNet):
  """ResNet v2, activated before convolutions; `ResNet` lists more attributes.

  Attributes:
    num_groups: int, of channels that are normalized together.
    std_eps: float, added to the variance of weights; 1e-8 in timm and
      transformers.
    pool_padding: float, what stands beyond the border where the stem pools; 0
      in timm and transformers.
  """

  num_groups: int = 32
  std_eps: float = 1e-10
  pool_padding: float = -math.inf

  def stem(self, image: Array, width: int) -> Array:
    """Applies the first convolution and pooling.

    Args:
      image: [B, H, W, 3].
      width: int, number of output channels.

    Returns:
      [B, H / 4, W / 4, width].
    """
    return RootBlock(
      width,
      dtype_mm=self.dtype_mm,
      std_eps=self.std_eps,
      pool_padding=self.pool_padding,
      name="root_block",
    )(image)

  def stage(self, x: Array, name: str, **kw: Any) -> tuple[Array, Any]:
    """Applies the blocks of one stage.

    Args:
      x: [B, h, w, C].
      name: str, of the module.
      **kw: fields of `ResNetStage`.

    Returns:
      (result, dict with the result of each block).
    """
    kw |= dict(num_groups=self.num_groups, std_eps=self.std_eps)
    return ResNetStage(name=name, **kw)(x)

  def finish(self, x: Array, out: dict[str, Any]) -> Array:
    """Applies the last normalization and activation.

    Args:
      x: [B, h, w, C].
      out: dict of intermediates, gets `norm_pre_head`.

    Returns:
      [B, h, w, C].
    """
    x = GroupNorm(self.num_groups, dtype=self.dtype_mm, name="norm-pre-head")(x)
    out["norm_pre_head"] = x
    return nn.relu(x)


_SIZES = ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4")

# Names of public checkpoints; `load` also takes the names of the paper.
VANITY_NAMES = {
  "FunMatch-224px-i1k82.8": "gs://bit_models/distill/R50x1_224.npz",
  "FunMatch-160px-i1k80.5": "gs://bit_models/distill/R50x1_160.npz",
}


def load(
  init_params: Params | None,
  init_file: str,
  model_cfg: ConfigLike,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads a checkpoint; published ones are converted from their own format.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]`; or one of `VANITY_NAMES`; or a
      model of the paper: "L", "M" or "S" for the data of the pre-training,
      possibly followed by the data of the fine-tuning, as in "M-imagenet2012"
      or "M-run0-caltech101".
    model_cfg: mapping with `depth` and `width` of the paper's model, or None.
    dont_load: regexes of parameters that keep their initial values.

  Returns:
    Nested dict of parameters, see `common.load`.

  Raises:
    ValueError: a model of the paper that was not published in this size, or
      parameters do not match, see `common.merge_params`.
  """
  # The names of the paper have no slash, paths must have one.
  name = init_file if isinstance(init_file, str) else ""  # May be loaded.
  if match := re.fullmatch(r"([LMS])(-[\w-]+)?", name):
    init_file = _paper_file(match[1], match[2] or "", model_cfg or {})
  init_file = VANITY_NAMES.get(init_file, init_file)
  return common.load(
    init_params, init_file, dont_load, maybe_convert_big_transfer_format
  )


def _paper_file(upstream, downstream, model_cfg):
  """Returns the path of a model of the paper."""
  depth, width = model_cfg.get("depth", 50), model_cfg.get("width", 1)
  is_number = isinstance(width, int | float)
  size = f"R{depth}x{width:g}" if is_number else f"R{depth}x{width}"
  if size not in _SIZES:
    raise lookup.unknown(
      "size of a published BiT", size, _SIZES, "model.{depth,width}"
    )
  if downstream == "-imagenet2012":
    downstream = "-ILSVRC2012"
  return f"gs://bit_models/BiT-{upstream}-{size}{downstream}.npz"


_NUMBER = {"a": 1, "b": 2, "c": 3}
_AFFINE = {"beta": "bias", "gamma": "scale"}
_UNIT = r"(block[1-4]/unit\d+)"
# Names in the published files (regex), and what `Model` calls them.
_CONVERSION = {
  r"root_block/standardized_conv2d/kernel": (
    lambda m: "root_block/conv_root/kernel"
  ),
  r"group_norm/(beta|gamma)": lambda m: f"norm-pre-head/{_AFFINE[m[1]]}",
  r"head/conv2d/(kernel|bias)": lambda m: f"head/{m[1]}",
  _UNIT + r"/([abc])/standardized_conv2d/kernel": (
    lambda m: f"{m[1]}/conv{_NUMBER[m[2]]}/kernel"
  ),
  _UNIT + r"/([abc])/group_norm/(beta|gamma)": (
    lambda m: f"{m[1]}/gn{_NUMBER[m[2]]}/{_AFFINE[m[3]]}"
  ),
  _UNIT + r"/a/proj/.*": lambda m: f"{m[1]}/conv_proj/kernel",
}


def maybe_convert_big_transfer_format(tree: Mapping[str, Any]) -> Params:
  """Converts parameters from the format of the published checkpoints.

  Args:
    tree: nested mapping. Without a root key `resnet` it is returned as it is.

  Returns:
    Nested dict, parameters of `Model`.
  """
  if "resnet" not in tree:
    return tree
  names, values = [], []
  for name, x in trees.tree_flatten_with_names(tree["resnet"])[0]:
    new = _convert_name(name)
    if new is None:
      logging.warning("BiT checkpoint: ignoring resnet/%s.", name)
      continue
    if re.search(r"\b(gn\d|norm-pre-head)/", new):
      x = x.reshape(1, 1, 1, -1)
    elif new == "head/kernel":
      x = x.reshape(x.shape[-2:])  # It was a 1x1 convolution.
    names.append(new)
    values.append(x)
  return trees.recover_tree(names, values)


def _convert_name(name):
  """Converts a name to that in `Model`; None if it has no counterpart."""
  # Convolutions were numbered over the whole network.
  name = re.sub(r"\bstandardized_conv2d_\d+/", "standardized_conv2d/", name)
  for pattern, new in _CONVERSION.items():
    if match := re.fullmatch(pattern, name):
      return new(match)
  return None
