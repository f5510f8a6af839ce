"""Preprocessing of UViM: label maps, and crops that they share with the image.

References: Kolesnikov et al. 2022, UViM, https://arxiv.org/abs/2205.10337.

Axes: H height, W width, C channels, N objects. A label map is int32 [H, W, C]
or, of depths, float32 [H, W, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from big_vision import lookup
from big_vision.pp import resizing, rng, utils
from big_vision.pp.registry import Registry
from big_vision.pp.types import Example, ExampleFn, TensorFn
from big_vision.tf import tf

InKeyOutKey = utils.InKeyOutKey

# Pictures of NYU depth, and the part with valid depths that methods are
# compared on: Eigen et al. 2014, https://arxiv.org/abs/1406.2283.
_NYU_HEIGHT, _NYU_WIDTH = 480, 640
_NYU_ROWS, _NYU_COLUMNS = slice(54, 480), slice(41, 601)

_NUM_COLORS = 256**3  # An id of COCO panoptic is one of them.

# Fixed for ever, since stored predictions are seeded by them.
_HASH_KEY = (3714561454027272724, 8800639020734831960)
_HASH_BUCKETS = 2**63 - 1


def _entry(op: str, data: Example, key: str, needs: str) -> Any:
  """Returns `data[key]`; if there is none, the error says where it is from."""
  if key not in data:
    raise ValueError(
      f"{op}: no entry {key!r}{lookup.did_you_mean(key, data)} {needs}"
    )
  return data[key]


def _with_rank_3(
  op: str, x: Any, channels: int | None = None, name: str = "its entry"
):
  """Converts to a tensor [H, W, C], of the number of channels if given."""
  x = tf.convert_to_tensor(x)
  shape = [None, None, channels]
  if x.dtype == tf.string:
    raise ValueError(
      f"{op}: {name} is an encoded file, write decode(key=...) before."
    )
  if not x.shape.is_compatible_with(shape):
    raise ValueError(
      f"{op}: {name} must have the shape [height, width, "
      f"{channels or 'channels'}], not {x.shape}."
    )
  return tf.ensure_shape(x, shape)


@Registry.register("preprocess_ops.rgb_to_grayscale_to_rgb")
@InKeyOutKey()
def get_rgb_to_grayscale_to_rgb() -> TensorFn:
  """Takes the color out of an image, and keeps its three channels.

  Returns:
    `[H, W, 3] -> [H, W, 3]` of the same dtype, with equal channels.
  """

  def rgb_to_grayscale_to_rgb(image):
    image = _with_rank_3("rgb_to_grayscale_to_rgb", image, 3)
    return tf.repeat(tf.image.rgb_to_grayscale(image), 3, axis=-1)

  return rgb_to_grayscale_to_rgb


@Registry.register("preprocess_ops.nyu_depth")
@InKeyOutKey(indefault="depth", outdefault="labels")
def get_nyu_depth() -> TensorFn:
  """Makes a label map of the depths of NYU depth v2.

  Returns:
    `[H, W] -> float32 [H, W, 1]`, meters.
  """

  def nyu_depth(depth):
    depth = tf.convert_to_tensor(depth)
    if not depth.shape.is_compatible_with([None, None]):
      raise ValueError(
        f"nyu_depth: depth must have the shape [height, width], not "
        f"{depth.shape}."
      )
    return tf.cast(depth, tf.float32)[..., None]

  return nyu_depth


@Registry.register("preprocess_ops.nyu_eval_crop")
def get_nyu_eval_crop() -> ExampleFn:
  """Crops `image` and `labels` to the part that NYU depth is evaluated on.

  Returns:
    `dict -> dict`: of `image` [480, 640, 3] and `labels` [480, 640, 1], rows 54
    to 479 and columns 41 to 600. Other sizes are an error.
  """

  op = "nyu_eval_crop"

  def crop(data, key, channels):
    x = _entry(op, data, key, "nyu_depth makes labels.")
    x = _with_rank_3(op, x, channels, key)
    message = (
      f"{op}: {key} has {{}} x {{}} pixels, but the crop is defined for the "
      f"{_NYU_WIDTH} x {_NYU_HEIGHT} of NYU depth: write it before resize."
    )
    if not x.shape.is_compatible_with([_NYU_HEIGHT, _NYU_WIDTH, channels]):
      raise ValueError(message.format(x.shape[1], x.shape[0]))
    good = tf.reduce_all(tf.shape(x)[:2] == [_NYU_HEIGHT, _NYU_WIDTH])
    x = resizing.checked(x, good, message, x)
    x = tf.ensure_shape(x, [_NYU_HEIGHT, _NYU_WIDTH, channels])
    return x[_NYU_ROWS, _NYU_COLUMNS]

  def nyu_eval_crop(data):
    data["labels"] = crop(data, "labels", 1)
    data["image"] = crop(data, "image", 3)
    return data

  return nyu_eval_crop


@Registry.register("preprocess_ops.coco_panoptic")
def get_coco_panoptic_pp() -> ExampleFn:
  """Makes maps of classes and of instances from an annotation of COCO panoptic.

  Returns:
    `dict -> dict`: from `panoptic_image` uint8 [H, W, 3], whose colors are ids
    (red + 256 green + 256² blue), and `panoptic_objects` with `id` and `label`
    int [N], it adds `instances` int32 [H, W, 1], the position in the list of
    objects from 1, and `semantics` int32 [H, W, 1], the label + 1. Both are 0 at
    pixels of other ids.
  """
  op = "coco_panoptic"
  needs = "TFDS's coco/2017_panoptic has it."

  def coco_panoptic(data):
    image = _entry(op, data, "panoptic_image", needs)
    image = _with_rank_3(op, image, 3, "panoptic_image")
    objects = _entry(op, data, "panoptic_objects", needs)
    ids, labels = (
      tf.cast(_entry(op, objects, key, needs), tf.int32)
      for key in ("id", "label")
    )
    color = tf.reduce_sum(tf.cast(image, tf.int32) * [1, 256, 256**2], axis=-1)
    # What follows searches a sorted list, which ends with an id of no color, so
    # that there is a next id for every color.
    ids = tf.minimum(ids, _NUM_COLORS)
    order = tf.argsort(ids, stable=True)
    ids = tf.concat([tf.gather(ids, order), [_NUM_COLORS]], 0)
    place = tf.searchsorted(ids, tf.reshape(color, [-1]))
    place = tf.reshape(place, tf.shape(color))
    found = tf.gather(ids, place) == color
    for key, values in (
      ("instances", order),
      ("semantics", tf.gather(labels, order)),
    ):
      values = tf.concat([values, [-1]], 0) + 1
      labeled = tf.where(found, tf.gather(values, place), 0)[..., None]
      data[key] = tf.ensure_shape(labeled, [*image.shape[:2], 1])
    return data

  return coco_panoptic


@Registry.register("preprocess_ops.make_canonical")
@InKeyOutKey(indefault="labels", outdefault="labels")
def get_make_canonical(
  random: bool = False, main_sort_axis: str = "y"
) -> TensorFn:
  """Numbers instances by their place in the image, or at random.

  Equal label maps have to have equal ids, else a model of them learns noise.

  Args:
    random: bool, whether the order is random.
    main_sort_axis: "y" or "x", along which instances are sorted by their mean
      pixel; the other axis decides where these are (nearly) equal.

  Returns:
    `int32 [H, W, C] -> int32 [H, W, C]`. In the last channel positive ids, of
    any size, become 1, 2, ..., and negative ones -1; 0 and the other channels
    stay.

  Raises:
    ValueError: unknown axis; or, when called, another dtype.
  """
  op = "make_canonical"
  if main_sort_axis not in ("y", "x"):
    raise lookup.unknown(f"axis of {op}", main_sort_axis, ("y", "x"))

  def key_of(ids, place, counts, shape):
    """Returns float64 [number of ids], by which they are sorted."""
    num = tf.size(ids)
    if random:
      return tf.random.stateless_uniform(
        [num], rng.next_seed(), 0, 1, tf.float64
      )
    pixel = tf.range(tf.size(place))
    center = {}
    for axis, at in (("y", pixel // shape[1]), ("x", pixel % shape[1])):
      total = tf.math.unsorted_segment_sum(tf.cast(at, tf.int64), place, num)
      center[axis] = tf.cast(total, tf.float64) / tf.cast(counts, tf.float64)
    extent = tf.cast(shape["yx".index(main_sort_axis)], tf.float64)
    minor = "x" if main_sort_axis == "y" else "y"
    return center[minor] + extent * center[main_sort_axis]

  def make_canonical(labels):
    labels = _with_rank_3(op, labels)
    if labels.dtype != tf.int32:
      raise ValueError(f"{op}: labels must be int32, not {labels.dtype.name}.")
    old = labels[..., -1]
    ids, place, counts = tf.unique_with_counts(tf.reshape(old, [-1]))
    key = key_of(ids, place, counts, tf.shape(labels))
    key = tf.where(ids > 0, key, float("inf"))
    order = tf.argsort(key, stable=True)
    rank = tf.math.invert_permutation(order)
    ids = tf.where(ids > 0, rank + 1, tf.maximum(ids, -1))
    new = tf.reshape(tf.gather(ids, place), tf.shape(old))[..., None]
    new = tf.concat([labels[..., :-1], new], axis=-1)
    return tf.ensure_shape(new, labels.shape)

  return make_canonical


@Registry.register("preprocess_ops.inception_box")
def get_inception_box(
  *,
  area: Sequence[float] = (0.05, 1.0),
  aspect: Sequence[float] = (0.75, 1.33),
  min_obj_cover: float = 0.0,
  outkey: str = "box",
  inkey: str = "image",
) -> ExampleFn:
  """Draws a part of an image, for `crop_box` to crop image and labels.

  Args:
    area: (float, float), least and largest area, fractions of the image.
    aspect: (float, float), least and largest aspect ratio, width / height.
    min_obj_cover: float, the fraction of at least one object that has to lie in
      the box, of those in the entry `objects/bbox`, float32 [N, 4] (ymin, xmin,
      ymax, xmax) in [0, 1]. At 0 they are not needed.
    outkey: str, entry for the box: (begin, size), each float32 [2], (y, x)
      relative to the image.
    inkey: str, entry with the image.

  Returns:
    `dict -> dict`. If no box like this is found in 100 attempts, it is the
    whole image.

  Raises:
    ValueError: a range is not one.

  References: Szegedy et al. 2014, section 6, https://arxiv.org/abs/1409.4842.
  """
  op = "inception_box"
  for name, values, most in (("area", area, 1), ("aspect", aspect, None)):
    if len(values) != 2 or not 0 < values[0] <= values[1] <= (
      most or values[1]
    ):
      limit = "in (0, 1]" if most else "> 0"
      raise ValueError(f"{op}: {name}={values!r} must be two numbers {limit}.")

  def boxes_of(data):
    if not min_obj_cover:
      return tf.zeros([0, 0, 4])
    needs = "min_obj_cover is about the boxes in objects/bbox."
    objects = _entry(op, data, "objects", needs)
    boxes = tf.convert_to_tensor(_entry(op, objects, "bbox", needs))
    return tf.cast(boxes, tf.float32)[None]

  def inception_box(data):
    image = _with_rank_3(op, _entry(op, data, inkey, "Set inkey."), None, inkey)
    shape = tf.shape(image)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
      shape,
      boxes_of(data),
      seed=rng.next_seed(),
      area_range=tuple(area),
      aspect_ratio_range=tuple(aspect),
      min_object_covered=min_obj_cover,
      use_image_if_no_bounding_boxes=True,
    )
    data[outkey] = tuple(_relative(x[:2], shape[:2]) for x in (begin, size))
    return data

  return inception_box


def _relative(pixels, extent):
  """Divides so that the product, rounded down, gives the same pixels again."""
  pixels, extent = tf.cast(pixels, tf.float32), tf.cast(extent, tf.float32)
  x = pixels / extent
  larger = tf.math.nextafter(x, tf.ones_like(x))
  return tf.where(x * extent < pixels, larger, x)


@Registry.register("preprocess_ops.crop_box")
@InKeyOutKey(with_data=True)
def get_crop_box(*, boxkey: str = "box") -> Callable[..., Any]:
  """Crops the part that `inception_box` has drawn.

  Args:
    boxkey: str, entry with the box: (begin, size), each float32 [2], (y, x)
      relative to the image.

  Returns:
    `[H, W, C] -> [h, w, C]` of the same dtype; fractions of pixels are dropped.
  """
  op = "crop_box"

  def crop_box(image, data):
    image = _with_rank_3(op, image)
    box = _entry(op, data, boxkey, "inception_box makes it.")
    extent = tf.cast(tf.shape(image)[:2], tf.float32)
    begin, size = (tf.cast(extent * x, tf.int32) for x in tuple(box))
    crop = tf.slice(
      image, tf.concat([begin, [0]], 0), tf.concat([size, [-1]], 0)
    )
    return tf.ensure_shape(crop, [None, None, image.shape[-1]])

  return crop_box


@Registry.register("preprocess_ops.randu")
def get_randu(key: str) -> ExampleFn:
  """Draws a number from the uniform distribution on [0, 1).

  Args:
    key: str, entry for it.

  Returns:
    `dict -> dict` with a float32 scalar.
  """

  def randu(data):
    data[key] = tf.random.stateless_uniform([], rng.next_seed())
    return data

  return randu


@Registry.register("preprocess_ops.det_fliplr")
@InKeyOutKey(with_data=True)
def get_det_fliplr(*, randkey: str = "fliplr") -> Callable[..., Any]:
  """Exchanges left and right if a number of the example is more than 0.5.

  With one number image and labels are flipped together.

  Args:
    randkey: str, entry with the number, see `randu`.

  Returns:
    `[H, W, C] -> [H, W, C]` of the same dtype.
  """
  op = "det_fliplr"

  def det_fliplr(image, data):
    image = _with_rank_3(op, image)
    number = _entry(op, data, randkey, f"randu({randkey!r}) makes it.")
    flipped = tf.where(
      tf.convert_to_tensor(number) > 0.5, image[:, ::-1], image
    )
    return tf.ensure_shape(flipped, image.shape)

  return det_fliplr


@Registry.register("preprocess_ops.strong_hash")
@InKeyOutKey(indefault="tfds_id", outdefault="tfds_id")
def get_strong_hash() -> TensorFn:
  """Makes a number of a name, for example as the seed of an example.

  Returns:
    `string tensor -> int64 tensor` in [0, 2^63 - 1).
  """

  def strong_hash(name):
    name = tf.convert_to_tensor(name)
    if name.dtype != tf.string:
      raise ValueError(f"strong_hash needs a string, not {name.dtype.name}.")
    return tf.strings.to_hash_bucket_strong(name, _HASH_BUCKETS, _HASH_KEY)

  return strong_hash
