"""Names for the types of preprocessing: examples, and functions of them."""

from collections.abc import Callable
from typing import Any

from big_vision.tf import tf

# One example: names and their values, mostly tensors, possibly nested.
Example = dict[str, Any]

# A preprocessing op, or several in a row.
ExampleFn = Callable[[Example], Example]

# A function of one entry of an example, which `InKeyOutKey` makes an op.
TensorFn = Callable[[tf.Tensor], tf.Tensor]
