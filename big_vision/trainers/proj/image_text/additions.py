"""The former name of `aux_losses.py`."""

from big_vision.trainers.proj.image_text.aux_losses import (
  AuxLoss as Addition,  # noqa: F401
)
