"""Names for the types of preprocessing: examples, and functions of them.

Importing this does not import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
  from big_vision.tf import tf

# One example: names and their values, mostly tensors, possibly nested.
Example: TypeAlias = dict[str, Any]

# A preprocessing op, or several in a row.
ExampleFn: TypeAlias = Callable[[Example], Example]

# A function of one entry of an example, which `InKeyOutKey` turns into an op.
TensorFn: TypeAlias = Callable[["tf.Tensor"], "tf.Tensor"]
