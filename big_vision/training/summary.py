"""Shows at the end of a run what came out, where it is and what comes next."""

import dataclasses
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from absl import logging

from big_vision import checkpoints, command_line, fs, lookup
from big_vision import metrics as metrics_lib
from big_vision.training import console, logs

# Keys of `config.model` that name modules.
_TOWERS = ("image_model", "text_model")
# Metrics that are about the machine.
_QUIET = re.compile(r"^(y/|z/secs|core_hours_|uptime|num_params)")


@dataclasses.dataclass(frozen=True)
class Summary:
  """Holds what a user wants to know of a run.

  Attributes:
    metrics: rows of name, last value, and (best value, its step), or None where
      no evaluator measures it.
    files: what there is -> its path; empty if nothing was written.
    commands: what for -> the command.
  """

  metrics: Sequence[tuple[str, float, tuple[float, int] | None]]
  files: dict[str, str]
  commands: dict[str, str]


def show(
  metrics: Mapping[str, Any],
  workdir: str | None,
  prefixes: Sequence[str] = (),
  stream: TextIO | None = None,
) -> None:
  """Shows a run as tables on a terminal, as plain lines elsewhere.

  Args:
    metrics: name -> last value.
    workdir: output folder; None if nothing was written.
    prefixes: what names of metrics of evaluators begin with.
    stream: None is stderr.
  """
  screen: TextIO = stream or sys.stderr
  found = collect(metrics, workdir, prefixes)
  text = "\n" + as_text(found)
  if screen.isatty() and not logs.details_shown():
    logs.detail(text)
    draw(found, screen)
  else:
    logging.info("%s", text)


def collect(
  metrics: Mapping[str, Any],
  workdir: str | None,
  prefixes: Sequence[str] = (),
) -> Summary:
  """Finds out what there is to tell.

  Args:
    metrics: name -> last value.
    workdir: output folder; None if nothing was written.
    prefixes: what names of metrics of evaluators begin with; their best values
      of the whole run are shown, too.

  Returns:
    The Summary.
  """
  best = {} if not workdir else _best(workdir, tuple(prefixes))
  rows = [
    (name, float(value), best.get(name))
    for name, value in metrics.items()
    if isinstance(value, (int, float)) and not _QUIET.match(name)
  ]
  if not workdir:
    return Summary(rows, {}, {})
  path = lambda name: fs.join(workdir, name)
  files = {
    "metrics": path("big_vision_metrics.txt"),
    "log": path("train.log"),
    "config": path("config.json"),
    "checkpoint": checkpoints.latest(path("checkpoint.bv")),
  }
  if fs.exists(path("best.bv-LAST")):
    files["best"] = checkpoints.latest(path("best.bv"))
  there = {k: v for k, v in files.items() if v and fs.exists(v)}
  tool = lambda name: f"{command_line.start()} big_vision.tools.{name}"
  commands = {"curves": f"{tool('plot')} {workdir}"}
  if "checkpoint" in there:
    if fs.exists(path("data.json")):
      config = _read_config(workdir)
      own = ",".join(_own_modules(config))
      own = f" --pp_modules {own}" if own else ""
      # Words, where no classes are known.
      words = " --text 'a cat' --text 'a dog'" if "embed" in config else ""
      command = f"{tool('predict')} --from {workdir}"
      commands["predict"] = f"{command}{own}{words} PICTURES"
      commands["in browser"] = f"{tool('demo')} --workdir {workdir}{own}"
    commands["go on"] = "the same command with a larger --config.total_steps"
  return Summary(rows, there, commands)


def as_text(found: Summary) -> str:
  """Writes a summary without a terminal.

  Args:
    found: the Summary.

  Returns:
    Several lines.
  """
  width = max([len(row[0]) for row in found.metrics], default=0)
  lines = ["Final metrics"]
  for name, value, best in found.metrics:
    line = f"  {name:<{width}}  {_number(value):>12}"
    if best and best[0] != value:
      line += f"  best {_number(best[0])} at step {best[1]}"
    lines.append(line)
  if not found.commands:  # No workdir.
    return "\n".join([*lines, _NOTHING])
  lines += ["Where things are"]
  lines += [f"  {k:<11} {v}" for k, v in found.files.items()]
  lines += ["What comes next"]
  lines += [f"  {k:<11} {v}" for k, v in found.commands.items()]
  return "\n".join(lines)


_NOTHING = "Nothing was written: the run had no --workdir."


def draw(found: Summary, stream: TextIO) -> None:
  """Draws a summary as tables.

  Args:
    found: the Summary.
    stream: a terminal.
  """
  from rich import box, table, text
  from rich import console as rich_console

  screen = rich_console.Console(file=stream, highlight=False)
  plain = lambda x: text.Text(str(x))  # Brackets in it are not styles.
  metrics = table.Table(box=box.SIMPLE_HEAD, header_style="bold")
  metrics.add_column("Final metrics", overflow="fold")
  for name in ("last", "best", "at step"):
    metrics.add_column(name, justify="right", no_wrap=True)
  for name, value, best in found.metrics:
    cells = (_number(best[0]), best[1]) if best else ("", "")
    metrics.add_row(*map(plain, (name, _number(value), *cells)))
  screen.print(metrics)
  if not found.commands:  # No workdir.
    screen.print(plain(f" {_NOTHING}"))
  for title, rows in (
    ("Where things are", found.files),
    ("What comes next", found.commands),
  ):
    if rows:
      screen.print(text.Text(f"  {title}", "bold"))
    for name, value in rows.items():
      # Wrapped by the terminal, so that long commands can be copied.
      line = text.Text.assemble(("    " + f"{name:<11}", "cyan"), f" {value}")
      screen.print(line, soft_wrap=True)
  screen.print()


def _read_config(workdir: str) -> dict[str, Any]:
  """Reads the config of a run; {} if there is none."""
  path = fs.join(workdir, "config.json")
  if not fs.exists(path):
    return {}
  with fs.open(path) as f:
    return json.load(f)


def _own_modules(config: Mapping[str, Any]) -> list[str]:
  """Lists the user's modules that a config names, which commands must allow."""
  model = config.get("model") or {}
  models = [config.get("model_name"), *map(model.get, _TOWERS)]
  named = [("models", name) for name in models if name]
  named += [("pp", name) for name in config.get("pp_modules") or ()]
  return [n for package, n in named if not lookup.is_part(package, n)]


def _best(
  workdir: str, prefixes: tuple[str, ...]
) -> dict[str, tuple[float, int]]:
  """Finds (best value, its first step) of what evaluators measure."""
  best: dict[str, tuple[float, int]] = {}
  path = fs.join(workdir, "big_vision_metrics.txt")
  if not prefixes or not fs.exists(path):
    return best
  # A run that was interrupted repeats steps: the later values count.
  by_step: dict[int, dict[str, Any]] = {}
  for row in metrics_lib.read_rows(path):
    by_step.setdefault(row["step"], {}).update(row)
  ours = ("img/", "y/", "z/secs/")  # A prefix may be empty.
  for _, row in sorted(by_step.items()):
    for name, value in row.items():
      measured = name.startswith(prefixes) and "/" in name
      if not measured or name.startswith(ours) or type(value) is not float:
        continue
      sign = -1 if console.lower_is_better(name) else 1
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
