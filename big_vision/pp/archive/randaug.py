"""RandAugment as a preprocessing op, `randaug`."""

import math

from big_vision.pp import autoaugment, utils
from big_vision.pp.registry import Registry
from big_vision.pp.types import TensorFn


@Registry.register("preprocess_ops.randaug")
@utils.InKeyOutKey()
def get_randaug(
  num_layers: int = 2, magnitude: float = 10, corrected: bool = False
) -> TensorFn:
  """Applies random operations, all of one strength, one after the other.

  Args:
    num_layers: int, number of operations.
    magnitude: float, their strength, 10 being the nominal maximum.
    corrected: bool; by default, some operations have the mistakes that
      published results were trained with. `big_vision.pp.autoaugment` lists
      them.

  Returns:
    `uint8 [H, W, 3] -> uint8 [H, W, 3]`.

  Raises:
    ValueError: bad arguments.

  References: Cubuk et al. 2019, https://arxiv.org/abs/1909.13719.
  """
  if not isinstance(num_layers, int) or num_layers < 0:
    raise ValueError(f"randaug: num_layers must be 0, 1, ..., not {num_layers}")
  if not (0 <= magnitude < math.inf):
    raise ValueError(f"randaug: magnitude must be at least 0, not {magnitude}")
  return lambda image: autoaugment.distort_image_with_randaugment(
    image, num_layers, magnitude, corrected=corrected
  )
