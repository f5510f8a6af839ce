"""Shows a run to its user: progress line, notes, summary at the end."""

import json
import logging as py_logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import jax
from absl import logging

from big_vision import checkpoints, fs
from big_vision.chrono import hms


class Progress:
  """Shows on one line where a run is.

  On a terminal the line is redrawn in place below the log, and details stay out
  of the log: single metrics (they are in the metrics file), matches of rules,
  timings. Elsewhere every update is a line of its own.
  """

  def __init__(self, total_steps: int, stream: TextIO | None = None):
    self.total_steps = total_steps
    self.stream = stream or sys.stderr
    self.live = self.stream.isatty() and jax.process_index() == 0
    self._line = ""
    self._handler = logging.get_absl_handler()
    if self.live:
      self._handler.addFilter(self._before_log)

  def update(self, step: int, measured: Mapping[str, float]) -> None:
    """Shows step, loss, images per second and time to go.

    Args:
      step: number of finished steps.
      measured: metrics of this step; `training_loss`,
        `img/sec` and `eta` (seconds) are shown if they are there.
    """
    parts = [
      f"step {step}/{self.total_steps}",
      f"{100 * step / max(self.total_steps, 1):.0f}%",
    ]
    if "training_loss" in measured:
      parts.append(f"loss {measured['training_loss']:.4g}")
    if "img/sec" in measured:
      parts.append(f"{measured['img/sec']:.0f} img/s")
    if "eta" in measured:
      parts.append(f"ETA {hms(measured['eta'])}")
    text = "  ".join(parts)
    if not self.live:
      if jax.process_index() == 0:
        logging.info("%s", text)
      return
    self._line = text
    self._draw()

  def close(self) -> None:
    """Leaves the last state of the line on the screen."""
    if self.live:
      if self._line:
        self.stream.write("\n")
      self._line = ""
      self._handler.removeFilter(self._before_log)
      self.live = False

  def _draw(self) -> None:
    self.stream.write(f"\r\x1b[2K{self._line}")
    self.stream.flush()

  def _before_log(self, record: py_logging.LogRecord) -> bool:
    """Makes room for a log line; drops details. A filter of logging."""
    details = record.module in ("metrics", "trees", "chrono", "config_check")
    if record.levelno <= py_logging.INFO and (
      details or record.funcName == "clock_note"
    ):
      return False
    if self._line:
      self.stream.write("\r\x1b[2K")
    return True


def no_chatter(record: py_logging.LogRecord) -> bool:
  """Drops what libraries say at INFO about themselves. A filter of logging."""
  libraries = (
    "/orbax/",
    "/tensorboardX/",
    "/jax/",
    "/etils/",
    "/tensorflow_datasets/",
  )
  chatter = any(name in record.pathname for name in libraries)
  return record.levelno > py_logging.INFO or not chatter


def note(text: str) -> None:
  """Logs a note on process 0, marked so that it stands out in the log."""
  if jax.process_index() == 0:
    logging.info("\x1b[33mNOTE\x1b[0m: %s", text)


def clock_note(text: str) -> None:
  """Logs where the run is; a terminal shows that in the progress line."""
  if jax.process_index() == 0:
    logging.info("%s", text.replace("\n", "  "))


def summary(
  metrics: Mapping[str, Any],
  workdir: str | None,
  prefixes: Sequence[str] = (),
) -> str:
  """Makes the table at the end of a run.

  Args:
    metrics: name -> last value.
    workdir: output folder; None if nothing was written.
    prefixes: what names of metrics of evaluators begin with; their best values
      of the whole run are shown, too.

  Returns:
    Several lines.
  """
  quiet = re.compile(r"^(y/|z/secs|core_hours_|uptime|num_params)")
  rows = [(k, v) for k, v in metrics.items() if not quiet.match(k)]
  rows = [(k, _number(v)) for k, v in rows if isinstance(v, (int, float))]
  best = {} if not workdir else _best(workdir, tuple(prefixes))
  width = max([len(k) for k, _ in rows], default=0)
  lines = ["Final metrics"]
  for name, value in rows:
    line = f"  {name:<{width}}  {value:>12}"
    if name in best:
      value, step = best[name]
      line += f"  best {_number(value)} at step {step}"
    lines.append(line)
  if not workdir:
    return "\n".join([*lines, "Nothing was written: the run had no --workdir."])

  path = lambda name: fs.join(workdir, name)
  files = {
    "metrics": path("big_vision_metrics.txt"),
    "config": path("config.json"),
    "checkpoint": checkpoints.latest(path("checkpoint.bv")),
  }
  if fs.exists(path("best.bv-LAST")):
    files["best"] = checkpoints.latest(path("best.bv"))
  there = {k: v for k, v in files.items() if v and fs.exists(v)}
  lines += ["Where things are", *(f"  {k:<11} {v}" for k, v in there.items())]
  lines += [
    "What comes next",
    f"  curves      python -m big_vision.tools.plot {workdir}",
  ]
  if "checkpoint" in there:
    lines.append("  go on       the same command with a larger config.total_*")
  return "\n".join(lines)


def lower_is_better(metric: str) -> bool:
  """Tells the better direction of a metric by its name.

  Args:
    metric: "val/loss" for example.

  Returns:
    True for losses, errors and perplexities, False for all others.
  """
  words = r"(?i)loss|error|mae\b|rmse|perplexity"
  return re.search(words, metric) is not None


def _best(workdir: str, prefixes: tuple[str, ...]) -> dict[str, Any]:
  """Finds (best value, its step) of metrics of evaluators in a workdir."""
  best: dict[str, Any] = {}
  path = fs.join(workdir, "big_vision_metrics.txt")
  if not prefixes or not fs.exists(path):
    return best
  with fs.open(path) as f:
    rows = [json.loads(line) for line in f]
  for row in rows:
    for name, value in row.items():
      if not name.startswith(prefixes) or not isinstance(value, float):
        continue
      sign = -1 if lower_is_better(name) else 1
      if name not in best or sign * value > sign * best[name][0]:
        best[name] = value, row["step"]
  return best


def _number(x: float) -> str:
  """Formats with at most six digits, no exponent for everyday sizes."""
  if isinstance(x, float) and not math.isfinite(x):
    return str(x)
  if float(x).is_integer() and abs(x) < 1e12:
    return f"{int(x)}"
  return f"{x:.6g}" if 1e-3 <= abs(x) < 1e6 else f"{x:.4e}"
