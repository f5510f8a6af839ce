"""Videos, and several images of one example.

Shapes: `T` frames, `C` channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from big_vision import lookup
from big_vision.pp import batched, rng, utils
from big_vision.pp.registry import Registry
from big_vision.pp.types import ExampleFn, TensorFn
from big_vision.tf import tf

InKeyOutKey = utils.InKeyOutKey


@Registry.register("preprocess_ops.video_decode")
def video_decode(res: int) -> ExampleFn:
  """Decodes the frames in `episodic_images` to `image`.

  Args:
    res: int, height and width to resize them to, pixels.

  Returns:
    `dict -> dict`: of `episodic_images` string [T], JPEG, it makes `image`
    float32 [T, res, res, C] in [-1, 1].
  """

  def decode_frame(frame):
    image = tf.image.resize(tf.io.decode_jpeg(frame), (res, res))
    return 2 * (image / 255) - 1

  def op(data):
    data["image"] = tf.map_fn(
      decode_frame, data["episodic_images"], fn_output_signature=tf.float32
    )
    return data

  return batched.touches(op, "episodic_images", "image")


@Registry.register("preprocess_ops.video_ensure_shape")
def video_ensure_shape(key: str, shape: Sequence[int | None]) -> ExampleFn:
  """Tells the shape of an entry, where a graph does not know it.

  Args:
    key: str, the entry.
    shape: list of int, or None for any size. Another shape is an error.

  Returns:
    `dict -> dict`.
  """

  def op(data):
    data[key] = tf.ensure_shape(data[key], shape)
    return data

  return batched.touches(op, key)


@Registry.register("preprocess_ops.video_replicate_img")
def video_replicate_img(replicas: int, num_frames: int) -> ExampleFn:
  """Repeats `image`, from its first frame on, up to a number of frames.

  Args:
    replicas: int, how often to repeat it.
    num_frames: int, number of frames to keep of that.

  Returns:
    `dict -> dict`, with `image` [num_frames, …], or of fewer frames if there
    are not as many.
  """

  def op(data):
    image = tf.convert_to_tensor(data["image"])
    times = [replicas] + [1] * (image.shape.rank - 1)
    data["image"] = tf.tile(image, times)[:num_frames]
    return data

  return batched.touches(op, "image")


@Registry.register("preprocess_ops.video_choice")
@InKeyOutKey()
def video_choice(empty_fallback: Any = None) -> TensorFn:
  """Chooses one element at random, for example one of several captions.

  Args:
    empty_fallback: the result if there are none; by default 0, or "" of
      strings.

  Returns:
    `tensor -> []` of the same dtype; the tensor has any shape.
  """

  def choose(x):
    x = x.flat_values if isinstance(x, tf.RaggedTensor) else x
    x = tf.reshape(x, [-1])
    if empty_fallback is None:
      fallback = tf.zeros([1], x.dtype)
    else:
      fallback = tf.constant([empty_fallback], x.dtype)
    index = tf.random.stateless_uniform(
      [], rng.next_seed(), maxval=tf.maximum(tf.size(x), 1), dtype=tf.int32
    )
    return tf.concat([x, fallback], 0)[index]

  return choose


@Registry.register("preprocess_ops.stack_images")
def stack_images(
  inkeys: Sequence[str] = (), outkey: str = "image"
) -> ExampleFn:
  """Stacks images of equal size along a new first axis.

  Args:
    inkeys: list of str, their entries.
    outkey: str, entry for the result.

  Returns:
    `dict -> dict`.

  Raises:
    ConfigError: there are no entries.
  """
  if not inkeys:
    raise lookup.ConfigError("stack_images: inkeys must name the images.")

  def op(data):
    data[outkey] = tf.stack([data[key] for key in inkeys])
    return data

  return batched.touches(op, *inkeys, outkey)
