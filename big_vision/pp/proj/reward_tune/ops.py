"""Boxes of objects as a sequence of tokens, for models of sequences.

What tokens mean says `trainers/proj/reward_tune/detection_reward.py`.

Shapes: `N` objects of an example.
"""

from __future__ import annotations

from collections.abc import Sequence

from big_vision import lookup
from big_vision.pp import rng
from big_vision.pp.registry import Registry
from big_vision.pp.types import ExampleFn
from big_vision.tf import tf


@Registry.register("preprocess_ops.boxes2seq")
def get_boxes2seq(
  max_boxes: int,
  max_level: int = 1000,
  max_conf: int = 2,
  shuffle: bool = True,
  random_conf: bool = False,
  inkey: str = "objects/bbox",
  labels_key: str = "objects/label",
  outkey: str = "labels",
) -> ExampleFn:
  """Writes boxes as tokens: [y0, x0, y1, x1, class, confidence] of each.

  Args:
    max_boxes: int, how many there is room for; 0 follows them. If there are
      more, the first ones in the order are taken.
    max_level: int, token of the far edge, less the `max_conf + 1` of the near
      one.
    max_conf: int, the largest confidence, that of all boxes.
    shuffle: bool, puts boxes into a random order each time.
    random_conf: bool, gives boxes any confidence but 0. A model that has seen
      only one does not know how to go on after others, which it draws as soon
      as it learns confidences.
    inkey: str, entry of the boxes, float [N, 4], (y0, x0, y1, x1) relative to
      the image.
    labels_key: str, entry of their classes, int [N].
    outkey: str, entry for the tokens, int32 [6 * max_boxes].

  Returns:
    `dict -> dict`.

  Raises:
    ConfigError: a number is not positive.
  """
  for name, value in dict(max_boxes=max_boxes, max_level=max_level).items():
    if value < 1:
      raise lookup.ConfigError(f"boxes2seq: {name}={value} must be 1 or more.")

  def boxes2seq(data):
    boxes = tf.cast(data[inkey], tf.float32)
    labels = tf.cast(data[labels_key], tf.int32)
    seed, conf_seed = rng.next_seed(), rng.next_seed()
    num = tf.shape(boxes)[0]
    order = tf.range(num)
    if shuffle:
      order = tf.random.experimental.stateless_shuffle(order, seed)
    order = order[:max_boxes]
    conf = tf.fill([num, 1], max_conf)
    if random_conf:
      conf = tf.random.stateless_uniform(
        [num, 1], conf_seed, 1, max_conf + 1, tf.int32
      )
    places = tf.cast(
      tf.round(tf.clip_by_value(boxes, 0, 1) * max_level), tf.int32
    )
    seq = tf.concat(
      [
        places + max_conf + 1,
        labels[:, None] + max_conf + 1 + max_level + 1,
        conf,
      ],
      axis=1,
    )
    seq = tf.reshape(tf.gather(seq, order), [-1])
    seq = tf.pad(seq, [[0, 6 * max_boxes - tf.size(seq)]])
    data[outkey] = tf.ensure_shape(seq, [6 * max_boxes])
    return data

  return boxes2seq


@Registry.register("preprocess_ops.jitter_boxes")
def get_jitter_boxes(
  shift: float = 0.1,
  flip: bool = True,
  image_key: str = "image",
  key: str = "objects/bbox",
) -> ExampleFn:
  """Mirrors and moves pictures at random, with the boxes of objects.

  Pixels that come in are those of the nearest border. Boxes are cut off at it,
  to nothing if their object has left.

  Args:
    shift: float in [0, 1), how far pictures move at most, up or down and to
      either side, relative to their size.
    flip: bool, whether half of them are mirrored, left to right.
    image_key: str, entry of the picture, [H, W, C].
    key: str, entry of the boxes, float [N, 4], (y0, x0, y1, x1) relative to the
      image.

  Returns:
    `dict -> dict`.

  Raises:
    ConfigError: `shift` is out of range.
  """
  if not 0 <= shift < 1:
    raise lookup.ConfigError(
      f"jitter_boxes: shift={shift} should be in [0, 1)."
    )

  def jitter_boxes(data):
    image, boxes = data[image_key], tf.cast(data[key], tf.float32)
    size = tf.shape(image)[:2]
    most = tf.cast(tf.cast(size, tf.float32) * shift, tf.int32)
    moves = tf.random.stateless_uniform([3], rng.next_seed())
    # Whole pixels, from -most to most.
    span = tf.cast(2 * most + 1, tf.float32)
    move = tf.cast(moves[:2] * span, tf.int32) - most
    places = [
      tf.clip_by_value(tf.range(size[i]) - move[i], 0, size[i] - 1)
      for i in (0, 1)
    ]
    mirrored = moves[2] < 0.5 if flip else tf.constant(False)
    columns = tf.where(mirrored, tf.reverse(places[1], [0]), places[1])
    moved = tf.gather(tf.gather(image, places[0], axis=0), columns, axis=1)
    data[image_key] = tf.ensure_shape(moved, image.shape)
    boxes += tf.tile(tf.cast(move, tf.float32) / tf.cast(size, tf.float32), [2])
    y0, x0, y1, x1 = tf.unstack(boxes, axis=1)
    x0, x1 = tf.where(mirrored, 1 - x1, x0), tf.where(mirrored, 1 - x0, x1)
    data[key] = tf.clip_by_value(tf.stack([y0, x0, y1, x1], axis=1), 0, 1)
    return data

  return jitter_boxes


@Registry.register("preprocess_ops.drop_objects")
def get_drop_objects(
  flag: str = "objects/is_crowd",
  keys: Sequence[str] = ("objects/bbox", "objects/label"),
) -> ExampleFn:
  """Leaves out the objects that are marked, such as crowds in COCO.

  Args:
    flag: str, entry that marks them, bool [N].
    keys: list of str, entries [N, ...] that lose them.

  Returns:
    `dict -> dict`.
  """

  def drop_objects(data):
    keep = ~tf.cast(data[flag], tf.bool)
    for key in keys:
      data[key] = tf.boolean_mask(data[key], keep)
    return data

  return drop_objects
