"""NaFlex: images as sequences of patches, in (nearly) their own aspect ratio.

Preprocessing for `models/proj/image_text/naflex_vit`, with patches of 16 pixels
and at most 256 of them:

  decode|resize_to_sequence(16, 256)|value_range(-1, 1)|patchify(16)
  |pad_patches(256)
  |tuplify(["image/patches", "image/type", "image/yidx", "image/xidx"], "image")
  |keep("image", "labels")

With `resize_to_sequence(16, [128, 256, 576, 784, 1024])` each example is of one
of these lengths, drawn at random as for SigLIP 2; batches have fixed shapes, so
`pad_patches(1024)` must be for the longest, and costs as much for all.

`pad_patches(256)` is short for `flatten(["image"])` and, for each of the four
entries, `pad_to_shape([256, None], key="image/patches")` or
`pad_to_shape([256], key="image/type")`.

References:
  Tschannen et al. 2025, SigLIP 2 (section 2.4.2),
  https://arxiv.org/abs/2502.14786

Shapes: `N` patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from big_vision import trees
from big_vision.pp import rng, utils
from big_vision.pp.registry import Registry
from big_vision.pp.types import Example, ExampleFn, TensorFn
from big_vision.tf import tf

InKeyOutKey = utils.InKeyOutKey

_MAX_RATIO = 100.0  # Images are enlarged less than this.
_RGB = [None, None, 3]


def _get_image_size_for_seq(
  image_hw, patch_size, max_sequence_len, divisible_by_patch=True, eps=1e-5
):
  """Finds the largest size of an image, up to rounding, of at most N patches.

  Args:
    image_hw: int [2], height and width, pixels.
    patch_size: int, side of a patch, pixels.
    max_sequence_len: int, scalar.
    divisible_by_patch: bool, whether height and width are to be multiples of
      `patch_size`: each of them is rounded up.
    eps: float, how exactly the ratio is found.

  Returns:
    (ratio, target_hw): the factor, float32 scalar, less than 100, and the size,
    int32 [2], at least one patch.

  Raises:
    tf.errors.InvalidArgumentError: (when run) the image would have to be made
      smaller than by a factor of `eps`.
  """
  hw = tf.cast(image_hw, tf.float32)

  def target(ratio):
    size = hw * ratio
    if divisible_by_patch:
      size = patch_size * tf.math.ceil(size / patch_size)
    return tf.cast(tf.maximum(size, float(patch_size)), tf.int32)

  # A larger ratio never gives a smaller size, as each step of `target` rounds
  # in one direction; so one ratio separates sizes that fit from others.
  def halve(low, high):
    ratio = (low + high) / 2
    num_patches = tf.reduce_prod(target(ratio) / patch_size)
    fits = num_patches <= tf.cast(max_sequence_len, num_patches.dtype)
    return tf.where(fits, ratio, low), tf.where(fits, high, ratio)

  ratio, _ = tf.while_loop(
    lambda low, high: high - low >= eps,
    halve,
    (tf.constant(eps / 10, tf.float32), tf.constant(_MAX_RATIO)),
    maximum_iterations=64,  # For an `eps` finer than float32.
  )
  check = tf.debugging.assert_greater(
    ratio, tf.constant(eps, tf.float32), message="The image is too large."
  )
  with tf.control_dependencies([check] if check is not None else []):
    return tf.identity(ratio), target(ratio)


def _with_shape(op, image, shape):
  """Converts an image to a tensor of a shape, in which None fits any size."""
  image = tf.convert_to_tensor(image)
  if not image.shape.is_compatible_with(shape):
    raise ValueError(
      f"{op} needs an image of shape {shape}, not {image.shape}; decode makes "
      "3 channels."
    )
  return tf.ensure_shape(image, shape)


def _check_length(op, patch_size, max_sequence_len):
  """Raises ValueError for sizes and lengths that are not positive integers."""
  lengths = utils.maybe_repeat(max_sequence_len, 1)
  for name, value, numbers in (
    ("patch_size", patch_size, [patch_size]),
    ("max_sequence_len", max_sequence_len, lengths),
  ):
    if not numbers or any(not isinstance(n, int) or n < 1 for n in numbers):
      several = " or a list of them" if name == "max_sequence_len" else ""
      raise ValueError(
        f"{op}: {name}={value!r} must be an integer > 0{several}."
      )


def _draw_length(max_sequence_len):
  """Returns an int, or draws one of a list."""
  if isinstance(max_sequence_len, int):
    return max_sequence_len
  lengths = tf.constant(max_sequence_len, tf.int32)
  index = tf.random.stateless_uniform(
    [], rng.next_seed(), maxval=len(max_sequence_len), dtype=tf.int32
  )
  return lengths[index]


@Registry.register("preprocess_ops.resize_to_sequence")
@InKeyOutKey()
def get_resize_to_sequence(
  patch_size: int,
  max_sequence_len: int | Sequence[int],
  divisible_by_patch: bool = True,
  eps: float = 1e-5,
) -> TensorFn:
  """Resizes to the largest size that gives at most so many patches.

  It keeps the aspect ratio, up to rounding sides to whole patches, and enlarges
  small images.

  Args:
    patch_size: int, side of a patch, pixels.
    max_sequence_len: int, number of patches; or a list of int, of which one is
      drawn for each example.
    divisible_by_patch: bool, whether the sides are to be multiples of
      `patch_size`; if not, `patchify` cuts off the remainder.
    eps: float, accuracy of the factor.

  Returns:
    `[H, W, 3] -> float32 [h, w, 3]`, in the value range of the image: unlike
    `resize`, it does not cast back to the dtype of the image.

  Raises:
    ValueError: a size is not positive; or, when called, not 3 channels.
  """
  op = "resize_to_sequence"
  _check_length(op, patch_size, max_sequence_len)

  def resize_to_sequence(image):
    image = _with_shape(op, image, _RGB)
    length = _draw_length(max_sequence_len)
    _, size = _get_image_size_for_seq(
      tf.shape(image)[:2], patch_size, length, divisible_by_patch, eps
    )
    image = tf.image.resize(image, size, method="bilinear", antialias=True)
    return tf.ensure_shape(image, _RGB)

  return resize_to_sequence


@Registry.register("preprocess_ops.central_crop_to_sequence")
@InKeyOutKey()
def get_central_crop_to_sequence(
  patch_size: int,
  max_sequence_len: int | Sequence[int],
  divisible_by_patch: bool = True,
  eps: float = 1e-5,
) -> TensorFn:
  """Crops the middle, of the size that `resize_to_sequence` resizes to.

  Args:
    patch_size: int, side of a patch, pixels.
    max_sequence_len: int, number of patches; or a list of int, of which one is
      drawn for each example.
    divisible_by_patch: bool, see `resize_to_sequence`.
    eps: float, the same.

  Returns:
    `[H, W, 3] -> [h, w, 3]` of the same dtype. Images smaller than that size
    are an error.

  Raises:
    ValueError: a size is not positive; or, when called, not 3 channels.
  """
  op = "central_crop_to_sequence"
  _check_length(op, patch_size, max_sequence_len)

  def central_crop_to_sequence(image):
    image = _with_shape(op, image, _RGB)
    length = _draw_length(max_sequence_len)
    hw = tf.shape(image)[:2]
    _, size = _get_image_size_for_seq(
      hw, patch_size, length, divisible_by_patch, eps
    )
    check = tf.debugging.assert_less_equal(
      size, hw, message=f"{op}: the image is smaller than the crop."
    )
    with tf.control_dependencies([check] if check is not None else []):
      top, left = tf.unstack((hw - size) // 2)
    crop = image[top : top + size[0], left : left + size[1]]
    return tf.ensure_shape(crop, _RGB)

  return central_crop_to_sequence


@Registry.register("preprocess_ops.patchify")
@InKeyOutKey()
def get_patchify(
  patch_size: int | Sequence[int],
) -> Callable[[tf.Tensor], Example]:
  """Cuts an image into patches, row by row.

  Args:
    patch_size: int or (int, int), pixels; height, width. Remainders at the
      bottom and at the right are dropped.

  Returns:
    `[H, W, C] -> dict` of `patches` [N, height * width * C] of the same dtype,
    the pixels of each patch row by row; `yidx` and `xidx`, int32 [N], its row
    and column; and `type`, int32 [N], 1 throughout.

  Raises:
    ValueError: the size is not positive; or, when called, not 3 dimensions.
  """
  sizes = tuple(utils.maybe_repeat(patch_size, 2))
  if len(sizes) != 2 or any(not isinstance(n, int) or n < 1 for n in sizes):
    raise ValueError(
      f"patchify: patch_size={patch_size!r} must be an integer > 0 or two."
    )
  height, width = sizes

  def patchify(image):
    image = _with_shape("patchify", image, [None, None, None])
    channels = image.shape[-1]
    known = [s and s // p for s, p in zip(image.shape[:2], sizes, strict=True)]
    shape = tf.shape(image)
    rows, columns = shape[0] // height, shape[1] // width
    x = image[: rows * height, : columns * width]
    x = tf.reshape(x, [rows, height, columns, width, shape[2]])
    x = tf.transpose(x, [0, 2, 1, 3, 4])
    x = tf.reshape(x, [rows * columns, height * width * shape[2]])
    num = None if None in known else known[0] * known[1]
    size = None if channels is None else height * width * channels
    index = tf.ensure_shape(tf.range(rows * columns), [num])
    return {
      "patches": tf.ensure_shape(x, [num, size]),
      "yidx": index // columns,
      "xidx": index % columns,
      "type": tf.ones_like(index),
    }

  return patchify


@Registry.register("preprocess_ops.pad_patches")
@InKeyOutKey()
def get_pad_patches(max_sequence_len: int) -> ExampleFn:
  """Pads the result of `patchify` to a fixed number of patches.

  Args:
    max_sequence_len: int, number of patches.

  Returns:
    `dict of [N, ...] -> dict of [max_sequence_len, ...]`, with zeros at the
    end; a `type` of 0 marks them as padding for the model. More patches are an
    error.

  Raises:
    ValueError: the number is not positive; or, when called, not a dict.
  """
  if not isinstance(max_sequence_len, int) or max_sequence_len < 1:
    raise ValueError(
      f"pad_patches: max_sequence_len={max_sequence_len!r} must be an integer "
      "> 0."
    )

  def pad(x):
    x = tf.convert_to_tensor(x)
    num = tf.shape(x)[0]
    check = tf.debugging.assert_less_equal(
      num, max_sequence_len, message="pad_patches: there are more patches."
    )
    with tf.control_dependencies([check] if check is not None else []):
      missing = max_sequence_len - num
    x = tf.pad(x, [[0, missing], *[[0, 0]] * (x.shape.rank - 1)])
    return tf.ensure_shape(x, [max_sequence_len, *x.shape[1:]])

  def pad_patches(patches):
    if not isinstance(patches, dict):
      raise ValueError(
        "pad_patches needs what patchify gives, a dict, but got "
        f"{type(patches).__name__}."
      )
    return {k: pad(v) for k, v in patches.items()}

  return pad_patches


@Registry.register("preprocess_ops.tuplify")
def get_tuplify(inkeys: Sequence[str], outkey: str) -> ExampleFn:
  """Makes a tuple of entries.

  Args:
    inkeys: list of str, entries; those of nested dicts by path, for example
      `image/patches`.
    outkey: str, entry for the tuple.

  Returns:
    `dict -> dict`. Called without one of the entries it raises KeyError.
  """

  def tuplify(data):
    data[outkey] = tuple(trees.tree_get(data, key) for key in inkeys)
    return data

  return tuplify
