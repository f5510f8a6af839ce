"""Mixtures: which dataset the examples of a batch are drawn from."""

import numpy as np
import pytest

from big_vision.pipeline import mixture, order

pytestmark = pytest.mark.tf


def test_mixture_across_blocks():
  """Restart positions around the borders of the blocks of draws."""
  m = mixture.Draws([1, 2, 3], seed=5)
  stop = mixture._BLOCK + 7
  drawn = next(iter(m.choices(0).batch(stop + 5))).numpy()
  for start in (0, 9, mixture._BLOCK - 1, mixture._BLOCK, stop):
    all_hosts, mine = m.counts(start)
    want = np.bincount(drawn[:start], minlength=3)
    np.testing.assert_array_equal(all_hosts, want)
    np.testing.assert_array_equal(mine, want)
    got = list(m.choices(start).take(5).as_numpy_iterator())
    np.testing.assert_array_equal(got, drawn[start : start + 5])
  np.testing.assert_allclose(
    np.bincount(drawn) / len(drawn), [1 / 6, 2 / 6, 3 / 6], atol=0.02
  )


def test_mixture_of_one_host_counts_only_its_draws():
  m = mixture.Draws([1, 2], 0, order.Layout(8, host=1, num_hosts=2))
  all_hosts, mine = m.counts(80)
  assert all_hosts.sum() == 80 and mine.sum() == 40
