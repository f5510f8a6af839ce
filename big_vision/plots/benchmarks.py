"""Draws recorded figures of benchmarks over commits with matplotlib."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# Facts and settings, which are part of the label of a curve or of nothing.
_SETTINGS = ("model", "resolution", "batch", "devices", "dtype", "examples")
_FACTS = re.compile(
  r"(^|/)(num_params.*|flops_per_step|bytes|bytes_on_disk|mean_bytes)$"
)
_RATIO = re.compile(r"relative_to|ratio|share_of")
_MAX_TICKS = 12


def figures_of(results: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
  """Lists the figures of a row.

  Args:
    results: part -> figures, which may be nested.

  Returns:
    Name ("step/images_per_second") -> (settings, as "model vit S/16, batch 8";
    value). Settings and facts such as the number of parameters are left out.
  """
  out = {}
  for part, tree in results.items():
    settings = ", ".join(f"{k} {tree[k]}" for k in _SETTINGS if k in tree)
    for name, value in _leaves(tree):
      known = name in _SETTINGS or _FACTS.search(name)
      number = isinstance(value, int | float) and not isinstance(value, bool)
      if number and not known and math.isfinite(value):
        out[f"{part}/{name}"] = (settings, float(value))
  return out


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Any:
  """Yields (path, value)."""
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, f"{prefix}{key}/")
    else:
      yield f"{prefix}{key}", value


def place(row: Mapping[str, Any]) -> str:
  """Names where a row stands on the x axis.

  Args:
    row: see `benchmarks.record`.

  Returns:
    The commit, with * if files differed from it; else the day.
  """
  if "commit" in row:
    return row["commit"] + "*" * bool(row.get("dirty"))
  return row["date"][:10]


def machine(row: Mapping[str, Any]) -> str:
  """Names the machine of a row.

  Args:
    row: see `benchmarks.record`.

  Returns:
    For example "2 x EPYC 7B13, 1 x NVIDIA H200".
  """
  m = row["machine"]
  text = f"{m.get('cpu_cores', '?')} x {m.get('cpu') or m.get('platform')}"
  kind = m.get("device_kind")
  return text if kind in (None, "cpu") else f"{text}, {m['devices']} x {kind}"


def curves(
  rows: Sequence[Mapping[str, Any]], pattern: str = ""
) -> dict[str, dict[str, dict[str, list[float]]]]:
  """Arranges figures as curves.

  Args:
    rows: see `benchmarks.record`, in their order.
    pattern: regular expression; only figures whose name it is found in.

  Returns:
    Name of the figure -> machine with settings -> place -> values. Ratios come
    first, otherwise the order is that of the rows.
  """
  found: dict[str, dict[str, dict[str, list[float]]]] = {}
  for row in rows:
    for name, (settings, value) in figures_of(row["results"]).items():
      if re.search(pattern, name):
        label = "; ".join(filter(None, (machine(row), settings)))
        curve = found.setdefault(name, {}).setdefault(label, {})
        curve.setdefault(place(row), []).append(value)
  return dict(sorted(found.items(), key=lambda x: not _RATIO.search(x[0])))


def save(
  rows: Sequence[Mapping[str, Any]], path: str, pattern: str = ""
) -> None:
  """Draws one panel for each figure.

  Args:
    rows: see `benchmarks.record`.
    path: local file to write.
    pattern: see `curves`.

  Raises:
    ImportError: matplotlib is not installed.
    ValueError: there is nothing to draw.
  """
  try:
    from matplotlib import figure
  except ImportError as e:
    raise ImportError("This needs matplotlib: pip install matplotlib") from e
  panels = curves(rows, pattern)
  if not panels:
    raise ValueError(
      f"No figure matches --figures {pattern!r}."
      if pattern
      else "The rows have no figures."
    )
  places = list(dict.fromkeys(map(place, rows)))
  labels = list(dict.fromkeys(x for panel in panels.values() for x in panel))
  columns = min(3, len(panels))
  lines = math.ceil(len(panels) / columns)
  legend = 0.25 * len(labels) + 0.4  # Inches.
  fig = figure.Figure(
    figsize=(4.6 * columns, 2.7 * lines + legend), dpi=110, layout="constrained"
  )
  drawn = {}
  for i, (name, panel) in enumerate(panels.items()):
    axes = fig.add_subplot(lines, columns, i + 1)
    for label, curve in panel.items():
      color = f"C{labels.index(label) % 10}"
      xs = [places.index(p) for p in curve]
      medians = [statistics.median(values) for values in curve.values()]
      points = [
        (x, v) for x, vs in zip(xs, curve.values(), strict=True) for v in vs
      ]
      axes.plot(*zip(*points, strict=True), "o", ms=3, alpha=0.5, color=color)
      (drawn[label],) = axes.plot(xs, medians, lw=1.4, color=color)
    if _RATIO.search(name):
      axes.axhline(1, color="gray", lw=0.8, ls=":")
    axes.set_title(name, loc="left", fontsize=9, fontweight="bold")
    axes.set_xlim(-0.5, len(places) - 0.5)
    step = math.ceil(len(places) / _MAX_TICKS)
    ticks = list(range(0, len(places), step))
    axes.set_xticks(ticks, [places[t] for t in ticks], rotation=40, ha="right")
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
  fig.legend(
    [drawn[label] for label in labels],
    labels,
    loc="outside lower left",
    fontsize=8,
    frameon=False,
  )
  fig.savefig(path)
