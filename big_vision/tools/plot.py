"""Plots curves of runs on an HTML page that does not need a network.

  python -m big_vision.tools.plot WORKDIR... [--out FILE] [--png FILE] [--x hours]

Reads `big_vision_metrics.txt`, `big_vision_initial_metrics.txt` (evaluations before
the first step; both together are the curves) and `config.json` of each workdir.
The page has the curves over steps, epochs, images or wall time (hover for values, log
scale, smoothing, search), the last values over the patch size of a FlexiViT, what
differs between the configs and the last values
of all metrics. `--png` draws the main curves with matplotlib. Needs neither
TensorFlow nor jax.
"""

import dataclasses
import functools
import html
import importlib.resources
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from big_vision import (
  command_line,
  config_history,
  curve_axes,
  fs,
  sweep_curves,
)

METRICS_FILE = "big_vision_metrics.txt"
INITIAL_FILE = "big_vision_initial_metrics.txt"  # Before the first step.

# Title of a group on the page, and the pattern of its metrics; the first match
# counts. The other metrics come below, folded, by the part before a "/".
GROUPS = (
  ("Loss", r"^training_loss$|(^|/)(\w+_)?loss(_\w+)?$"),
  ("Learning rate", r"^(lr|global_schedule)\d*$|(^|/)lr$"),
  ("Accuracy", r"prec@\d+$|(^|/)acc(uracy)?$|^a/.*shot"),
  ("Speed", r"^img/sec/core$"),
)
MAX_PNG_CURVES = 8  # Per panel; more cannot be told apart.


@dataclasses.dataclass(frozen=True)
class Run:
  """Holds the name, the curves and the config of a run.

  Attributes:
    name: str, unique on the page.
    series: dict of metric name -> (list of steps, ascending; list of values).
    config: flat dict of config key -> value; empty if there is no config.json.
    changes: step -> what has changed in the config there, see `config_history`.
  """

  name: str
  series: dict
  config: dict
  changes: dict[int, list[str]] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def sweeps(self) -> dict[str, dict[str, Any]]:
    """Maps the label of an axis -> dict of curve -> (x, y), see `sweep_curves`."""
    return sweep_curves.sweeps(self.series, self.config)

  @functools.cached_property
  def axes(self) -> dict[str, Any]:
    """Maps the label of an axis -> (steps, positions), see `curve_axes`."""
    return curve_axes.axes(self.series)

  def curves(self, label: str) -> dict[str, Any]:
    """Returns the curves over an axis.

    Args:
      label: "step", or a key of `axes` or `sweeps`.

    Returns:
      Dict of name -> (x, y).
    """
    if label == "step":
      return self.series
    if label not in curve_axes.LABELS:
      return self.sweeps.get(label, {})
    if label not in self.axes:
      return {}
    return {
      name: (curve_axes.place(steps, self.axes[label]), values)
      for name, (steps, values) in self.series.items()
    }


def read_metrics(path: str) -> tuple[dict[str, Any], int]:
  """Reads a metrics file.

  A run that was interrupted repeats steps: the last value of a step counts. A
  record torn by the interruption is left out.

  Args:
    path: file of JSON lines `{"step": 1, "name": value, ...}`.

  Returns:
    Tuple (dict of metric name -> (steps, values), number of torn lines).
  """
  found, torn = {}, 0
  with fs.open(path) as f:
    for line in f:
      if not line.strip():
        continue
      record = _parse(line)
      if record is None:
        torn += 1
        # A resumed run may have continued the torn line with its first one.
        record = _parse(line[max(line.rfind('{"step"'), 0) :])
      if record is None:
        continue
      step = record.pop("step")
      for name, value in record.items():
        if isinstance(value, (int, float)):
          found.setdefault(name, {})[step] = float(value)
  series = {}
  for name, by_step in found.items():
    steps = sorted(by_step)
    series[name] = (steps, [by_step[step] for step in steps])
  return series, torn


def _parse(line):
  """Parses the record of a line; None if it is not a record."""
  try:
    record = json.loads(line)  # Knows NaN and Infinity.
  except ValueError:
    return None
  return record if isinstance(record, dict) and "step" in record else None


def read_runs(workdirs: Sequence[str]) -> list[Run]:
  """Reads runs.

  Args:
    workdirs: workdirs or metrics files.

  Returns:
    List of `Run`.

  Raises:
    FileNotFoundError: a workdir has no metrics file.
  """
  files = []
  for workdir in workdirs:
    path = (
      workdir if workdir.endswith(".txt") else fs.join(workdir, METRICS_FILE)
    )
    if not (fs.exists(path) or fs.exists(_initial_file(path))):
      raise FileNotFoundError(
        f"No metrics in {workdir}: {path} does not exist. Give the --workdir "
        "of a run that has logged."
      )
    files.append(path)

  runs = []
  names = short_names([os.path.dirname(path) or "." for path in files])
  for name, path in zip(names, files, strict=True):
    series, torn = read_metrics(path) if fs.exists(path) else ({}, 0)
    if fs.exists(_initial_file(path)):
      initial, _ = read_metrics(_initial_file(path))
      series = _merge(initial, series)
    if torn:
      print(f"{path}: left out {torn} torn record(s)", file=sys.stderr)
    config, config_file = {}, fs.join(os.path.dirname(path), "config.json")
    if fs.exists(config_file):
      with fs.open(config_file) as f:
        config = config_history.flatten(json.load(f))
    series = curve_axes.with_learning_rates(series, config)
    changes = config_history.changes(os.path.dirname(path) or ".")
    runs.append(Run(name, series, config, changes))
  return runs


