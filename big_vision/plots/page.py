"""Makes the HTML page of curves, which does not need a network."""

import html
import importlib.resources
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from big_vision.plots import curves, embedded, metric_groups, x_axes


def make(runs: Sequence[curves.Run], top: str = "", x: str = "step") -> str:
  """Makes the HTML page.

  Args:
    runs: list of `Run`.
    top: HTML that comes before the curves.
    x: the first x axis that is shown, one of `x_axes.LABELS`.

  Returns:
    The HTML.
  """
  names = {name for run in runs for name in run.series}
  groups = metric_groups.group_metrics(names)
  data = {
    "runs": [
      {
        "name": run.name,
        "series": _finite(run.series),
        "axes": run.axes,
        "changes": [*run.changes.items()],
        "sweeps": {k: _finite(curves) for k, curves in run.sweeps.items()},
      }
      for run in runs
    ],
    "groups": groups,
    "pictures": embedded.embed(runs),
    "sweeps": metric_groups.group_sweeps(runs),
    "x": x,
    "labels": [
      k
      for k in x_axes.LABELS
      if k in ("step", x) or any(k in run.axes for run in runs)
    ],
  }
  template = importlib.resources.files("big_vision.plots").joinpath("page.html")
  return _fill(
    template.read_text(encoding="utf-8"),
    TITLE=html.escape(", ".join(run.name for run in runs)),
    TOP=top,
    CONFIG=_config_table(runs),
    FINAL=_final_table(runs, groups),
    # "<" could end the script element.
    DATA=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
  )


def _finite(curves):
  """Replaces NaN and Infinity by strings, for which the page shows gaps."""
  return {
    name: [xs, [v if math.isfinite(v) else str(v) for v in values]]
    for name, (xs, values) in curves.items()
  }


def _fill(template, **values):
  """Replaces `{{KEY}}` once each, never inside of inserted values."""
  pattern = r"\{\{(" + "|".join(values) + r")\}\}"
  return re.sub(pattern, lambda m: values[m[1]], template)


def make_table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
  """Makes an HTML table.

  Args:
    head: the cells of the first line.
    rows: the cells of the others.

  Returns:
    The HTML.
  """

  def row(cells, tag):
    cells = "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells)
    return f"<tr>{cells}</tr>"

  body = "\n".join(row(cells, "td") for cells in rows)
  return (
    f"<table><thead>{row(head, 'th')}</thead><tbody>\n{body}\n</tbody></table>"
  )


def _config_table(runs):
  """Makes a table of keys that differ; of a single run, of all keys (folded)."""
  if not any(run.config for run in runs):
    return "<p>No config.json found.</p>"
  missing = "–"
  keys = sorted({key for run in runs for key in run.config})
  shown = lambda run, key: (
    json.dumps(run.config[key]) if key in run.config else missing
  )
  rows = [[key, *(shown(run, key) for run in runs)] for key in keys]
  head = ["key", *(run.name for run in runs)]
  if len(runs) == 1:
    table = make_table(head, rows)
    return f"<details><summary>All keys</summary>{table}</details>"
  rows = [row for row in rows if len(set(row[1:])) > 1]
  return make_table(head, rows) if rows else "<p>The configs are equal.</p>"


def _final_table(runs, groups):
  rows = []
  for _, names, _ in groups:
    for name in names:
      cells = []
      for run in runs:
        steps, values = run.series.get(name, ((), ()))
        cells.append(f"{values[-1]:.6g} (step {steps[-1]})" if steps else "–")
      rows.append([name, *cells])
  return make_table(["metric", *(run.name for run in runs)], rows)
