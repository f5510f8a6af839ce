"""Places steps on other axes of plots, and computes the true learning rate."""

import bisect
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Label of an axis, and the metric that has its position at each step.
_METRICS = {"epoch": "epoch", "images": "examples_seen", "hours": "uptime"}
LABELS = ("step", *_METRICS)

Curve = tuple[list[Any], list[float]]


def axes(series: Mapping[str, Curve]) -> dict[str, Curve]:
  """Finds where the steps of a run are on other axes.

  Args:
    series: metric name -> (steps, values).

  Returns:
    Label ("epoch", "images", "hours" of wall time without breaks) -> (steps,
    positions), from step 0 on; without those that the run has not measured.
  """
  found = {}
  for label, metric in _METRICS.items():
    if metric not in series or not series[metric][0]:
      continue
    steps, xs = series[metric]
    xs = _hours(xs) if label == "hours" else list(xs)
    has_begin = steps[0] > 0
    found[label] = [0] * has_begin + list(steps), [0.0] * has_begin + xs
  return found


def _hours(uptimes: Sequence[float]) -> list[float]:
  """Adds up the seconds of processes: each of them begins with 0."""
  out, before, last = [], 0.0, 0.0
  for uptime in uptimes:
    if uptime < last:  # Started again.
      before += last
    last = uptime
    out.append((before + uptime) / 3600)
  return out


def place(steps: Sequence[float], axis: Curve) -> list[float]:
  """Interpolates the positions of steps on an axis.

  Args:
    steps: the steps.
    axis: see `axes`.

  Returns:
    The positions, beyond the ends as between the points next to them.
  """
  xs, ys = axis
  if len(xs) == 1:
    return [ys[0]] * len(steps)
  out = []
  for step in steps:
    i = min(max(bisect.bisect_right(xs, step), 1), len(xs) - 1)
    slope = (ys[i] - ys[i - 1]) / (xs[i] - xs[i - 1])
    out.append(ys[i - 1] + (step - xs[i - 1]) * slope)
  return out


def with_learning_rates(
  series: Mapping[str, Curve], config: Mapping[str, Any]
) -> dict[str, Curve]:
  """Adds the learning rates, `config.lr` times each schedule.

  Args:
    series: metric name -> (steps, values).
    config: flat dict of config key -> value.

  Returns:
    The series with `lr` for `global_schedule`, `lr1` for `global_schedule1`.
  """
  out, lr = dict(series), config.get("lr")
  if not isinstance(lr, (int, float)):
    return out
  for name, (steps, values) in series.items():
    match = re.fullmatch(r"global_schedule(\d*)", name)
    if match and f"lr{match[1]}" not in series:
      out[f"lr{match[1]}"] = list(steps), [lr * v for v in values]
  return out