def _initial_file(path):
  """Returns the path of the other metrics file of a run."""
  return fs.join(os.path.dirname(path), INITIAL_FILE)


def _merge(initial, series):
  """Puts the values from before the first step in front of the curves.

  The number of parameters and timings, which make no curve, are left out.
  """
  out = dict(series)
  for name, before in initial.items():
    if name in series or ("/" in name and not name.startswith("z/")):
      later = series.get(name, ([], []))
      points = dict(zip(*before, strict=True)) | dict(zip(*later, strict=True))
      out[name] = tuple(map(list, zip(*sorted(points.items()), strict=True)))
  return out


def short_names(folders: Sequence[str]) -> list[str]:
  """Shortens paths to their ends, as far as these differ.

  Args:
    folders: the paths.

  Returns:
    Names in the same order; equal paths get #2, #3.
  """
  parts = [os.path.abspath(f).split(os.sep) for f in folders]
  different = len({tuple(p) for p in parts})
  for n in range(1, max(map(len, parts)) + 1):
    names = ["/".join(p[-n:]) for p in parts]
    if len(set(names)) == different:
      break
  return [
    name + (f" #{names[:i].count(name) + 1}" if name in names[:i] else "")
    for i, name in enumerate(names)
  ]


def group_metrics(names: Iterable[str]) -> list[tuple[str, list[str], bool]]:
  """Sorts metric names into groups.

  Args:
    names: names of metrics.

  Returns:
    List of (title, list of names, whether it is shown unfolded).
  """
  names = list(names)
  groups, rest = {title: [] for title, _ in GROUPS}, {}
  # What is known of the learning rate itself is shown in their place.
  hidden = [f"global_schedule{n[2:]}" for n in names if re.match(r"lr\d*$", n)]
  # Seldom logged metrics (of evaluators) come after the training curves.
  for name in sorted(names, key=lambda n: ("/" in n, n)):
    for title, pattern in GROUPS:
      if re.search(pattern, name) and name not in hidden:
        groups[title].append(name)
        break
    else:
      title = name.split("/")[0] + "/" if "/" in name else "Other"
      rest.setdefault(title, []).append(name)
  return [(t, n, True) for t, n in groups.items() if n] + [
    (t, rest[t], False) for t in sorted(rest, key=lambda t: (t != "Other", t))
  ]


def group_sweeps(runs: Sequence[Run]) -> list[tuple[str, list[str], bool, str]]:
  """Groups curves over other axes than steps: accuracies, then the rest.

  Args:
    runs: list of `Run`.

  Returns:
    List of (title, list of names, whether it is shown unfolded, label of the
    axis).
  """
  labels = dict.fromkeys(label for run in runs for label in run.sweeps)
  found = []
  for label in labels:
    names = {name for run in runs for name in run.sweeps.get(label, {})}
    groups = group_metrics(names)
    main = [
      n for title, names, _ in groups if title == "Accuracy" for n in names
    ]
    rest = [n for _, names, _ in groups for n in names if n not in main]
    for title, names in (("Accuracy", main), ("Others", rest)):
      if names:
        found.append((f"{title} by {label}", names, title == "Accuracy", label))
  return found


def make_page(runs: Sequence[Run], top: str = "", x: str = "step") -> str:
  """Makes the HTML page.

  Args:
    runs: list of `Run`.
    top: HTML that comes before the curves.
    x: the first x axis that is shown, one of `curve_axes.LABELS`.

  Returns:
    The HTML.
  """
  names = {name for run in runs for name in run.series}
  groups = group_metrics(names)
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
    "sweeps": group_sweeps(runs),
    "x": x,
    "labels": [
      k
      for k in curve_axes.LABELS
      if k in ("step", x) or any(k in run.axes for run in runs)
    ],
  }
  template = importlib.resources.files(__package__).joinpath("plot.html")
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


def save_png(runs: Sequence[Run], path: str, x: str = "step") -> None:
  """Draws the main groups of curves, one panel each.

  Args:
    runs: list of `Run`.
    path: local file to write.
    x: the x axis, one of `curve_axes.LABELS`.

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
  groups = [(*g, x) for g in group_metrics(names)] + group_sweeps(runs)
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


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the page.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  parser = command_line.make_parser("big_vision.tools.plot", __doc__)
  parser.add_argument(
    "workdirs", nargs="+", metavar="WORKDIR", help="Folders of runs."
  )
  parser.add_argument(
    "--out",
    help="The page (default: plot.html in the only workdir, or here).",
  )
  parser.add_argument("--png", help="Also draw the main curves to this file.")
  parser.add_argument(
    "--x",
    default="step",
    choices=curve_axes.LABELS,
    help="The x axis, of the page at first; hours are wall time.",
  )
  args = parser.parse_args(argv)
  try:
    runs = read_runs(args.workdirs)
  except FileNotFoundError as e:
    if args.debug:
      raise
    print(e, file=sys.stderr)
    return 1
  out = args.out
  if out is None:
    only = args.workdirs[0] if len(args.workdirs) == 1 else ""
    out = fs.join(only if fs.isdir(only) else "", "plot.html")
  with fs.open(out, "w") as f:
    f.write(make_page(runs, x=args.x))
  print(f"Wrote {out}")
  if args.png:
    save_png(runs, args.png, args.x)
    print(f"Wrote {args.png}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
