"""RefCOCO: the mask of an object as text.

Shapes: B masks, H height, W width, N objects of an image.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from big_vision import lookup
from big_vision.pp import batched, resizing
from big_vision.pp.proj.paligemma import ops
from big_vision.pp.registry import Registry
from big_vision.pp.types import ExampleFn
from big_vision.tf import tf


def _codec():
  """Imports the codec of masks.

  By its name, as trainers import models: those ask for preprocessing, too.
  """
  name = "proj.paligemma.mask_codec"
  return lookup.module("models", name, kind="codec of masks")


def encode_to_codebook_indices(
  checkpoint: Mapping[str, Any], masks: tf.Tensor
) -> tf.Tensor:
  """Encodes masks, within graphs, too; see `mask_codec`.

  Args:
    checkpoint: result of `mask_codec.load`.
    masks: float32 [B, 64, 64, 1], 1 inside and 0 outside of the object.

  Returns:
    int32 [B, 16].
  """
  codec = _codec()
  masks = tf.cast(masks, tf.float32)
  encode = functools.partial(codec.encode_to_codebook_indices, checkpoint)
  codes = tf.numpy_function(encode, [masks], tf.int32, stateful=False)
  return tf.ensure_shape(codes, [masks.shape[0], 16])


@Registry.register("preprocess_ops.instance_masks")
def get_instance_masks(
  inkey: str = "panoptic",
  objects_key: str = "boxes/bbox",
  outkey: str = "boxes/mask",
) -> ExampleFn:
  """Makes masks of all objects of a map that numbers them, as that of `shapes`.

  Of one object at random, with what is known of it, as `refcoco_mask2str` reads
  it:

    flatten|instance_masks|choice(inkey=["boxes/mask", "boxes/bbox",
      "boxes/expression"], outkey=["objects/mask", "objects/bbox",
      "objects/refs/sentence"])

  Args:
    inkey: str, entry with the map, integers [H, W, C]: its last channel is 1 at
      the first object, 2 at the second one, and 0 where there is none.
    objects_key: str, entry with one item for each object.
    outkey: str, entry for the masks.

  Returns:
    `dict -> dict`, with uint8 [N, H, W, 3], 255 inside and 0 outside of the
    object. Called with a map of another rank or type it raises ConfigError; an
    object that the map has beyond the N is an error, too.
  """

  def instance_masks(data):
    ids = tf.convert_to_tensor(data[inkey])
    if not ids.dtype.is_integer or ids.shape.rank not in (3, None):
      raise lookup.ConfigError(
        f"instance_masks: {inkey!r} must have integers [H, W, C], not "
        f"{ids.dtype.name} {ids.shape}. Set inkey."
      )
    ids = tf.cast(tf.ensure_shape(ids, [None] * 3)[..., -1:], tf.int32)
    objects = tf.convert_to_tensor(data[objects_key])
    num = tf.shape(objects)[0]
    check = tf.debugging.assert_less_equal(
      tf.reduce_max(ids),
      num,
      message=f"instance_masks: {objects_key!r} lacks objects of {inkey!r}",
    )
    with tf.control_dependencies([check] if check is not None else []):
      numbers = tf.reshape(tf.range(1, num + 1), [-1, 1, 1, 1])
    masks = tf.repeat(tf.cast(ids == numbers, tf.uint8) * 255, 3, axis=-1)
    shape = [*objects.shape[:1], *ids.shape[:2], 3]
    data[outkey] = tf.ensure_shape(masks, shape)
    return data

  return batched.touches(instance_masks, inkey, objects_key, outkey)


@Registry.register("preprocess_ops.refcoco_mask2str")
def get_refcoco_mask2str(model: str = "oi") -> ExampleFn:
  """Writes the box and the mask of an object as text, and what it is called.

  Args:
    model: str, weights of the codec: "oi", or path or URL of an npz file.

  Returns:
    `dict -> dict`: of `objects/mask` uint8 [H, W, C], 0 or 255, of which the
    first channel counts, `objects/bbox` float32 [4], (ymin, xmin, ymax, xmax)
    relative to the image, and `objects/refs/sentence`, a scalar string, it
    makes the scalar strings `prefix`, the sentence, and `suffix`, four tokens
    for the box and 16 for the mask within it. A box without pixels is an error.

  Raises:
    ValueError: the weights cannot be had, or lack an array.
  """
  codec = _codec()
  checkpoint = codec.load(model)
  codec.check(checkpoint, "encoder", model)

  def refcoco_mask2str(data):
    mask = tf.convert_to_tensor(data["objects/mask"])[..., :1]
    box = tf.ensure_shape(tf.cast(data["objects/bbox"], tf.float32), [4])
    extent = tf.cast(tf.shape(mask)[:2], tf.float32)
    corners = tf.round(box * tf.tile(extent, [2]))
    corners = tf.cast(tf.maximum(corners, 0), tf.int32)
    top, left, bottom, right = tf.unstack(corners)
    mask = mask[top:bottom, left:right]
    mask = resizing.checked(
      mask,
      tf.size(mask) > 0,
      "refcoco_mask2str: the box objects/bbox has {} x {} pixels of "
      "objects/mask.",
      mask,
    )
    small = tf.image.resize(mask, (codec.SIDE, codec.SIDE), antialias=True)
    codes = encode_to_codebook_indices(checkpoint, small[None] / 255)[0]
    numbers = tf.strings.as_string(codes, width=3, fill="0")
    tokens = tf.strings.join(["<seg", numbers, ">"])
    tokens = tf.strings.reduce_join(tokens, axis=-1)
    data["prefix"] = data["objects/refs/sentence"]
    data["suffix"] = tf.strings.join([ops.box_tokens(box), tokens])
    return data

  return batched.touches(
    refcoco_mask2str,
    "objects/mask",
    "objects/bbox",
    "objects/refs/sentence",
    "prefix",
    "suffix",
  )
