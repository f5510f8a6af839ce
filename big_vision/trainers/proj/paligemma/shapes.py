"""The shapes of PaliGemma's batches, to plan runs without data."""

import re

import jax
import numpy as np

from big_vision.types import ConfigLike

_LENGTH = re.compile(r"""\btolen\((\d+)[^|]*key=["']text["']""")


def batch_shapes(
  config: ConfigLike, num: int, image_size: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a training batch.

  Args:
    config: reads `input.pp`, which says how many tokens a text has.
    num: number of examples.
    image_size: (height, width), pixels.

  Returns:
    Dict of `image` [num, H, W, 3], and `text`, `mask_ar`, `mask_loss` [num, T + 1].

  Raises:
    ValueError: the preprocessing does not tell, or examples share sequences.
  """
  if config.input.get("pack"):
    raise ValueError(
      "config.input.pack is not planned: plan a sequence of the same length."
    )
  pp = config.input.get("pp")
  length = _LENGTH.search(pp) if isinstance(pp, str) else None
  if not length:
    raise ValueError(
      f"config.input.pp = {pp!r} does not tell the length of texts, as "
      'tolen(129, pad_value=0, key="text") does.'
    )
  ids = jax.ShapeDtypeStruct((num, int(length[1])), np.int32)
  image = jax.ShapeDtypeStruct((num, *image_size, 3), np.float32)
  return dict(image=image, text=ids, mask_ar=ids, mask_loss=ids)
