"""Rewards panoptic segmentations: sum of IoU of matches minus what has none.

Section 4 of Pinto et al. 2023, https://arxiv.org/abs/2302.08242: panoptic
quality is not a mean over images, so an image is rewarded by the sum over matches
of their intersection over union (IoU), minus a weight for each predicted
segment without a match. Matches are those of panoptic quality: the same class,
and an IoU above 1/2.

Segments are pixels of one (class, instance); class 0 is none. As in COCO's
evaluation, pixels without a class in the truth do not count, and predictions of
which more than half is there are no mistakes.

Shapes: `B` examples, `N` samples, `H, W` pixels, `S` segments.
"""

import functools

import jax
import jax.numpy as jnp

from big_vision.trainers.proj.reward_tune import reinforce
from big_vision.types import Array, ConfigLike


def get_reward(config: ConfigLike) -> reinforce.Reward:
  """Makes the reward of segmentations.

  Args:
    config: `config.reward`; reads `unmatched_w`, the weight of predicted
      segments without a match, by default 0.3, and `max_segments`, by default
      100.

  Returns:
    `(int [B, N, H, W, 2], int [B, H, W, 2]) -> [B, N]`: maps of class and
    instance, both from 0 on.
  """
  fn = functools.partial(
    _of_one,
    unmatched_w=config.get("unmatched_w", 0.3),
    max_segments=config.get("max_segments", 100),
  )
  return jax.vmap(jax.vmap(fn, (0, None)))


def _of_one(predicted, truth, unmatched_w, max_segments):
  """Computes the reward [] of a segmentation [H, W, 2]."""
  place, classes = _segments(predicted, max_segments)
  true_place, true_classes = _segments(truth, max_segments)
  # 0 is what has no class.
  overlap = jnp.zeros([max_segments + 1] * 2).at[place, true_place].add(1.0)
  area, void = overlap.sum(axis=1), overlap[:, 0]
  union = (area - void)[:, None] + overlap.sum(axis=0)[None, :] - overlap
  iou = overlap / jnp.maximum(union, 1.0)
  same = (classes[:, None] == true_classes[None, :]) & (classes > 0)[:, None]
  is_match = same & (iou > 0.5)
  counts = (classes > 0) & (area > 0) & (2 * void <= area)
  unmatched = counts & ~jnp.any(is_match, axis=1)
  return jnp.sum(iou * is_match) - unmatched_w * jnp.sum(unmatched)


def _segments(labels: Array, max_segments: int) -> tuple[Array, Array]:
  """Numbers segments from 1 on; what is beyond the most is in none.

  Returns:
    (numbers int [H * W], classes int [S + 1] by number; 0 for no segment).
  """
  labels = labels.reshape(-1, 2).astype(jnp.int32)
  has_class = labels[:, :1] > 0
  labels = jnp.where(has_class, labels, 0)
  # Nothing comes first, whether there is any or not.
  labels = jnp.concatenate([jnp.zeros([1, 2], jnp.int32), labels])
  found, place = jnp.unique(
    labels,
    axis=0,
    size=max_segments + 1,
    fill_value=0,
    return_inverse=True,
  )
  place = place.reshape(-1)[1:]
  return jnp.where(place > max_segments, 0, place), found[:, 0]
