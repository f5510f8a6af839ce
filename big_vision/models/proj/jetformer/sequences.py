"""Joins texts and images to sequences, and says what attends to what.

Shapes: `B` batch, `T` tokens of a text, `I` of an image, `S` of both together.
"""

import jax.numpy as jnp

from big_vision.types import Array


def join(
  text_first: Array, bos: Array, boi: Array | None, text: Array, image: Array
) -> Array:
  """Joins the parts of sequences, of each in its order.

  Args:
    text_first: bool [B], where the text comes before the image.
    bos: [B, 1, ...], what is before a text.
    boi: [B, 1, ...], what is before an image; None is `bos`, but nothing
      between the two.
    text: [B, T, ...].
    image: [B, I, ...].

  Returns:
    [B, S, ...], where S is T + I + 2, or + 1 without `boi`.
  """
  if boi is None:
    orders = (bos, text, image), (bos, image, text)
  else:
    orders = (bos, text, boi, image), (boi, image, bos, text)
  first = text_first.reshape((-1,) + (1,) * (text.ndim - 1))
  return jnp.where(first, *(jnp.concatenate(x, axis=1) for x in orders))


def attention_mask(input_mask: Array, prefix: Array | None = None) -> Array:
  """Lets tokens attend to those up to themselves.

  Args:
    input_mask: bool [B, S], which tokens are not padding.
    prefix: int [B]; all attend to so many tokens after the first, too. None is
      none of that.

  Returns:
    bool [B, S, S], of queries and keys.
  """
  at = jnp.arange(input_mask.shape[1])[None]
  mask = at[:, None] <= at[..., None]
  if prefix is not None:
    mask |= (at <= prefix[:, None])[:, None]
  return mask & input_mask[:, None]
