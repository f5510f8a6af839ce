"""Panoptic quality against values by hand, and a matcher that loops."""

import numpy as np
import panoptic_brute_force
import pytest

from big_vision import panoptic


def segments(*rows, with_areas_of=None):
  """Segments of rows (id, class[, area[, is_crowd]])."""
  full = [(*row, *(0, False)[len(row) - 2 :]) for row in rows]
  ids, classes, areas, crowds = (
    np.array([row[i] for row in full], int) for i in range(4)
  )
  if with_areas_of is not None:
    areas = np.array([(np.array(with_areas_of) == i).sum() for i in ids], int)
  return panoptic.Segments(ids, classes, areas, crowds.astype(bool))


def random_map(rng, size, max_segments, num_classes, is_truth):
  """A map of rectangles, some of them void, and its segments."""
  ids = np.zeros(size, np.int64)
  names = rng.integers(1, 2**24 - 5, max_segments)
  for name in [*names, *[panoptic.VOID] * 2]:
    y, x = (np.sort(rng.integers(0, n + 1, 2)) for n in size)
    ids[y[0] : y[1], x[0] : x[1]] = name
  rows = []
  for name in rng.permutation(np.unique(ids[ids != panoptic.VOID])):
    area = int((ids == name).sum())
    if is_truth and rng.random() < 0.2:  # Annotations need not fit the pixels.
      area = max(1, area + int(rng.integers(-2, 3)))
    crowd = bool(is_truth and rng.random() < 0.3)
    rows.append((int(name), int(rng.integers(num_classes)), area, crowd))
  return ids, segments(*rows)


def disturbed(rng, truth, true_segments, num_classes):
  """Truth with other ids, some other pixels and some other classes."""
  ids = np.where(truth == panoptic.VOID, 0, truth + 5)
  for _ in range(rng.integers(0, 3)):
    y, x = (rng.integers(0, n) for n in ids.shape)
    ids[y : y + 2, x : x + 3] = rng.choice(ids.flatten())
  rows = []
  for i, category in zip(true_segments.ids, true_segments.classes, strict=True):
    if (ids == i + 5).any():
      changed = rng.random() < 0.2
      category = rng.integers(num_classes) if changed else category
      rows.append((int(i) + 5, int(category)))
  return ids, segments(*rows)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_random_maps(num_classes):
  rng = np.random.default_rng(num_classes)
  total, sums = panoptic.zero(num_classes), np.zeros((4, num_classes))
  for i in range(60):
    size = tuple(rng.integers(1, 8, 2))
    truth = random_map(rng, size, int(rng.integers(0, 7)), num_classes, True)
    guess = random_map(rng, size, int(rng.integers(0, 5)), num_classes, False)
    if i % 3:
      guess = disturbed(rng, *truth, num_classes)
    counts = panoptic.count(*guess, *truth, num_classes)
    expected = panoptic_brute_force.count(*guess, *truth, num_classes)
    np.testing.assert_allclose(counts, expected, rtol=1e-12)
    total, sums = panoptic.add(total, counts), sums + expected
  np.testing.assert_allclose(total, sums, rtol=1e-12)
  assert (sums >= 2).all()  # Everything occurs.


THINGS = [True, True, False]  # Of three classes: A, B and the stuff C.
TRUTH = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3], [3, 3, 3, 0]])
TRUE = segments((1, 0), (2, 0), (3, 2), with_areas_of=TRUTH)


def score(predicted, *rows, truth=TRUTH, true=TRUE):
  counts = panoptic.count(
    np.array(predicted), segments(*rows), np.array(truth), true, 3
  )
  return counts, panoptic.summary(counts, THINGS)


def check(counts, iou, tp, fp, fn):
  np.testing.assert_allclose(counts, [iou, tp, fp, fn], rtol=1e-12)


def test_perfect():
  counts, result = score(TRUTH, (1, 0), (2, 0), (3, 2))
  check(counts, [2, 0, 1], [2, 0, 1], [0, 0, 0], [0, 0, 0])
  assert list(result) == [
    f"{group}_{name}" for group in ("All", "Stuff", "Things")
    for name in ("pq", "rq", "sq")
  ]  # fmt: skip
  assert set(result.values()) == {1.0}


