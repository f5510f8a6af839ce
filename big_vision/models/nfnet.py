"""NFNet: a residual network without normalization of activations.

Variances are kept in check by construction: convolutions have standardized
kernels, activation functions are scaled to keep the variance, and residual
branches are scaled by what the variance is expected to be.

References:
  Brock et al. 2021a (signal propagation), https://arxiv.org/abs/2101.08692
  Brock et al. 2021b (NFNet), https://arxiv.org/abs/2102.06171
  De and Smith 2020 (SkipInit), https://arxiv.org/abs/2002.10444

Shapes: `B` batch, `H, W` image, `h, w` feature map, `C` channels.
The names of the modules are the names in checkpoints, and random keys derive
from them.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import common, convnet, fields
from big_vision.models.nfnet_layers import (
  GELU_GAIN,
  ScaledStdConv,
  SqueezeExcite,
  scaled_gelu,
)
from big_vision.types import Array, ConfigLike, Params

__all__ = [
  "GELU_GAIN",
  "RESOLUTIONS",
  "Block",
  "Model",
  "ScaledStdConv",
  "SqueezeExcite",
  "Stage",
  "Stem",
  "decode_variant",
  "expected_stds",
  "load",
  "scaled_gelu",
]


class Block(nn.Module):
  """Residual bottleneck h + alpha * f(h / beta).

  Attributes:
    width: int, channels of the output.
    beta: float, expected standard deviation of the input.
    alpha: float, scale of the residual branch.
    stride: int, of the first 3x3 convolution and the shortcut.
    bottleneck: float, channels inside divided by `width`.
    group_size: int, channels of a group of the 3x3 convolutions.
    se_ratio: float, see `SqueezeExcite`.
    drop_p: float, probability to skip the residual branch, per example.
    dtype_mm: str, dtype of the computation; None is that of the input.
    mid_width: int, channels inside, instead of `bottleneck`.
    se_width: int, hidden width of `SqueezeExcite`, instead of `se_ratio`.
    std_eps: float, see `ScaledStdConv`.
    exact_gelu: bool, see `Model`.
    beta_last: bool, see `Model`.
  """

  width: int
  beta: float
  alpha: float
  stride: int = 1
  bottleneck: float = 0.5
  group_size: int = 128
  se_ratio: float = 0.5
  drop_p: float = 0.0
  dtype_mm: str | None = None
  mid_width: int | None = None
  se_width: int | None = None
  std_eps: float | None = None
  exact_gelu: bool = False
  beta_last: bool = False

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """Applies the block.

    Args:
      x: [B, h, w, C].
      train: bool, turns stochastic depth on.

    Returns:
      [B, h / stride, w / stride, width].
    """
    mid = self.mid_width or int(self.width * self.bottleneck)
    num_groups = max(1, mid // self.group_size)
    mid = num_groups * self.group_size
    strides = (self.stride, self.stride)
    conv = functools.partial(
      ScaledStdConv, dtype=self.dtype_mm, std_eps=self.std_eps
    )
    act = functools.partial(scaled_gelu, approximate=not self.exact_gelu)
    conv3x3 = functools.partial(
      conv, mid, (3, 3), feature_group_count=num_groups
    )

    # As in the paper; the authors' code divides by beta after the activation.
    y = act(x) / self.beta if self.beta_last else act(x / self.beta)
    shortcut = x
    if self.stride > 1 or x.shape[-1] != self.width:
      shortcut = y
      if self.stride > 1:
        shortcut = nn.avg_pool(
          y, strides, strides, padding="SAME", count_include_pad=False
        )
      shortcut = conv(self.width, (1, 1), name="conv_proj")(shortcut)

    y = conv(mid, (1, 1), name="conv1")(y)
    y = conv3x3(strides=strides, name="conv2")(act(y))
    y = conv3x3(name="conv3")(act(y))
    y = conv(self.width, (1, 1), name="conv4")(act(y))
    se = SqueezeExcite(self.se_ratio, self.dtype_mm, self.se_width, name="se")
    y = y * se(y)

    if train and self.drop_p:
      rng = self.make_rng("dropout")
      drop = jax.random.bernoulli(rng, self.drop_p, (len(y), 1, 1, 1))
      # As the authors do it, what stays is not divided by its probability.
      y = jnp.where(drop, 0, y)
    # Each block starts as its shortcut.
    gain = self.param("skip_gain", nn.initializers.zeros, ())
    return shortcut + y * (self.alpha * gain).astype(y.dtype)


class Stem(nn.Module):
  """Four 3x3 convolutions, which quarter the resolution.

  Attributes:
    widths: channels of each.
    dtype_mm: str, dtype of the computation; None means that of the input.
    std_eps: float, see `ScaledStdConv`.
    exact_gelu: bool, see `Model`.
  """

  widths: Sequence[int]
  dtype_mm: str | None = None
  std_eps: float | None = None
  exact_gelu: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Applies the convolutions.

    Args:
      x: [B, H, W, 3].

    Returns:
      [B, H / 4, W / 4, widths[-1]].
    """
    for i, width in enumerate(self.widths):
      strides = (2, 2) if i in (0, len(self.widths) - 1) else (1, 1)
      x = ScaledStdConv(
        width,
        (3, 3),
        strides,
        dtype=self.dtype_mm,
        std_eps=self.std_eps,
        name=f"conv{i + 1}",
      )(x if i == 0 else scaled_gelu(x, not self.exact_gelu))
    return x


