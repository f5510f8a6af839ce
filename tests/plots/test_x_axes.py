"""Axes of curves against NumPy."""

import numpy as np

from big_vision.plots import x_axes


def test_places_are_interpolated():
  axis = [0, 10, 30], [0.0, 5.0, 6.0]
  at = [0, 3, 10, 17, 30]
  np.testing.assert_allclose(x_axes.place(at, axis), np.interp(at, *axis))
  np.testing.assert_allclose(x_axes.place([50, -2], axis), [7, -1])
  assert x_axes.place([1, 2], ([3], [4.0])) == [4.0, 4.0]


def test_hours_add_up_over_processes():
  uptime = [1, 2, 3, 4, 5, 6], [1800, 3600, 60, 3600, 10, 20]
  steps, hours = x_axes.axes({"uptime": uptime})["hours"]
  assert steps == [0, 1, 2, 3, 4, 5, 6]
  want = [0, 1800, 3600, 3660, 7200, 7210, 7220]
  np.testing.assert_allclose(hours, np.array(want) / 3600)


def test_learning_rates_of_several_schedules():
  series = {k: ([1], [0.5]) for k in ("global_schedule", "global_schedule1")}
  found = x_axes.with_learning_rates(series, {"lr": 0.1})
  assert found["lr"] == ([1], [0.05]) == found["lr1"]
  own = series | {"lr": ([1], [7.0])}  # What a trainer logs counts.
  assert x_axes.with_learning_rates(own, {"lr": 0.1})["lr"] == ([1], [7.0])
  assert x_axes.with_learning_rates(series, {}) == series
