"""Reads the curves of runs from their workdirs.

Needs neither TensorFlow nor jax.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Sequence
from typing import Any

from big_vision import config_history, fs, untrusted
from big_vision import pictures as pictures_lib
from big_vision.plots import sweep_curves, x_axes

METRICS_FILE = "big_vision_metrics.txt"
INITIAL_FILE = "big_vision_initial_metrics.txt"  # Before the first step.


@dataclasses.dataclass(frozen=True)
class Run:
  """Holds the name, the curves and the config of a run.

  Attributes:
    name: str, unique on the page.
    series: dict of metric name -> (list of steps, ascending; list of values).
    config: flat dict of config key -> value; empty if there is no config.json.
    changes: step -> what has changed in the config there, see `config_history`.
    pictures: name -> step, ascending, -> path of a PNG file.
  """

  name: str
  series: dict
  config: dict
  changes: dict[int, list[str]] = dataclasses.field(default_factory=dict)
  pictures: dict[str, dict[int, str]] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def sweeps(self) -> dict[str, dict[str, Any]]:
    """Maps the label of an axis -> dict of curve -> (x, y), see `sweep_curves`."""
    return sweep_curves.sweeps(self.series, self.config)

  @functools.cached_property
  def axes(self) -> dict[str, Any]:
    """Maps the label of an axis -> (steps, positions), see `x_axes`."""
    return x_axes.axes(self.series)

  def curves(self, label: str) -> dict[str, Any]:
    """Returns the curves over an axis.

    Args:
      label: "step", or a key of `axes` or `sweeps`.

    Returns:
      Dict of name -> (x, y).
    """
    if label == "step":
      return self.series
    if label not in x_axes.LABELS:
      return self.sweeps.get(label, {})
    if label not in self.axes:
      return {}
    return {
      name: (x_axes.place(steps, self.axes[label]), values)
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
  with fs.open(path, "rb") as f:  # What is not UTF-8 is torn, too.
    for line in f:
      if not line.strip():
        continue
      record = _parse(line)
      if record is None:
        torn += 1
        # A resumed run may have continued the torn line with its first one.
        record = _parse(line[max(line.rfind(b'{"step"'), 0) :])
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
    record = untrusted.json_value(line)  # Knows NaN and Infinity.
  except ValueError:
    return None
  step = record.get("step") if isinstance(record, dict) else None
  return record if type(step) in (int, float) else None


def _config(text, path):
  """Parses the config of a run."""
  try:
    config = untrusted.json_value(text)
    if isinstance(config, dict):
      return config
    reason = f"it is a {type(config).__name__}"
  except ValueError as e:
    reason = str(e)
  raise ValueError(f"{path} is not the config of a run: {reason}.")


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
        config = config_history.flatten(_config(f.read(), config_file))
    series = x_axes.with_learning_rates(series, config)
    workdir = os.path.dirname(path) or "."
    changes = config_history.changes(workdir)
    pictures = pictures_lib.find(workdir)
    runs.append(Run(name, series, config, changes, pictures))
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
