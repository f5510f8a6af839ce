"""What the BiTs of transformers and timm share; they name a few layers apart.

Both add 1e-8 to the variance of weights, and pad with zeros where the stem
pools, in contrast to the published npz files; logits differ by about 0.01.

Reference: Kolesnikov et al. 2019, https://arxiv.org/abs/1912.11370
"""

import re
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
  pattern = re.escape(last).replace(r"\{\}", r"(\d+)")
  blocks = [m.groups() for n in shapes if (m := re.fullmatch(pattern, n))]
  depth = [
    sum(stage == str(i) for stage, _ in blocks)
    for i in range(1 + max((int(stage) for stage, _ in blocks), default=-1))
  ]
  stem = names["stem"] + ".weight"
  if not depth or 0 in depth or stem not in shapes:
    raise ValueError(f"The checkpoint lacks {stem} or blocks: a BiT has them.")
  return dict(
    depth=depth,
    stem_width=shapes[stem][0],
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


def check(model: bit_paper.Model, library: str, ratio: float = 0.25) -> None:
  """Checks that the libraries can compute what a model does.

  Args:
    model: to be written.
    library: for the error.
    ratio: of the channels inside the blocks to those of their output.

  Raises:
    ValueError: it standardizes weights or pools in another way, or has blocks
      of other shapes.
  """
  timm_settings.check_fixed(model, _FIXED, library)
  _, _, mid, out = model.sizes()
  expected = [timm_settings.multiple_of(8, n * ratio) for n in out]
  if list(mid) != expected:
    raise ValueError(
      f"{library} has {expected} channels inside blocks of {list(out)}, but the "
      f"model {list(mid)}."
    )