class Stage(nn.Module):
  """Blocks of one width.

  Attributes:
    betas: expected standard deviation of the input of each block.
    drop_ps: probability to skip each block.
    stride: int, of the first block.
    block: dict, other fields of `Block`.
  """

  betas: Sequence[float]
  drop_ps: Sequence[float]
  stride: int
  block: dict

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """Applies the blocks.

    Args:
      x: [B, h, w, C].
      train: bool, turns stochastic depth on.

    Returns:
      [B, h / stride, w / stride, width].
    """
    for i, (beta, p) in enumerate(zip(self.betas, self.drop_ps, strict=True)):
      x = Block(
        beta=beta,
        drop_p=p,
        stride=1 if i else self.stride,
        name=f"block{i + 1}",
        **self.block,
      )(x, train=train)
    return x


class _Model(nn.Module):
  """NFNet; `Model` lists the fields."""

  num_classes: int | None = None
  width: Sequence[int] = (256, 512, 1536, 1536)
  depth: Sequence[int] = (1, 2, 6, 3)
  group_size: int = 128
  bottleneck: float = 0.5
  se_ratio: float = 0.5
  alpha: float = 0.2
  stoch_depth: float = 0.25
  dropout: float = 0.0
  head_zeroinit: bool = True
  dtype_mm: str | None = None
  stem_widths: Sequence[int] | None = None
  mid_widths: Sequence[int] | None = None
  se_widths: Sequence[int] | None = None
  final_width: int | None = None
  std_eps: float | None = None
  exact_gelu: bool = False
  beta_last: bool = False

  # The fields that `sizes` returns in another form.
  SIZES = (
    *("stem_widths", "mid_widths", "se_widths", "final_width"),
    *("bottleneck", "se_ratio"),
  )

  def sizes(self) -> tuple[Sequence[int], Sequence[int], Sequence[int], int]:
    """Computes the widths that several fields tell.

    Returns:
      (channels of the convolutions of the stem, channels inside the blocks of
      each stage, hidden widths of squeeze-excite, channels of the last
      convolution).
    """
    stem = self.stem_widths or [
      max(1, self.width[0] // n) for n in (16, 8, 4, 2)
    ]
    size = self.group_size
    mid = self.mid_widths or [
      size * max(1, int(width * self.bottleneck) // size)
      for width in self.width
    ]
    se = self.se_widths or [max(1, int(n * self.se_ratio)) for n in self.width]
    return stem, mid, se, self.final_width or 2 * self.width[-1]

  @nn.compact
  def __call__(
    self, image: Array, *, train: bool = False
  ) -> tuple[Array, dict[str, Any]]:
    """Applies the model.

    Args:
      image: [B, H, W, 3], of about variance 1.
      train: bool, turns dropout and stochastic depth on.

    Returns:
      (x, out): x is [B, num_classes], or [B, C] without classes; out is a dict
        of
      named intermediates.

    Raises:
      ValueError: `width` and `depth` differ in their number of stages.
    """
    for name in ("width", "mid_widths", "se_widths"):
      widths = getattr(self, name)
      if widths is not None and len(widths) != len(self.depth):
        raise ValueError(
          f"config.model.{name}={tuple(widths)} and config.model.depth="
          f"{tuple(self.depth)} need one entry per stage each."
        )
    fields.check_dtype(self.dtype_mm, f"{fields.key(self)}.dtype_mm")
    out = {}
    options = dict(std_eps=self.std_eps, exact_gelu=self.exact_gelu)
    stem, mid_widths, se_widths, final_width = self.sizes()
    x = out["stem"] = Stem(stem, self.dtype_mm, **options, name="stem")(image)

    betas = expected_stds(self.depth, self.alpha)
    num_blocks = sum(self.depth)
    start = 0
    for i, (width, depth) in enumerate(
      zip(self.width, self.depth, strict=True)
    ):
      index = range(start, start + depth)
      start += depth
      x = out[f"stage{i + 1}"] = Stage(
        betas=betas[i],
        drop_ps=[self.stoch_depth * n / num_blocks for n in index],
        stride=2 if i else 1,
        block=dict(
          width=width,
          alpha=self.alpha,
          mid_width=mid_widths[i],
          group_size=self.group_size,
          se_width=se_widths[i],
          dtype_mm=self.dtype_mm,
          beta_last=self.beta_last,
          **options,
        ),
        name=f"stage{i + 1}",
      )(x, train=train)

    x = ScaledStdConv(
      final_width,
      (1, 1),
      dtype=self.dtype_mm,
      std_eps=self.std_eps,
      name="final_conv",
    )(x)
    x = out["pre_logits_2d"] = scaled_gelu(x, not self.exact_gelu)
    return convnet.pool_and_classify(
      x,
      self.num_classes,
      self.head_zeroinit,
      out,
      dropout=nn.Dropout(self.dropout, deterministic=not train),
    )


def expected_stds(depth: Sequence[int], alpha: float) -> list[list[float]]:
  """Computes the expected standard deviations of the inputs of all blocks.

  Each block adds alpha^2 to the variance. The first block of a stage has a
  convolution in its shortcut, whose input has variance 1, so the count starts
  again there.

  Args:
    depth: sequence of int, number of blocks of each stage.
    alpha: float, scale of the residual branches.

  Returns:
    List of a list of float for each stage.
  """
  stds, variance = [], 1.0
  for num_blocks in depth:
    stds.append([])
    for i in range(num_blocks):
      stds[-1].append(math.sqrt(variance))
      variance = (variance if i else 1.0) + alpha**2
  return stds


_VARIANTS = {
  # name: (dropout, (pixels of a side in training, in evaluation))
  "F0": (0.2, (192, 256)),
  "F1": (0.3, (224, 320)),
  "F2": (0.4, (256, 352)),
  "F3": (0.4, (320, 416)),
  "F4": (0.5, (384, 512)),
  "F5": (0.5, (416, 544)),
  "F6": (0.5, (448, 576)),
}
RESOLUTIONS = {name: res for name, (_, res) in _VARIANTS.items()}


def Model(
  num_classes: int | None = None, variant: str | None = "F0", **kw: Any
) -> _Model:
  """Makes an NFNet of a named size.

  Args:
    num_classes: int, outputs of the head; None or 0 leaves out the head.
    variant: str, "F0" to "F6", or "mu", a tiny one for tests; None means F0
      without dropout.
    **kw: overrides of the variant, and
      width: channels of each stage.
      depth: number of blocks of each stage.
      group_size: channels of a group of the 3x3 convolutions, default 128.
      bottleneck: channels of these divided by those of the stage, default 0.5.
      se_ratio: hidden width of squeeze-excite divided by that, default 0.5.
      alpha: scale of residual branches, default 0.2.
      stoch_depth: probability to skip a block, which grows from 0 in the first
        block towards this value, default 0.25.
      dropout: rate before the head.
      head_zeroinit: bool, initializes the kernel of the head with zeros.
      dtype_mm: dtype of everything before the head, for example "bfloat16".
        Parameters are float32. None means the dtype of image and parameters.
      stem_widths: channels of the four convolutions of the stem; by default
        fractions of the first width.
      mid_widths: channels inside the blocks of each stage, instead of
        `bottleneck`.
      se_widths: hidden width of squeeze-excite in each stage, instead of
        `se_ratio`.
      final_width: channels of the last convolution, default twice the last
        width.
      std_eps: added to the variance of kernels, 1e-5 in timm; by default a
        lower bound of 1e-4 on the variance * fan-in.
      exact_gelu: whether GELU is exact, as in timm, instead of approximated.
      beta_last: whether the expected standard deviation divides after the
        activation, as in the authors' code and timm, or before it, as in the
        paper.

  Returns:
    The linen module.

  Raises:
    ValueError: unknown variant.
    TypeError: unknown keyword.
  """
  return _Model(num_classes, **{**decode_variant(variant), **kw})


def decode_variant(variant: str | None) -> dict[str, Any]:
  """Decodes the name of a size.

  Args:
    variant: str, "F0" to "F6" or "mu", or None.

  Returns:
    dict, fields of `_Model`; {} for None.

  Raises:
    ValueError: unknown size.
  """
  if variant is None:
    return {}
  if variant == "mu":
    return dict(width=(32, 64, 96, 96), depth=(1, 1, 1, 1), group_size=16)
  if variant not in _VARIANTS:
    raise lookup.unknown(
      "NFNet variant", variant, [*_VARIANTS, "mu"], "model.variant"
    )
  factor = int(variant[1:]) + 1
  dropout, _ = _VARIANTS[variant]
  return dict(depth=tuple(factor * n for n in (1, 2, 6, 3)), dropout=dropout)


def load(
  init_params: Params | None,
  init_file: str,
  model_cfg: ConfigLike,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads a checkpoint, see `common.load`.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoint has.
    init_file: str, a path `<path>[:<sub/tree>]`.
    model_cfg: not used.
    dont_load: regexes of parameters that keep their initial values.

  Returns:
    Nested dict of parameters.

  Raises:
    ValueError: parameters do not match, see `common.merge_params`.
  """
  del model_cfg
  return common.load(init_params, init_file, dont_load)
