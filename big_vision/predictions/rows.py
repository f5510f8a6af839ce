"""Writes predictions as a table, CSV or JSON lines, and shows the progress."""

import csv
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

FORMATS = ("table", "csv", "jsonl")
_WIDTH_OF_NAMES = 48  # Of longer ones, the end is shown.


@dataclasses.dataclass(frozen=True)
class Row:
  """Holds what is known about a picture.

  Attributes:
    picture: its name.
    predictions: objects with `name`, `probability` and `label`, the most probable
      first; of a regression or of label maps a dict of name -> value.
    features: array [D].
    error: why it cannot be read, "" if it can.
    caption: text that describes it, of models that do so.
  """

  picture: str
  predictions: Sequence[Any] | Mapping[str, Any] = ()
  features: Any = None
  error: str = ""
  caption: str | None = None


def writer(
  kind: str,
  out: TextIO,
  num_classes: int | None,
  targets: Sequence[str] = (),
  captions: bool = False,
) -> Callable[[Row], None]:
  """Makes the function that writes a row.

  Args:
    kind: one of `FORMATS`.
    out: where to.
    num_classes: how many classes a row has, each in columns of its own; None: any
      number, in columns of lists.
    targets: names of the values, of a regression or of label maps.
    captions: whether rows have captions instead of classes.

  Returns:
    `row -> None`.
  """
  if kind == "jsonl":
    return lambda row: print(json.dumps(_as_dict(row)), file=out, flush=True)
  if kind == "table":
    return lambda row: print(_as_text(row), file=out, flush=True)
  table = csv.writer(out, lineterminator="\n")
  if captions:
    columns, cells_of = ("caption",), _cells_of_captions
  elif targets:
    columns, cells_of = targets, _cells_of_values
  elif num_classes is not None:
    numbers = range(1, num_classes + 1)
    pairs = [(f"class{i}", f"probability{i}") for i in numbers]
    columns, cells_of = [x for pair in pairs for x in pair], _cells_of_classes
  else:
    columns, cells_of = ("labels", "probabilities"), _cells_of_lists
  table.writerow(["picture", *columns, "error"])

  def write(row):
    shown = row.predictions if row.caption is None else row.caption
    cells = [] if row.error else cells_of(shown)
    cells += [""] * (len(columns) - len(cells))
    table.writerow([row.picture, *cells, row.error])

  return write


def batches(items: Iterable[Any], num: int) -> Iterator[list[Any]]:
  """Takes items together.

  Args:
    items: any.
    num: how many.

  Yields:
    Lists of so many, of fewer at the end.
  """
  items = iter(items)
  while batch := list(itertools.islice(items, num)):
    yield batch


def _cells_of_captions(caption):
  return [caption]


def _cells_of_values(values):
  return [_shown(value) for value in values.values()]


def _shown(value):
  return value if isinstance(value, str) else f"{value:.6g}"


def _cells_of_classes(predictions):
  return [x for p in predictions for x in (p.name, f"{p.probability:.6g}")]


def _cells_of_lists(predictions):
  """Lists as the column of labels in a CSV file of data."""
  separator = ";" if not any(";" in p.name for p in predictions) else "|"
  numbers = [f"{p.probability:.6g}" for p in predictions]
  return [separator.join(p.name for p in predictions), separator.join(numbers)]


def _as_dict(row):
  if row.error:
    return {"picture": row.picture, "error": row.error}
  if row.caption is not None:
    return {"picture": row.picture, "caption": row.caption}
  if isinstance(row.predictions, Mapping):
    short = lambda x: float(f"{x:.7g}") if isinstance(x, float) else x
    values = {k: short(x) for k, x in row.predictions.items()}
    return {"picture": row.picture, "values": values}
  return {
    "picture": row.picture,
    "predictions": [
      {"name": p.name, "probability": round(p.probability, 6), "label": p.label}
      for p in row.predictions
    ],
  }


def _as_text(row):
  name = row.picture
  if len(name) > _WIDTH_OF_NAMES:
    name = "…" + name[1 - _WIDTH_OF_NAMES :]
  if row.caption is not None:
    cells = [row.caption]
  elif isinstance(row.predictions, Mapping):
    cells = [f"{name} {_shown(x)}" for name, x in row.predictions.items()]
  else:
    cells = [f"{p.name} {100 * p.probability:.1f}%" for p in row.predictions]
  text = f"error: {row.error}" if row.error else "  ".join(cells)
  return f"{name:<{_WIDTH_OF_NAMES}}  {text}".rstrip()


def save_features(
  path: str, names: Sequence[str], features: Sequence[Any]
) -> None:
  """Writes features of pictures to a file.

  Args:
    path: ends in .npz.
    names: of the pictures.
    features: an array [D] for each.
  """
  import numpy as np  # Here, so that --help is quick.

  from big_vision import fs

  array = np.stack(features) if len(features) else np.zeros([0, 0], np.float32)
  with fs.open(path, "wb") as f:
    np.savez(f, features=array, pictures=np.array(names, str))


class Progress:
  """Shows on a terminal how many pictures are done; elsewhere nothing.

  Attributes:
    done: number of pictures.
    failed: how many of these cannot be read.
  """

  def __init__(self, total: int, stream: TextIO | None = None):
    self._total, self._stream = total, stream or sys.stderr
    self._live = self._stream.isatty()
    self._start, self._shown = time.monotonic(), 0.0
    self.done = self.failed = 0

  def step(self, failed: bool) -> None:
    """Counts a picture.

    Args:
      failed: whether it cannot be read.
    """
    self.done += 1
    self.failed += failed
    now = time.monotonic()
    if self._live and (now - self._shown > 0.2 or self.done == self._total):
      self._shown = now
      self._draw(now - self._start)

  def clear(self) -> None:
    """Makes room for a row on the same terminal, until the next `step`."""
    if self._live and self._shown:
      self._stream.write("\r\x1b[2K")
      self._stream.flush()
      self._shown = 0.0

  def _draw(self, seconds):
    share = self.done / self._total
    bar = ("█" * int(24 * share)).ljust(24, "░")
    speed = self.done / max(seconds, 1e-9)
    left = (self._total - self.done) / max(speed, 1e-9)
    failed = f"  {self.failed} unreadable" if self.failed else ""
    self._stream.write(
      f"\r\x1b[2K{bar} {self.done}/{self._total}  {speed:.0f} pictures/s  "
      f"{left:.0f} s left{failed}"
    )
    self._stream.flush()

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *exc: Any) -> None:
    if self._live and self.done:
      self._stream.write("\n")
