"""Writes which classes a model takes for which: a table and a picture.

Shapes: C classes.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from big_vision import fs
from big_vision.evaluators import files

_MAX_SHOWN = 60  # Classes whose names and numbers fit into the picture.


class Writer:
  """Writes `<base>.csv`, `<base>.png` and `<base>_per_class.csv`."""

  def __init__(
    self,
    base: str,
    data: Mapping[str, Any] | None,
    workdir: str | None,
    get_step: Callable[[], int | None] | None,
  ) -> None:
    """Prepares the files.

    Args:
      base: format string of their path without ending, with any of {workdir} and
        {step}.
      data: arguments of `datasets.core.get`, which may know names of the classes.
      workdir: output folder of the run, "" for none; None means the flag.
      get_step: returns the step of the run; None means that of the clock.
    """
    self._base, self._data = base, data
    self._workdir, self._get_step = workdir, get_step

  def write(self, counts: np.ndarray) -> None:
    """Writes the files, again if they are there.

    Args:
      counts: [C, C], number of examples by label and by prediction.
    """
    step = self._get_step() if self._get_step else None
    base = files.resolve_outfile(self._base, workdir=self._workdir, step=step)
    if base is None:
      logging.warning("No confusion matrix: %r needs a workdir.", self._base)
      return
    names = self._names(len(counts))
    files.write_csv(f"{base}.csv", ["label", *names], _rows(names, counts))
    header = ["class", "accuracy", "examples", "predicted", "most taken for"]
    files.write_csv(f"{base}_per_class.csv", header, per_class(names, counts))
    picture = draw(names, counts)
    if picture is not None:
      with fs.open(f"{base}.png", "wb") as f:
        f.write(picture)

  def _names(self, num: int) -> list[str]:
    """Returns the names of the classes, their numbers if they have none."""
    return files.class_names(self._data, num)


def per_class(names: Sequence[str], counts: np.ndarray) -> list[list[Any]]:
  """Computes the accuracy of each class.

  Args:
    names: C str.
    counts: [C, C], number of examples by label and by prediction.

  Returns:
    For each class its name, the fraction of its examples that are right ("" if
    there are none), their number, how often it is predicted, and the other class
    that its examples are taken for most often ("" if for none).
  """
  out = []
  for i, name in enumerate(names):
    num = counts[i].sum()
    others = np.where(np.arange(len(names)) == i, 0, counts[i])
    worst = names[int(others.argmax())] if others.max() > 0 else ""
    accuracy = f"{counts[i, i] / num:.6g}" if num else ""
    predicted = counts[:, i].sum()
    out.append([name, accuracy, _number(num), _number(predicted), worst])
  return out


def draw(names: Sequence[str], counts: np.ndarray) -> bytes | None:
  """Draws the matrix; each row shows fractions of the examples of a class.

  Args:
    names: C str.
    counts: [C, C], number of examples by label and by prediction.

  Returns:
    Content of a PNG; None without matplotlib.
  """
  try:
    from matplotlib import figure
  except ImportError:
    logging.info("No picture of the confusion matrix without matplotlib.")
    return None
  share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
  few = len(names) <= _MAX_SHOWN
  side = 3 + 0.3 * len(names) if few else 10
  fig = figure.Figure(figsize=(side + 1, side), layout="constrained")
  ax = fig.add_subplot()
  image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
  fig.colorbar(image, ax=ax, label="fraction of the label's examples")
  ax.set(xlabel="prediction", ylabel="label")
  if few:
    ticks = range(len(names))
    ax.set_xticks(ticks, names, rotation=90)
    ax.set_yticks(ticks, names)
    for i, j in zip(*np.nonzero(counts), strict=True):
      color = "white" if share[i, j] > 0.5 else "black"
      text = _number(counts[i, j])
      ax.text(j, i, text, ha="center", va="center", color=color, fontsize=7)
  out = io.BytesIO()
  fig.savefig(out, format="png", dpi=100)
  return out.getvalue()


def _rows(names, counts):
  for name, row in zip(names, counts, strict=True):
    yield [name, *map(_number, row)]


def _number(x):
  return f"{x:.6g}"
