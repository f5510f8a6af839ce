"""Parts that convolutional networks share: ResNet, its depths, and the head."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from big_vision import lookup
from big_vision.models import fields
from big_vision.types import Array

_BLOCKS = {
  26: [2, 2, 2, 2],
  50: [3, 4, 6, 3],
  101: [3, 4, 23, 3],
  152: [3, 8, 36, 3],
  200: [3, 24, 36, 3],
}


def get_block_desc(depth: Any) -> Any:
  """Looks up the number of blocks of each stage.

  Args:
    depth: int, number of layers, or the numbers of blocks themselves.

  Returns:
    List of int for a known depth. Others are returned as they are, lists as
    tuples.
  """
  if isinstance(depth, list):  # Not hashable, in contrast to a tuple.
    depth = tuple(depth)
  return _BLOCKS.get(depth, depth)


def num_blocks(depth: int | Sequence[int]) -> Sequence[int]:
  """Looks up the number of blocks of each stage, and checks that it is known.

  Args:
    depth: int, number of layers, or the numbers of blocks themselves.

  Returns:
    Sequence of int, one per stage.

  Raises:
    ValueError: unknown depth.
  """
  blocks = get_block_desc(depth)
  if isinstance(blocks, Sequence) and not isinstance(blocks, str):
    return blocks
  raise lookup.unknown("depth", depth, _BLOCKS, "model.depth")


class StdConv(nn.Conv):
  """Convolution that standardizes its kernel before use, not in storage.

  Subclasses define `standardize`, a function of the kernel [h, w, C_in, C_out].
  """

  def param(self, name: str, *args: Any, **kw: Any) -> Any:
    """Makes a parameter; the kernel is standardized.

    Args:
      name: str, of the parameter.
      *args: for `nn.Module.param`.
      **kw: for `nn.Module.param`.

    Returns:
      The parameter as it is used.
    """
    value = super().param(name, *args, **kw)
    return self.standardize(value) if name == "kernel" else value


class ResNet(nn.Module):
  """Four stages of residual blocks between a stem and a head.

  Subclasses define `stem`, `stage` and possibly `finish`, which make modules.

  Attributes:
    num_classes: int, outputs of the head; None or 0 leaves out the head.
    width: float, multiplier of the channels.
    depth: int, see `get_block_desc`, or number of blocks of each stage.
    head_zeroinit: bool, initializes the kernel of the head with zeros.
    dtype_mm: str, dtype of everything before the head, for example "bfloat16".
      Parameters are float32. None means the dtype of image and parameters.
    stem_width: int, channels of the stem; None means 64 * width.
    mid_widths: channels inside the blocks of each stage; None means 64 * width,
      which doubles from stage to stage.
    out_widths: channels of the output of each stage; None means four times the
      channels inside. With them, the first block of a stage always has a
      convolution in its shortcut.
  """

  num_classes: int | None = None
  width: float = 1
  depth: int | Sequence[int] = 50
  head_zeroinit: bool = True
  dtype_mm: str | None = None
  stem_width: int | None = None
  mid_widths: Sequence[int] | None = None
  out_widths: Sequence[int] | None = None

  # The fields that `sizes` returns in another form.
  SIZES = ("width", "depth", "stem_width", "mid_widths", "out_widths")

  def sizes(
    self,
  ) -> tuple[Sequence[int], int, Sequence[int], Sequence[int]]:
    """Looks up the sizes that several fields tell.

    Returns:
      (number of blocks of each stage, channels of the stem, channels inside the
      blocks of each stage, channels of the output of each stage).

    Raises:
      ValueError: unknown depth, or other widths than stages.
    """
    blocks, width = num_blocks(self.depth), int(64 * self.width)
    mid = self.mid_widths or [width * 2**i for i in range(len(blocks))]
    out = self.out_widths or [4 * n for n in mid]
    for name, widths in (("mid", mid), ("out", out)):
      if len(widths) != len(blocks):
        raise lookup.ConfigError(
          f"config.model.{name}_widths={tuple(widths)} should have "
          f"{len(blocks)} entries, one per stage."
        )
    return blocks, self.stem_width or width, mid, out

  def stem(self, image: Array, width: int) -> Array:
    """Applies the first layers.

    Args:
      image: [B, H, W, 3].
      width: int, number of output channels.

    Returns:
      [B, H / 4, W / 4, width].
    """
    raise NotImplementedError

  def stage(self, x: Array, name: str, **kw: Any) -> tuple[Array, Any]:
    """Applies the blocks of one stage.

    Args:
      x: [B, h, w, C].
      name: str, of the module.
      **kw: `block_size`, `nmid`, `nout`, `first_stride` and `dtype_mm` of the
        stage.

    Returns:
      (their result, the entry of the stage in `out`).
    """
    raise NotImplementedError

  def finish(self, x: Array, out: dict[str, Any]) -> Array:
    """Applies the layers between the blocks and the pooling; by default none.

    Args:
      x: [B, h, w, C].
      out: dict of intermediates, to which others may be added.

    Returns:
      [B, h, w, C].
    """
    del out
    return x

  @nn.compact
  def __call__(
    self, image: Array, *, train: bool = False
  ) -> tuple[Array, dict[str, Any]]:
    """Applies the model.

    Args:
      image: [B, H, W, 3], normally in [-1, 1].
      train: bool, makes no difference.

    Returns:
      (x, out): x is [B, num_classes], or [B, C] without classes; out is a dict
        of
      named intermediates.

    Raises:
      ValueError: unknown depth or dtype, or other widths than stages.
    """
    del train  # There is neither dropout nor a state.
    fields.check_dtype(self.dtype_mm, f"{fields.key(self)}.dtype_mm")
    out = {}
    blocks, stem_width, mid_widths, _ = self.sizes()
    out_widths = self.out_widths or [None] * len(blocks)
    x = out["stem"] = self.stem(image, stem_width)
    for i, block_size in enumerate(blocks):
      x, out[f"stage{i + 1}"] = self.stage(
        x,
        name=f"block{i + 1}",
        block_size=block_size,
        nmid=mid_widths[i],
        nout=out_widths[i],
        first_stride=(2, 2) if i else (1, 1),
        dtype_mm=self.dtype_mm,
      )
    x = out["pre_logits_2d"] = self.finish(x, out)
    return pool_and_classify(x, self.num_classes, self.head_zeroinit, out)


def pool_and_classify(
  x: Array,
  num_classes: int | None,
  head_zeroinit: bool,
  out: dict[str, Any],
  dropout: Callable[[Array], Array] | None = None,
) -> tuple[Array, dict[str, Any]]:
  """Averages over positions and applies the head; call it in a compact method.

  Args:
    x: [B, h, w, C].
    num_classes: int, outputs of the layer `head`; None or 0 leaves it out.
    head_zeroinit: bool, initializes the kernel of the head with zeros.
    out: dict, gets `pre_logits`, `logits`, `logits_2d`.
    dropout: function that the input of the head goes through, optional.

  Returns:
    (logits or pre_logits, out).
  """
  # A mean of bfloat16 is at least computed and returned in float32.
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  pooled = out["pre_logits"] = jnp.mean(x, axis=(1, 2), dtype=dtype)
  if not num_classes:
    return pooled, out
  kw = {"kernel_init": nn.initializers.zeros} if head_zeroinit else {}
  head = nn.Dense(num_classes, name="head", **kw)
  # The head of each position serves segmentation and visualization. It costs
  # nothing in compiled code that does not use it.
  out["logits_2d"] = head(x)
  logits = out["logits"] = head(dropout(pooled) if dropout else pooled)
  return logits, out
