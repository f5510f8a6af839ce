"""Preprocessing of GIVT.

References: Tschannen et al. 2023, GIVT, https://arxiv.org/abs/2312.02116.
"""

from big_vision.pp import utils
from big_vision.pp.registry import Registry
from big_vision.pp.types import TensorFn
from big_vision.tf import tf


@Registry.register("preprocess_ops.bin_nyu_depth")
@utils.InKeyOutKey(indefault="labels", outdefault="labels")
def get_bin_nyu_depth(
  min_depth: float = 0.001, max_depth: float = 10.0, num_bins: int = 256
) -> TensorFn:
  """Makes classes of depths, by bins of the same size.

  Args:
    min_depth: float, where the first bin begins, meters; what is nearer is in it,
      too.
    max_depth: float, where the last bin ends, meters; what is farther is in it,
      too.
    num_bins: int.

  Returns:
    `float [...] -> int32 [...]` in 0, ..., `num_bins` - 1.

  Raises:
    ValueError: there are no such bins.
  """
  op = "bin_nyu_depth"
  if not min_depth < max_depth:
    raise ValueError(
      f"{op}: min_depth={min_depth} must be less than max_depth={max_depth}."
    )
  if num_bins < 1:
    raise ValueError(f"{op}: num_bins={num_bins} must be at least 1.")

  def bin_nyu_depth(depth):
    depth = tf.convert_to_tensor(depth)
    if not depth.dtype.is_floating:
      raise ValueError(
        f"{op}: depths must be floats, not {depth.dtype.name}: nyu_depth makes "
        "such labels."
      )
    x = (depth - min_depth) / (max_depth - min_depth) * num_bins
    # Before the conversion, which has no value for infinite depths.
    x = tf.clip_by_value(tf.floor(x), 0, num_bins - 1)
    return tf.cast(x, tf.int32)

  return bin_nyu_depth
