"""Widget captioning: shows by a frame which part of a screen is meant."""

from __future__ import annotations

from big_vision.pp import batched
from big_vision.pp.registry import Registry
from big_vision.pp.types import ExampleFn
from big_vision.tf import tf

_RED = ((255.0, 0.0, 0.0),)


@Registry.register("preprocess_ops.draw_bbox")
def get_draw_bbox(
  image_key: str = "image", bbox_key: str = "bbox"
) -> ExampleFn:
  """Draws a red frame.

  Args:
    image_key: str, entry with the image, [H, W, C] in [0, 255].
    bbox_key: str, entry with the box, four numbers: ymin, xmin, ymax, xmax,
      relative to the image.

  Returns:
    `dict -> dict`, with the image in float32.
  """

  def draw_bbox(data):
    image = tf.cast(data[image_key], tf.float32)
    box = tf.reshape(tf.cast(data[bbox_key], tf.float32), [1, 1, 4])
    drawn = tf.image.draw_bounding_boxes(image[None], box, _RED)
    data[image_key] = tf.ensure_shape(drawn[0], image.shape)
    return data

  return batched.touches(draw_bbox, image_key, bbox_key)
