"""Old path of `big_vision.pipeline.packing`."""

from big_vision.pipeline.packing import (
  AUTOTUNE,
  FLATTEN_SEPARATOR,
  pack_dataset,
)

__all__ = ["AUTOTUNE", "FLATTEN_SEPARATOR", "pack_dataset"]
