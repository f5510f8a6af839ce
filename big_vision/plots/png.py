"""Draws the main curves with matplotlib."""

import math
from collections.abc import Sequence

from big_vision.plots import curves, metric_groups

MAX_PNG_CURVES = 8  # Per panel; more cannot be told apart.


def save(runs: Sequence[curves.Run], path: str, x: str = "step") -> None:
  """Draws the main groups of curves, one panel each.

  Args:
    runs: list of `Run`.
    path: local file to write.
    x: the x axis, one of `x_axes.LABELS`.

  Raises:
    ImportError: matplotlib is not installed.
  """
  try:
    from matplotlib import figure, ticker
  except ImportError as e:
    raise ImportError(
      "--png needs matplotlib: pip install matplotlib, or leave --png out."
    ) from e
  names = {name for run in runs for name in run.series}
  groups = [(*g, x) for g in metric_groups.group_metrics(names)]
  groups += metric_groups.group_sweeps(runs)
  groups = [(t, n, xlabel) for t, n, is_main, xlabel in groups if is_main]
  fig = figure.Figure(figsize=(10, 2.9 * math.ceil(len(groups) / 2)), dpi=110)
  columns = min(2, max(1, len(groups)))
  for i, (title, metrics, xlabel) in enumerate(groups):
    axes = fig.add_subplot(math.ceil(len(groups) / 2), columns, i + 1)
    curves = [
      (run, m) for m in metrics for run in runs if m in run.curves(xlabel)
    ]
    for run, metric in curves[:MAX_PNG_CURVES]:
      xs, values = run.curves(xlabel)[metric]
      label = metric if len(runs) == 1 else f"{run.name}: {metric}"
      marker = "o" if len(xs) < 25 else None
      axes.plot(xs, values, marker=marker, ms=3, lw=1.4, label=label)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(xlabel, fontsize=9)
    axes.xaxis.set_major_locator(
      ticker.MaxNLocator(6, integer=xlabel != "hours")
    )
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
  fig.tight_layout()
  fig.savefig(path)
