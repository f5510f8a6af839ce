"""Reads image files as the preprocessing of training does."""

from typing import Any

import numpy as np


def decode(data: bytes, **kw: Any) -> np.ndarray:
  """Reads an image file: the same pixels as those of the op `decode`.

  `Embedder.decode` has the arguments that the run was trained with.

  Args:
    data: content of the file.
    **kw: arguments of the op, such as `exif=True`, which turns photographs that
      were taken on the side, and `background="white"` for transparent images.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: it is not an image, is damaged, or has too many pixels.
  """
  from big_vision.pp import decoding

  return decoding.decode(data, **kw)
