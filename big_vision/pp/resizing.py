"""Resizes images of any dtype, for several ops."""

from __future__ import annotations

from collections.abc import Sequence

from big_vision import lookup
from big_vision.tf import tf

# These methods average with positive weights: results stay in the range of the
# input, up to rounding errors that the cast to integers cuts off.
_AVERAGING = ("area", "bilinear", "gaussian", "nearest")
_SMALL_INTEGERS = ("uint8", "int8", "uint16", "int16")


def check_method(op: str, method: str) -> None:
  """Checks the name of a method of `tf.image.resize`.

  Args:
    op: name of the op, for the error.
    method: the name.

  Raises:
    ValueError: there is no such method.
  """
  known = [
    v for k, v in vars(tf.image.ResizeMethod).items() if not k.startswith("_")
  ]
  if method not in known:
    hint = lookup.did_you_mean(method, known)
    raise ValueError(f"{op}: unknown resize method {method!r}{hint}")


def checked(
  value: tf.Tensor, good: tf.Tensor, message: str, image: tf.Tensor
) -> tf.Tensor:
  """Makes an example an error, of one line, if its image does not fit a size.

  Args:
    value: what is only used if it fits.
    good: bool scalar, whether it does.
    message: with a `{}` for the width and one for the height.
    image: [H, W, C].

  Returns:
    `value`.

  Raises:
    tf.errors.InvalidArgumentError: (when it is run) with the message.
  """
  width_height = [tf.shape(image)[1], tf.shape(image)[0]]
  if tf.executing_eagerly():
    if not good:
      text = message.format(*(x.numpy() for x in width_height))
      raise tf.errors.InvalidArgumentError(None, None, text)
    return value
  text = tf.strings.format(message, width_height)
  with tf.control_dependencies([tf.debugging.Assert(good, [text])]):
    return tf.identity(value)


def resize(
  image: tf.Tensor,
  size: tf.Tensor | Sequence[int],
  method: str,
  antialias: bool,
  pil: bool = False,
) -> tf.Tensor:
  """Resizes an image without changing its dtype.

  The kernels take any dtype; that for `bilinear` takes half the time for a copy in
  float32, and gives the same values.

  Args:
    image: [H, W, C].
    size: (h, w), pixels.
    method: one of `tf.image.ResizeMethod`.
    antialias: whether to smooth when making images smaller.
    pil: whether to do as Pillow: first the width, then the height, each rounded
      to the nearest integers.

  Returns:
    [h, w, C] of the same dtype; integers are rounded down, unless `pil`.
  """
  image = tf.convert_to_tensor(image)
  dtype = image.dtype
  if pil and method != "nearest":
    for step in ((tf.shape(image)[0], size[1]), size):
      resized = tf.image.resize(image, step, method=method, antialias=True)
      if dtype.is_integer:
        resized = tf.clip_by_value(tf.round(resized), dtype.min, dtype.max)
      image = tf.cast(resized, dtype)
    return image
  if method == "bilinear" and not antialias and dtype == tf.uint8:
    return tf.cast(_bilinear(image, size), dtype)
  resized = tf.image.resize(image, size, method=method, antialias=antialias)
  if method not in _AVERAGING or dtype.name not in _SMALL_INTEGERS:
    resized = tf.clip_by_value(resized, dtype.min, dtype.max)
  return tf.cast(resized, dtype)


def _bilinear(image, size):
  """Resizes uint8 [H, W, C] to float32 [h, w, C]."""

  def resize(x):
    return tf.image.resize(x, size, method="bilinear")

  # To copy a much larger image would take longer than it saves.
  count = lambda hw: tf.reduce_prod(tf.cast(hw, tf.int64))
  return tf.cond(
    count(tf.shape(image)[:2]) < 4 * count(size),
    lambda: resize(tf.cast(image, tf.float32)),
    lambda: resize(image),
  )
