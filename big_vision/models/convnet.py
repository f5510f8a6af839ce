"""What convolutional networks share: their depths, pooling and the head."""

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
