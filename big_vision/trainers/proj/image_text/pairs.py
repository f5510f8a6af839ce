"""The shapes of pairs of image and text, to plan runs without data."""

import re

import jax
import numpy as np

from big_vision.types import ConfigLike

# Of ops that make tokens, or pictures of text.
_TOKENS = re.compile(r"\bmax_len\s*=\s*(\d+)")
_PICTURE = re.compile(r"\brender_unifont\b")


def batch_shapes(
  config: ConfigLike, num: int, image_size: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a training batch.

  Args:
    config: reads `input.pp`, which says how many tokens a text has, or that it is
      a picture, as large as the image.
    num: number of examples.
    image_size: (height, width), pixels.

  Returns:
    Dict of `image` [num, H, W, 3] and `labels` [num, L], or like `image`.

  Raises:
    ValueError: the preprocessing does not tell, or the losses of SigLIP 2 want more.
  """
  for key in ("captioning", "self_distill"):
    if config.get(key) is not None:
      raise ValueError(
        f"config.{key} is not planned: plan the contrastive loss without it, which "
        "takes less."
      )
  pp = config.input.get("pp")
  text = pp if isinstance(pp, str) else ""
  image = jax.ShapeDtypeStruct((num, *image_size, 3), np.float32)
  if _PICTURE.search(text):
    return {"image": image, "labels": image}
  length = _TOKENS.search(text)
  if not length:
    raise ValueError(
      f"config.input.pp = {pp!r} does not tell the length of texts, as "
      "tokenize(max_len=64, ...) does."
    )
  tokens = jax.ShapeDtypeStruct((num, int(length[1])), np.int32)
  return {"image": image, "labels": tokens}