def test_swapped_instances_are_the_same():
  swapped = np.array([0, 2, 1, 3])[TRUTH]
  counts, _ = score(swapped, (2, 0), (1, 0), (3, 2))
  check(counts, [2, 0, 1], [2, 0, 1], [0, 0, 0], [0, 0, 0])


def test_merged_instances():
  """One segment for both: its IoU is 4 / 8, which is not above 1/2."""
  merged = np.array([0, 1, 1, 3])[TRUTH]
  counts, result = score(merged, (1, 0), (3, 2))
  check(counts, [0, 0, 1], [0, 0, 1], [1, 0, 0], [2, 0, 0])
  assert result["All_pq"] == 0.5 and result["Things_pq"] == 0
  # A class that occurs without a match has the qualities 0.
  assert result["All_sq"] == 0.5 and result["Stuff_sq"] == 1


def test_wrong_class():
  counts, result = score(TRUTH, (1, 0), (2, 1), (3, 2))
  check(counts, [1, 0, 1], [1, 0, 1], [0, 1, 0], [1, 0, 0])
  # Class A: 1 / (1 + 1/2); class B: 0; class C: 1.
  assert result["All_pq"] == pytest.approx((2 / 3 + 0 + 1) / 3)
  assert result["Things_rq"] == pytest.approx(1 / 3)


def test_nothing_predicted():
  counts, result = score(np.zeros((4, 4), int))
  check(counts, [0, 0, 0], [0, 0, 0], [0, 0, 0], [2, 0, 1])
  assert result["All_pq"] == 0


def test_nothing_to_predict():
  none = np.zeros((4, 4), int)
  counts, result = score(none, truth=none, true=segments())
  check(counts, *np.zeros((4, 3)))
  assert all(np.isnan(v) for v in result.values())
  # What is predicted there is void, and no mistake.
  counts, _ = score(TRUTH, (1, 0), (2, 0), (3, 2), truth=none, true=segments())
  check(counts, *np.zeros((4, 3)))


def test_iou_leaves_void_out():
  """Segment 3 has 8 of 8 predicted pixels, one of which is void: 7 / 7."""
  predicted = np.where(TRUTH == 0, 3, TRUTH)
  counts, _ = score(predicted, (1, 0), (2, 0), (3, 2))
  check(counts, [2, 0, 1], [2, 0, 1], [0, 0, 0], [0, 0, 0])
  # Without void there: 3 predicted as 9 pixels, IoU 7 / 8 after void.
  predicted[1, 3] = 3
  counts, _ = score(predicted, (1, 0), (2, 0), (3, 2))
  check(counts, [1 + 3 / 4, 0, 7 / 8], [2, 0, 1], [0, 0, 0], [0, 0, 0])


def test_unmatched_predictions_in_void():
  truth = [[0, 0, 1, 1]] * 4
  true = segments((1, 0), with_areas_of=truth)
  # Half of segment 5 is void: a false positive. More than half: excused.
  half = [[0, 5, 5, 0]] * 4
  check(
    score(half, (5, 1), truth=truth, true=true)[0],
    [0] * 3, [0] * 3, [0, 1, 0], [1, 0, 0],
  )  # fmt: skip
  half[0] = [5, 5, 5, 0]
  check(
    score(half, (5, 1), truth=truth, true=true)[0],
    [0] * 3, [0] * 3, [0] * 3, [1, 0, 0],
  )  # fmt: skip


def test_crowds():
  """They are not missed, never matched, and excuse those of their class."""
  truth = [[1, 1, 2, 2]] * 4
  true = segments((1, 0, 8, True), (2, 1, 8))
  check(
    score([[0, 0, 6, 6]] * 4, (6, 1), truth=truth, true=true)[0],
    [0, 1, 0], [0, 1, 0], [0] * 3, [0] * 3,
  )  # fmt: skip
  check(  # Segment 5 is exactly the crowd, and does not count.
    score([[5, 5, 6, 6]] * 4, (5, 0), (6, 1), truth=truth, true=true)[0],
    [0, 1, 0], [0, 1, 0], [0] * 3, [0] * 3,
  )  # fmt: skip
  check(  # It is of another class.
    score([[5, 5, 6, 6]] * 4, (5, 2), (6, 1), truth=truth, true=true)[0],
    [0, 1, 0], [0, 1, 0], [0, 0, 1], [0] * 3,
  )  # fmt: skip


