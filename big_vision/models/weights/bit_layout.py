"""Lists the tensors of BiT, which transformers and timm name almost alike.

Both add 1e-8 to the variance of weights, and pad with zeros where the stem
pools, in contrast to the published npz files; logits differ by about 0.01.

Reference: Kolesnikov et al. 2019, https://arxiv.org/abs/1912.11370
"""

from collections.abc import Mapping
from typing import Any

from big_vision.models import bit_paper
from big_vision.models.weights import tables, timm_settings

_FIXED = dict(std_eps=1e-8, pool_padding=0.0)

Shapes = Mapping[str, tuple[int, ...]]


def sizes(shapes: Shapes, names: Mapping[str, str]) -> dict[str, Any]:
  """Reads the sizes of a model from the shapes of its tensors.

  Args:
    shapes: name -> shape.
    names: names of the layers, see `table`.

  Returns:
    Arguments of `bit_paper.Model`.

  Raises:
    ValueError: there are no blocks.
  """
  last = names["block"] + "conv3.weight"
  depth = tables.stages(shapes, last)
  stem = timm_settings.shape(shapes, names["stem"] + ".weight", "a BiT")
  return dict(
    depth=depth,
    stem_width=stem[0],
    mid_widths=[shapes[last.format(i, 0)][1] for i in range(len(depth))],
    out_widths=[shapes[last.format(i, 0)][0] for i in range(len(depth))],
    **_FIXED,
  )


def table(
  model: bit_paper.Model, names: Mapping[str, str], window: tuple[int, ...]
) -> tables.Table:
  """Lists the tensors.

  Args:
    model: with the sizes as fields, see `sizes`.
    names: names of the layers `stem`, `block` (a pattern of stage and block),
      `norm` and `head`.
    window: see `tables.dense`, of the head.

  Returns:
    The table.
  """
  conv = lambda name, path, size, *widths: tables.conv(
    name, path, (size, size), *widths, bias=False
  )
  blocks, width, mid_widths, out_widths = model.sizes()
  out = conv(names["stem"], "root_block/conv_root", 7, 3, width)
  for i, depth in enumerate(blocks):
    mid, last = mid_widths[i], out_widths[i]
    for j in range(depth):
      block = [
        *_norm("norm1", "gn1", width),
        *conv("conv1", "conv1", 1, width, mid),
        *_norm("norm2", "gn2", mid),
        *conv("conv2", "conv2", 3, mid, mid),
        *_norm("norm3", "gn3", mid),
        *conv("conv3", "conv3", 1, mid, last),
      ]
      if j == 0:
        block += conv("downsample.conv", "conv_proj", 1, width, last)
      name, path = names["block"].format(i, j), f"block{i + 1}/unit{j + 1:02d}/"
      out += tables.within(block, name, path)
      width = last
  out += _norm(names["norm"], "norm-pre-head", width)
  if num := model.num_classes:
    out += tables.dense(names["head"], "head", (width,), (num,), window=window)
  return out


def _norm(name, path, d):
  """Lists a normalization, whose parameters have four dimensions here."""
  return [
    *tables.same(f"{name}.weight", f"{path}/scale", 1, 1, 1, d, there=(d,)),
    *tables.same(f"{name}.bias", f"{path}/bias", 1, 1, 1, d, there=(d,)),
  ]


def check(model: bit_paper.Model, library: str) -> None:
  """Checks that a library computes what a model does.

  Args:
    model: to be written.
    library: for the error.

  Raises:
    ValueError: it standardizes weights or pools in another way.
  """
  timm_settings.check_fixed(model, _FIXED, library)
