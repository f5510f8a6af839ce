"""Views of images: random parts, cut on the device.

Shapes: `B` batch, `V` views.
"""

import math

import jax
import jax.numpy as jnp

from big_vision.types import Array, Key


def random_boxes(
  rng: Key,
  shape: tuple[int, ...],
  area: tuple[float, float],
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Array:
  """Draws parts of images; area and log of the aspect ratio are uniform.

  Args:
    rng: random key.
    shape: of the boxes, for example (B, V).
    area: (lowest, highest) fraction of the image.
    ratio: (lowest, highest) of width to height, relative to that of the image.

  Returns:
    [*shape, 4] float32: (ymin, xmin, ymax, xmax) in [0, 1].
  """
  keys = jax.random.split(rng, 4)
  uniform = jax.random.uniform
  size = uniform(keys[0], shape, minval=area[0], maxval=area[1])
  low, high = map(math.log, ratio)
  aspect = jnp.exp(uniform(keys[1], shape, minval=low, maxval=high))
  height = jnp.minimum(jnp.sqrt(size / aspect), 1.0)
  width = jnp.minimum(jnp.sqrt(size * aspect), 1.0)
  y = uniform(keys[2], shape) * (1 - height)
  x = uniform(keys[3], shape) * (1 - width)
  return jnp.stack([y, x, y + height, x + width], axis=-1)


def crop(image: Array, boxes: Array, size: int) -> Array:
  """Cuts parts of images and resizes them bilinearly, with antialiasing.

  Args:
    image: [B, H, W, C] float.
    boxes: [B, V, 4], see `random_boxes`.
    size: side of the views in pixels.

  Returns:
    [B, V, size, size, C].
  """
  height, width, channels = image.shape[1:]

  def one(image, box):
    sides = jnp.array([height, width], jnp.float32)
    low, high = box[:2] * sides, box[2:] * sides
    scale = size / (high - low)
    return jax.image.scale_and_translate(
      image, (size, size, channels), (0, 1), scale, -low * scale, "linear"
    )

  return jax.vmap(jax.vmap(one, (None, 0)))(image, boxes)
