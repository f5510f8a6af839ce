"""Rewards of segmentations: by hand, and against `big_vision.panoptic`."""

import jax
import numpy as np
import pytest

from big_vision import panoptic
from big_vision.trainers.proj.reward_tune import panoptic_reward


def maps(classes, instances):
  return np.stack([classes, instances], axis=-1).astype(np.int32)


def test_by_hand():
  """A row of ten pixels."""
  truth = maps([[1, 1, 1, 1, 2, 2, 2, 2, 0, 0]], [[0] * 4 + [0] * 4 + [0, 0]])
  reward = jax.jit(panoptic_reward.get_reward(dict(unmatched_w=0.25)))
  value = lambda c, i: float(
    reward(maps([c], [i])[None, None], truth[None])[0, 0]
  )
  one = [0] * 10
  assert value([1] * 4 + [2] * 4 + [0] * 2, one) == pytest.approx(2)
  # Pixels without a class in the truth do not count.
  assert value([1] * 4 + [2] * 6, one) == pytest.approx(2)
  # Three of four: an IoU of 3 / 4; the other class has 4 / 5.
  assert value([1] * 3 + [2] * 5 + [0] * 2, one) == pytest.approx(3 / 4 + 4 / 5)
  # Another class, and instances that split a segment in halves.
  assert value([1] * 4 + [3] * 4 + [0] * 2, one) == pytest.approx(1 - 0.25)
  halves = [0] * 4 + [1, 1, 2, 2] + [0] * 2
  assert value([1] * 4 + [2] * 4 + [0] * 2, halves) == pytest.approx(1 - 0.5)
  # What lies where nothing is known is no mistake; nothing is worth nothing.
  assert value([1] * 4 + [2] * 4 + [3] * 2, one) == pytest.approx(2)
  assert value([0] * 10, one) == 0


def segments(labels):
  """(map of ids, Segments) as `panoptic` has them."""
  pairs = labels.reshape(-1, 2)
  pairs = np.where(pairs[:, :1] > 0, pairs, 0)
  found, place = np.unique(pairs, axis=0, return_inverse=True)
  ids = np.where(found[:, 0] > 0, 1 + np.arange(len(found)), panoptic.VOID)
  image = ids[place.reshape(-1)].reshape(labels.shape[:2])
  there = found[:, 0] > 0
  areas = np.array([(image == i).sum() for i in ids[there]])
  return image, panoptic.Segments(
    ids[there], found[there, 0], areas, np.zeros(there.sum(), bool)
  )


def test_same_as_panoptic_quality():
  rng = np.random.default_rng(0)
  coarse = lambda high: rng.integers(0, high, (4, 4)).repeat(4, 0).repeat(4, 1)
  truths = np.stack([maps(coarse(3), coarse(2)) for _ in range(8)])
  noise = rng.random((8, 3, 16, 16, 1)) < rng.random((8, 3, 1, 1, 1)) * 0.6
  drawn = rng.integers(0, 3, (8, 3, 16, 16, 2))
  predicted = np.where(noise, drawn, truths[:, None])
  got = jax.jit(panoptic_reward.get_reward({}))(predicted, truths)
  assert got.shape == (8, 3)
  matches = 0
  for i in range(8):
    for j in range(3):
      counts = panoptic.count(
        *segments(predicted[i, j]), *segments(truths[i]), num_classes=3
      )
      matches += counts.tp.sum()
      want = counts.iou.sum() - 0.3 * counts.fp.sum()
      assert got[i, j] == pytest.approx(want, abs=1e-5)
  assert matches > 20


def test_more_segments_than_there_is_room_for():
  labels = maps(np.ones([1, 6]), [[0, 1, 2, 3, 4, 5]])
  reward = panoptic_reward.get_reward(dict(max_segments=4))
  assert reward(labels[None, None], labels[None])[0, 0] == 4
