"""Compares two runs of the same config: final state and metrics, bit by bit."""

import dataclasses
import json
import os
import re
from typing import Any

import numpy as np

from big_vision import checkpoints, trees

# Clocks and memory differ between any two runs.
_OF_THE_MACHINE = re.compile(
  r"z/secs/.*|y/.*|uptime|img/sec|img/sec/core|mfu|core_hours.*|model_flops_utilization.*"
  r"|.*/sec/.*|.*per_sec.*"
)
# On other devices these are others: means over devices of what each has seen.
_OF_THE_DEVICES = re.compile(r".*/local_.*|.*_(min|max)_logit")
# Below, differences of metrics count as if the values were this large: some, such as
# the gap of GSAM, are differences of larger numbers.
_SMALL = 0.1
# Attention does not depend on it: its gradient is what rounding leaves, and Adam
# makes steps of it.
_WITHOUT_GRADIENT = re.compile(r".*/key/bias")
# A gradient is what is left of larger terms. A small difference of parameters makes
# a larger one of it: so many times as large is as good.
_OF_GRADIENTS, _LARGER = re.compile(r"opt/.*|l2_(grads|updates)"), 100
FILES = ("big_vision_metrics.txt", "big_vision_initial_metrics.txt")


@dataclasses.dataclass(frozen=True)
class Difference:
  """Differences between two runs.

  Attributes:
    leaves: arrays of the final state of which some bit differs.
    values: numbers in them that differ.
    largest: largest |a - b| / max|b| over the arrays, without the biases of keys,
      which have no gradient; a hundredth of it for averages of gradients.
    metrics: (step, name) of metrics that differ.
    largest_metric: largest |a - b| / max(|a|, |b|, 0.1) over all values of a
      metric, without those of single devices; a hundredth of it for norms of
      gradients.
    missing: (file, step) of rows that a run should have and has not.
    torn: lines of metrics files that cannot be read.
  """

  leaves: tuple[str, ...] = ()
  values: int = 0
  largest: float = 0.0
  metrics: tuple[tuple[int, str], ...] = ()
  largest_metric: float = 0.0
  missing: tuple[tuple[str, int], ...] = ()
  torn: int = 0

  @property
  def nothing(self) -> bool:
    """Whether the runs are the same to the bit."""
    return not (self.leaves or self.metrics or self.missing or self.torn)

  def within(self, tolerance: float) -> bool:
    """Tells whether no row is missing and all numbers are close.

    Args:
      tolerance: largest relative difference, of metrics and of arrays.

    Returns:
      Whether they are.
    """
    close = max(self.largest, self.largest_metric) <= tolerance
    return close and not self.missing and not self.torn


def runs(workdir: str, reference: str) -> Difference:
  """Compares a run with another one.

  Args:
    workdir: of the run.
    reference: workdir of the other one.

  Returns:
    The Difference.
  """
  leaves, values, largest = [], 0, 0.0
  got, want = _state(workdir), _state(reference)
  for name in sorted(got.keys() | want.keys()):
    a, b = got.get(name), want.get(name)
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
      leaves.append(name)
      largest = np.inf
    elif a.tobytes() != b.tobytes():
      leaves.append(name)
      values += int(np.sum(a != b))
      if _WITHOUT_GRADIENT.fullmatch(name):
        continue
      scale = float(np.max(np.abs(b.astype(np.float64)))) or 1.0
      distance = np.abs(a.astype(np.float64) - b.astype(np.float64))
      largest = max(largest, float(np.max(distance)) / scale / _times(name))
  rows = _compare_rows(workdir, reference)
  return Difference(tuple(leaves), values, largest, *rows)


def _times(name):
  """How many times as large as others a relative difference may be."""
  return _LARGER if _OF_GRADIENTS.fullmatch(name) else 1


def _state(workdir: str) -> dict[str, np.ndarray]:
  """Reads the last checkpoint; without the clock, which tells hours."""
  tree = checkpoints.load_checkpoint_ts(
    f"{workdir}/checkpoint.bv", shardings="host"
  )
  tree.pop("chrono", None)
  return {k: np.asarray(v) for k, v in trees.tree_flatten_with_names(tree)[0]}


def _compare_rows(workdir: str, reference: str) -> tuple[Any, ...]:
  """Returns the fields of a Difference that are about metrics."""
  metrics, missing, torn, largest = [], [], 0, 0.0
  for file in FILES:
    got, bad = read(os.path.join(workdir, file))
    want, _ = read(os.path.join(reference, file))
    torn += bad
    missing += [(file, step) for step in sorted(want.keys() - got.keys())]
    for step in sorted(want.keys() & got.keys()):
      for name in sorted(want[step].keys() | got[step].keys()):
        a, b = got[step].get(name), want[step].get(name)
        if a == b or _OF_THE_MACHINE.fullmatch(name):
          continue
        metrics.append((step, name))
        if _OF_THE_DEVICES.fullmatch(name):
          continue
        if isinstance(a, float) and isinstance(b, float):
          distance = abs(a - b) / max(abs(a), abs(b), _SMALL)
          largest = max(largest, distance / _times(name))
        else:
          largest = np.inf
  return tuple(metrics), largest, tuple(missing), torn


def read(path: str) -> tuple[dict[int, dict[str, Any]], int]:
  """Reads a metrics file, of which the last row of a step counts.

  Args:
    path: of the file; it may be missing.

  Returns:
    (step -> name -> value, number of lines that cannot be read).
  """
  rows, torn = {}, 0
  if not os.path.exists(path):
    return rows, torn
  with open(path, encoding="utf-8") as f:
    for line in f:
      try:
        row = json.loads(line)
        rows[row.pop("step")] = row
      except (ValueError, KeyError, AttributeError):
        torn += 1
  return rows, torn
