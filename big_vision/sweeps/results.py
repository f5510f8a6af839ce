"""Tables of the runs of a sweep: on the terminal, as CSV and as a page."""

import csv
import dataclasses
import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from big_vision import fs, lookup
from big_vision.plots import curves, metric_groups, page
from big_vision.sweeps import jobs
from big_vision.training import console

# On the terminal; the other files have all of the metrics.
_MAX_METRICS = 3
_MAX_WIDTH = 60
# Timings and sizes, see the summary at the end of a run.
_NO_RESULTS = re.compile(
  r"^(y/|z/secs|core_hours|uptime|num_params|global_schedule|img/|examples_seen"
  r"|epoch$|l2_)"
)


@dataclasses.dataclass(frozen=True)
class Row:
  """Holds what is known of a run.

  Attributes:
    name: of the run.
    folder: its workdir.
    values: config key -> text of its value.
    status: "finished", "failed" or "unfinished".
    why: what made it fail.
    step: the last one with metrics; None if there is none.
    seconds: of the last attempt; None if it has not ended.
    metrics: name -> last value.
  """

  name: str
  folder: str
  values: dict[str, str]
  status: str
  why: str
  step: int | None
  seconds: float | None
  metrics: dict[str, float]


def read(job: jobs.Job) -> Row:
  """Reads what a run has left in its folder.

  Args:
    job: the Job.

  Returns:
    The Row.
  """
  record = job.record() or {}
  step, metrics = None, {}
  path = fs.join(job.folder, curves.METRICS_FILE)
  if fs.exists(path):
    series, _ = curves.read_metrics(path)
    metrics = {name: values[-1] for name, (_, values) in series.items()}
    step = max((steps[-1] for steps, _ in series.values()), default=None)
  return Row(
    job.name,
    job.folder,
    dict(job.values),
    record.get("status", "unfinished"),
    record.get("why", ""),
    step,
    record.get("seconds"),
    metrics,
  )


def choose_metric(rows: Sequence[Row], wanted: str | None) -> str | None:
  """Chooses the metric by which runs are ranked.

  Args:
    rows: the runs.
    wanted: what the user asks for; None for the first accuracy of an
      evaluator, else the first loss of one, else that of the training.

  Returns:
    Its name, None if nothing has been measured.

  Raises:
    lookup.ConfigError: no run has measured what the user asks for.
  """
  names = sorted({name for row in rows for name in row.metrics})
  if wanted:
    if names and wanted not in names:
      shown = [n for n in names if not _NO_RESULTS.match(n)]
      raise lookup.unknown(
        "metric", wanted, shown, "--metric", lookup.ConfigError
      )
    return wanted
  groups = {
    title: found for title, found, _ in metric_groups.group_metrics(names)
  }
  accuracies, losses = (groups.get(k, []) for k in ("Accuracy", "Loss"))
  evaluated = [n for n in losses if "/" in n]
  candidates = [*accuracies, *evaluated, *losses]
  return candidates[0] if candidates else None


def rank(rows: Sequence[Row], metric: str | None) -> list[Row]:
  """Sorts runs, the best first.

  Args:
    rows: the runs.
    metric: see `choose_metric`; lower is better for losses and errors.

  Returns:
    The rows: finished ones, the others, each by the metric; those without it
    and with NaN come last.
  """
  sign = 1 if metric and console.lower_is_better(metric) else -1

  def key(row):
    value = row.metrics.get(metric or "", math.nan)
    bad = math.isnan(value)
    return row.status != "finished", bad, 0 if bad else sign * value

  return sorted(rows, key=key)


def table(
  rows: Sequence[Row], metric: str | None, *, short: bool
) -> tuple[list[str], list[list[str]]]:
  """Makes the cells of a table.

  Args:
    rows: the runs, in order.
    metric: which comes first of the metrics.
    short: leaves out most of the metrics, and columns without content.

  Returns:
    (header, rows of text).
  """
  keys = list(dict.fromkeys(k for row in rows for k in row.values))
  names = sorted({name for row in rows for name in row.metrics})
  names = sorted(names, key=lambda n: n != metric)
  if short:
    groups = metric_groups.group_metrics(
      n for n in names if not _NO_RESULTS.match(n)
    )
    main = [n for title, found, shown in groups if shown for n in found]
    names = list(dict.fromkeys([metric, *main] if metric else main))
    names = names[:_MAX_METRICS]
  header = [*keys, *names, "status", "step", "seconds", "why"]
  if not short:
    header.append("workdir")
  out = []
  for row in rows:
    cells: list[Any] = [row.values.get(k, "") for k in keys]
    found = [row.metrics.get(n) for n in names]
    cells += [v if v is None or not short else f"{v:.4g}" for v in found]
    cells += [row.status, row.step, row.seconds, row.why]
    cells += [] if short else [row.folder]
    out.append(["" if cell is None else str(cell) for cell in cells])
  used = [i for i in range(len(header)) if any(line[i] for line in out)]
  used = used if short else range(len(header))
  return [header[i] for i in used], [[line[i] for i in used] for line in out]


def text(rows: Sequence[Row], metric: str | None) -> str:
  """Formats the table for a terminal.

  Args:
    rows: the runs, in order.
    metric: see `table`.

  Returns:
    Lines.
  """
  header, cells = table(rows, metric, short=True)
  cut = lambda c: c if len(c) <= _MAX_WIDTH else f"{c[: _MAX_WIDTH - 1]}…"
  lines = [header, *([cut(c) for c in line] for line in cells)]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  pad = lambda line: "  ".join(
    c.ljust(w) for c, w in zip(line, widths, strict=True)
  )
  return "\n".join(pad(line).rstrip() for line in lines)


def write(rows: Sequence[Row], metric: str | None, workdir: str) -> None:
  """Writes `sweep.csv` and `sweep.html`.

  Args:
    rows: the runs, in order.
    metric: see `table`.
    workdir: folder of the sweep.
  """
  header, cells = table(rows, metric, short=False)
  out = io.StringIO()
  csv.writer(out, lineterminator="\n").writerows([header, *cells])
  with fs.open(fs.join(workdir, "sweep.csv"), "w") as f:
    f.write(out.getvalue())
  measured = [row.folder for row in rows if row.metrics]
  title = f"<section><h2>{html.escape(workdir)}</h2>"
  top = page.make_table(*table(rows, metric, short=True))
  top = f'{title}<div class="scroll">{top}</div></section>'
  runs = curves.read_runs(measured) if measured else []
  with fs.open(fs.join(workdir, "sweep.html"), "w") as f:
    f.write(page.make(runs, top))
