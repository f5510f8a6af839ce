"""What convolutional networks share: the ResNet, its depths, pooling, the head."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from big_vision import lookup

_BLOCKS = {
  26: [2, 2, 2, 2],
  50: [3, 4, 6, 3],
  101: [3, 4, 23, 3],
  152: [3, 8, 36, 3],
  200: [3, 24, 36, 3],
}


def get_block_desc(depth):
  """Number of blocks of each stage.

  Args:
    depth: int, number of layers, or the numbers of blocks themselves.

  Returns:
    List of int for a known depth. Others are returned as they are, lists as
    tuples.
  """
  if isinstance(depth, list):  # Not hashable, in contrast to a tuple.
    depth = tuple(depth)
  return _BLOCKS.get(depth, depth)


def num_blocks(depth):
  """`get_block_desc` that has to be a sequence, else it raises ValueError."""
  blocks = get_block_desc(depth)
  if isinstance(blocks, Sequence) and not isinstance(blocks, str):
    return blocks
  raise lookup.unknown("depth", depth, _BLOCKS, "model.depth")


class StdConv(nn.Conv):
  """Convolution whose kernel is standardised before use, not in storage.

  Subclasses have `standardize`, a function of the kernel [h, w, C_in, C_out].
  """

  def param(self, name, *args, **kw):
    """The parameter as it is used."""
    value = super().param(name, *args, **kw)
    return self.standardize(value) if name == "kernel" else value


class ResNet(nn.Module):
  """Four stages of residual blocks between a stem and a head.

  Subclasses have `stem`, `stage` and possibly `finish`, which make modules.

  Attributes:
    num_classes: int, outputs of the head; None or 0 is no head.
    width: float, multiplier of the channels.
    depth: int, see `get_block_desc`, or number of blocks of each stage.
    head_zeroinit: bool, whether the kernel of the head starts at zero.
    dtype_mm: str, dtype of everything before the head, for example "bfloat16".
      Parameters are float32. None is the dtype of image and parameters.
  """

  num_classes: int | None = None
  width: float = 1
  depth: int | Sequence[int] = 50
  head_zeroinit: bool = True
  dtype_mm: str | None = None

  def stem(self, image, width):
    """Maps [B, H, W, 3] to [B, H / 4, W / 4, width]."""
    raise NotImplementedError

  def stage(self, x, name, **kw):
    """Applies blocks: returns (their result, what is in `out` of them)."""
    raise NotImplementedError

  def finish(self, x, out):
    """What comes after the blocks, before the pooling."""
    del out
    return x

  @nn.compact
  def __call__(self, image, *, train=False):
    """Applies the model.

    Args:
      image: [B, H, W, 3], normally in [-1, 1].
      train: bool, makes no difference.

    Returns:
      (x, out): x is [B, num_classes], or [B, C] without classes; out is a dict
      of named intermediates.

    Raises:
      ValueError: unknown depth.
    """
    del train  # There is neither dropout nor a state.
    out = {}
    width = int(64 * self.width)
    x = out["stem"] = self.stem(image, width)
    for i, block_size in enumerate(num_blocks(self.depth)):
      x, out[f"stage{i + 1}"] = self.stage(
        x,
        name=f"block{i + 1}",
        block_size=block_size,
        nmid=width * 2**i,
        first_stride=(2, 2) if i else (1, 1),
        dtype_mm=self.dtype_mm,
      )
    x = out["pre_logits_2d"] = self.finish(x, out)
    return pool_and_classify(x, self.num_classes, self.head_zeroinit, out)


def pool_and_classify(x, num_classes, head_zeroinit, out, dropout=None):
  """The end of a convolutional network; call it in a compact method.

  Args:
    x: [B, h, w, C].
    num_classes: int, outputs of the layer `head`; None or 0 is none.
    head_zeroinit: bool, whether its kernel starts at zero.
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
  # The head of each position serves segmentation and visualisation. It costs
  # nothing in compiled code that does not use it.
  out["logits_2d"] = head(x)
  logits = out["logits"] = head(dropout(pooled) if dropout else pooled)
  return logits, out
