"""Shows a run to its user: progress line, notes, results of evaluators."""

import contextlib
import itertools
import logging as py_logging
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax
from absl import logging

from big_vision.chrono import hms


class Progress:
  """Shows on one line where a run is.

  On a terminal the line is redrawn in place below the log; elsewhere every update
  is a line of its own.
  """

  def __init__(self, total_steps: int, stream: TextIO | None = None):
    self.total_steps = total_steps
    self.stream = stream or sys.stderr
    self.live = self.stream.isatty() and jax.process_index() == 0
    self._line = ""
    self._handler = logging.get_absl_handler()
    self._waited = 0.0
    self._updated = time.monotonic()
    if self.live:
      self._handler.addFilter(self._before_log)

  @contextlib.contextmanager
  def waiting_for_data(self) -> Iterator[None]:
    """Counts the time that the body takes as waiting for data."""
    start = time.monotonic()
    yield
    self._waited += time.monotonic() - start

  @contextlib.contextmanager
  def busy(self, what: str, noop: bool = False) -> Iterator[None]:
    """Shows on a terminal how long the body takes, while it does.

    Args:
      what: "compiling" for example.
      noop: whether to do nothing.

    Yields:
      Nothing.
    """
    if noop or not self.live:
      yield
      return
    done, start = threading.Event(), time.monotonic()

    def spin():
      for sign in itertools.cycle("|/-\\"):
        self._line = f"{sign} {what} {hms(time.monotonic() - start)}"
        self._draw()
        if done.wait(0.5):
          return

    thread = threading.Thread(target=spin, name="spinner", daemon=True)
    thread.start()
    try:
      yield
    finally:
      done.set()
      thread.join()
      self._line = ""
      self._draw()

  def update(self, step: int, measured: Mapping[str, float]) -> None:
    """Shows a step, and which part of the time went into waiting for data.

    Args:
      step: number of finished steps.
      measured: metrics of this step; `training_loss`, `lr`, `img/sec`, `mfu` (in
        [0, 1]) and `eta` (seconds) are shown if they are there.
    """
    now = time.monotonic()
    waited = self._waited / max(now - self._updated, 1e-9)
    self._waited, self._updated = 0.0, now
    shown = {
      "training_loss": "loss {:.4g}",
      "lr": "lr {:.3g}",
      "img/sec": "{:.0f} img/s",
      "mfu": "MFU {:.0%}",
    }
    parts = [
      f"step {step}/{self.total_steps}",
      f"{100 * step / max(self.total_steps, 1):.0f}%",
      *(text.format(measured[k]) for k, text in shown.items() if k in measured),
    ]
    if "eta" in measured:
      parts.append(f"ETA {hms(measured['eta'])}")
    if "img/sec" in measured:
      parts.append(f"data wait {min(waited, 1):.0%}")
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
    """Makes room for a log line. A filter of logging."""
    del record
    if self._line:
      self.stream.write("\r\x1b[2K")
    return True


def note(text: str) -> None:
  """Logs a note on process 0, marked so that it stands out in the log."""
  if jax.process_index() == 0:
    logging.info("\x1b[33mNOTE\x1b[0m: %s", text)


def results(name: str, values: Mapping[str, Any]) -> None:
  """Logs on one line what an evaluator has measured.

  Args:
    name: of the evaluator.
    values: name -> number, or None for a picture; other values are left out.
  """
  numbers = {k: v for k, v in values.items() if isinstance(v, float)}
  parts = [f"{k} {v:.4g}" for k, v in numbers.items()]
  parts += [f"{k} (a picture)" for k, v in values.items() if v is None]
  note(f"{name}: {'  '.join(parts)}")


def clock_note(text: str) -> None:
  """Logs where the run is: a detail, the line of the step says it, too."""
  if jax.process_index() == 0:
    logging.info("%s", text.replace("\n", "  "))


def lower_is_better(metric: str) -> bool:
  """Tells the better direction of a metric by its name.

  Args:
    metric: "val/loss" for example.

  Returns:
    True for losses, errors and perplexities, False for all others.
  """
  words = r"(?i)loss|error|mae\b|rmse|perplexity"
  return re.search(words, metric) is not None
