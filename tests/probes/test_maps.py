"""Metrics of maps against scikit-learn and closed forms."""

import numpy as np
import pytest

from big_vision.probes import maps


@pytest.mark.parametrize("ignore", [None, 0, 255])
def test_confusion(ignore):
  from sklearn import metrics

  rng = np.random.RandomState(0)
  truth = rng.randint(0, 5, (6, 8, 9))  # Class 5 is in neither.
  truth[rng.rand(*truth.shape) < 0.2] = 255 if ignore == 255 else 0
  predicted = rng.randint(0, 5, truth.shape)
  predicted = np.where(rng.rand(*truth.shape) < 0.6, truth % 6, predicted)
  counts = maps.Confusion(6, ignore)
  counts.add(truth[:2], predicted[:2])
  counts.add(truth[2:], predicted[2:])
  valid = truth != (-1 if ignore is None else ignore)
  t, p = truth[valid], predicted[valid]
  np.testing.assert_array_equal(
    counts.counts, metrics.confusion_matrix(t, p, labels=range(6))
  )
  got = dict(counts.metrics())
  used = [c for c in range(5) if c != ignore]
  want = metrics.jaccard_score(t, p, labels=used, average="macro")
  assert got["mIoU"] == pytest.approx(want)
  assert got["pixel_acc"] == pytest.approx(metrics.accuracy_score(t, p))


def test_nothing_to_measure():
  assert all(np.isnan(v) for _, v in maps.Confusion(3).metrics())
  assert all(np.isnan(v) for _, v in maps.DepthErrors().metrics())


def test_depth():
  rng = np.random.RandomState(0)
  truth, predicted = rng.uniform(1, 9, (2, 5, 4, 3)).astype(np.float32)
  valid = rng.rand(5, 4, 3) < 0.7
  valid[2] = False
  errors = maps.DepthErrors()
  errors.add(truth[:2], predicted[:2], valid[:2])
  errors.add(truth[2:], predicted[2:], valid[2:])
  got = dict(errors.metrics())
  each = [
    np.sqrt(np.mean((p[v] - t[v]) ** 2))
    for t, p, v in zip(truth, predicted, valid, strict=True)
    if v.any()
  ]
  t, p = truth[valid], predicted[valid]
  want = {
    "rmse": np.mean(each),
    "rmse_pixels": np.sqrt(np.mean((p - t) ** 2)),
    "abs_rel": np.mean(np.abs(p - t) / t),
    "delta1": np.mean(np.maximum(p / t, t / p) < 1.25),
  }
  assert got == pytest.approx(want, rel=1e-5)
