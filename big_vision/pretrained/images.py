"""Reads image files, with Pillow."""

import io

import numpy as np


def decode(data: bytes) -> np.ndarray:
  """Reads an image file as people see it.

  Unlike the op `decode` of training data it turns photos that were taken on the
  side, and puts transparent pictures on white.

  Args:
    data: content of the file.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: it is not an image.
  """
  from PIL import Image, ImageOps, UnidentifiedImageError

  try:
    with Image.open(io.BytesIO(data)) as image:
      image = ImageOps.exif_transpose(image).convert("RGBA")
  except UnidentifiedImageError as e:
    raise ValueError("This is not an image that can be read.") from e
  except (OSError, Image.DecompressionBombError) as e:
    raise ValueError(f"This image cannot be read: {e}") from e
  white = Image.new("RGBA", image.size, "white")
  return np.asarray(Image.alpha_composite(white, image).convert("RGB"))