def test_last_crowd_of_a_class_counts():
  truth = [[1, 1, 2, 2]] * 4
  two = lambda *order: segments(*((i, 0, 8, True) for i in order))
  guess = [[5, 5, 0, 0]] * 4  # In the first crowd.
  check(
    score(guess, (5, 0), truth=truth, true=two(1, 2))[0],
    [0] * 3, [0] * 3, [1, 0, 0], [0] * 3,
  )  # fmt: skip
  check(
    score(guess, (5, 0), truth=truth, true=two(2, 1))[0],
    [0] * 3, [0] * 3, [0] * 3, [0] * 3,
  )  # fmt: skip


def test_area_of_the_truth_is_that_of_its_annotation():
  """IoU 4 / (4 + 6 - 4), and 4 / (4 + 8 - 4), which is no match."""
  guess = np.array([0, 1, 0, 0])[TRUTH]
  true = lambda area: segments((1, 0, area))
  counts, _ = score(guess, (1, 0), true=true(6))
  check(counts, [2 / 3, 0, 0], [1, 0, 0], [0] * 3, [0] * 3)
  counts, _ = score(guess, (1, 0), true=true(8))
  check(counts, [0] * 3, [0] * 3, [1, 0, 0], [1, 0, 0])


@pytest.mark.parametrize(
  "predicted,rows,message",
  [
    (TRUTH, [(1, 0), (2, 0)], r"ids without a segment: \[3\]"),
    (TRUTH, [(1, 0), (2, 0), (3, 2), (9, 2)], r"without pixels: \[9\]"),
    (TRUTH, [(1, 0), (1, 0), (2, 0), (3, 2)], "distinct"),
    (TRUTH, [(0, 0), (1, 0), (2, 0), (3, 2)], "not 0"),
    (TRUTH, [(1, 0), (2, 3), (3, 2)], r"below 3: \[0, 2, 3\]"),
    (TRUTH[:3], [(1, 0), (2, 0), (3, 2)], r"\(3, 4\).*\(4, 4\)"),
  ],
)
def test_maps_that_do_not_fit(predicted, rows, message):
  with pytest.raises(ValueError, match=message):
    score(predicted, *rows)


def test_segments_of_channels():
  channels = np.stack(
    [[[1, 1, 0, 3], [1, 2, 0, 3]], [[0, 7, 5, -1], [7, 7, 0, 999]]], axis=-1
  )
  ids, found = panoptic.segments_of_channels(channels, 3)
  np.testing.assert_array_equal(ids, [[1, 2, 0, 4], [2, 3, 0, 5]])
  np.testing.assert_array_equal(found.ids, [1, 2, 3, 4, 5])
  np.testing.assert_array_equal(found.classes, [0, 0, 1, 2, 2])
  np.testing.assert_array_equal(found.areas, [1, 2, 1, 1, 1])
  for bad in (4, -1):
    channels[0, 0, 0] = bad
    with pytest.raises(ValueError, match=rf"0 .* to 3 .*\[{bad}\]"):
      panoptic.segments_of_channels(channels, 3)
  ids, found = panoptic.segments_of_channels(np.zeros((2, 2, 2), int), 3)
  assert not ids.any() and not len(found.ids)


def test_many_instances():
  """A thousand of them are a thousand segments."""
  instances = np.arange(1024).reshape(32, 32)
  channels = np.stack([np.ones_like(instances), instances], axis=-1)
  ids, found = panoptic.segments_of_channels(channels, 1)
  assert len(found.ids) == len(np.unique(ids)) == 1024
  counts = panoptic.count(ids, found, ids, found, 1)
  assert counts.tp[0] == 1024 and panoptic.qualities(counts)["pq"][0] == 1


def test_rgb():
  ids = np.array([[0, 255, 256], [65536, 2**24 - 1, 1 + 2 * 256 + 3 * 65536]])
  rgb = panoptic.rgb_of_ids(ids)
  assert rgb.dtype == np.uint8 and rgb[1, 2].tolist() == [1, 2, 3]
  np.testing.assert_array_equal(panoptic.ids_of_rgb(rgb), ids)
  for bad in (-1, 2**24):
    with pytest.raises(ValueError, match=str(bad)):
      panoptic.rgb_of_ids(ids + [[bad]])
