"""Intersection over union and average precision, by hand."""

import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import boxes


def test_iou():
  a = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [0, 0, 0, 5], [2, 2, 1, 1]])
  b = np.array([[0, 0, 2, 2], [0, 1, 2, 3], [5, 5, 6, 6]], np.float32)
  got = boxes.iou(a, b)
  want = [[1, 2 / 6, 0], [1 / 7, 2 / 6, 0], [0, 0, 0], [0, 0, 0]]
  np.testing.assert_allclose(got, want)
  assert boxes.iou(np.zeros((0,)), b).shape == (0, 3)
  assert boxes.iou(a, np.zeros((0, 4))).shape == (4, 0)
  assert boxes.iou(a[2:3], a[2:3]) == 0


def test_hits():
  ious = np.array([[0.6, 0.9], [0.0, 0.8], [0.7, 0.95]])
  got = boxes.hits(ious, [0.5, 0.65, 0.85])
  # The first takes the second box, the second one then has none; at 0.85, the
  # third is too late for it.
  np.testing.assert_array_equal(got, [[1, 1, 1], [0, 0, 0], [1, 1, 0]])
  np.testing.assert_array_equal(
    boxes.hits(np.array([[0.7, 0.1], [0.6, 0.2]]), [0.6]), [[1], [0]]
  )
  assert boxes.hits(np.zeros((2, 0)), [0.5]).tolist() == [[False], [False]]
  assert boxes.hits(np.zeros((0, 2)), [0.5]).shape == (0, 1)
  assert boxes.hits(np.array([[0.6]]), [0.1 * 6]).all()  # 0.6000000000000001


@pytest.mark.parametrize(
  "hits, num, want",
  [
    ([1], 1, 1),
    ([0], 1, 0),
    ([], 2, 0),
    ([1, 0, 1], 2, (51 + 50 * 2 / 3) / 101),  # Recalls to 0.50, and above.
    ([0, 1], 1, 1 / 2),
    ([1, 1], 4, 51 / 101),
    # Precisions 1/2, 2/3: the better one holds for lower recalls, too.
    ([0, 1, 1], 2, 2 / 3),
    ([1, 0, 0, 0, 1], 2, (51 + 50 * 2 / 5) / 101),
  ],
)
def test_average_precision(hits, num, want):
  hits = np.array(hits, bool)[:, None]
  got = boxes.average_precision(np.tile(hits, 3), num)
  np.testing.assert_allclose(got, [want] * 3)
