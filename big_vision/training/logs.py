"""Where the lines of a log go: what matters to stderr, all of it to `train.log`.

What one looks up, not reads (the resolved config, every parameter, which rule
matched which, single metrics, timings), is in the file only; and on stderr with
`--verbosity=1`, for example of a run without a workdir.
"""

import contextlib
import logging as py_logging
import re
import sys
from logging import handlers

import jax
from absl import flags, logging

from big_vision import fs

# Modules whose lines at INFO are details.
_DETAILS = (
  "builder", "chrono", "config_check", "discriminative_classifier", "metrics",
  "params", "prompt_engineering", "retrieval", "sharding", "trees",
)  # fmt: skip
# Functions of `console` and of this module that log details.
_DETAIL_FUNCTIONS = ("clock_note", "detail")
# Parts of TensorFlow that say how it could be written better, and libraries that
# tell about themselves.
_HINTS = ("/tensorflow/python/util/deprecation.py",)
_LIBRARIES = (
  "/orbax/", "/tensorboardX/", "/jax/", "/etils/", "/tensorflow_datasets/",
)  # fmt: skip
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def detail(text: str) -> None:
  """Logs what is for the file, on process 0."""
  if jax.process_index() == 0:
    logging.info("%s", text)


def is_detail(record: py_logging.LogRecord) -> bool:
  """Tells whether a line is for the file only."""
  if record.levelno > py_logging.INFO:
    return False
  in_graph = "/tensorflow/python/autograph/" in record.pathname  # Of `builder`.
  details = record.module in _DETAILS or record.funcName in _DETAIL_FUNCTIONS
  return details or in_graph


def no_chatter(record: py_logging.LogRecord) -> bool:
  """Drops what libraries say about themselves. A filter of logging."""
  if any(record.pathname.endswith(path) for path in _HINTS):
    return False
  chatter = any(name in record.pathname for name in _LIBRARIES)
  return record.levelno > py_logging.INFO or not chatter


class _Once:
  """Drops what a dataset has said before; each evaluator opens it anew."""

  def __init__(self) -> None:
    self._said: set[str] = set()

  def __call__(self, record: py_logging.LogRecord) -> bool:
    if "/big_vision/datasets/" not in record.pathname:
      return True
    text = record.getMessage()
    is_new = record.levelno > py_logging.INFO or text not in self._said
    self._said.add(text)
    return is_new


class _Lines(py_logging.Formatter):
  """Writes the time and the text; level and place where something is wrong."""

  def format(self, record: py_logging.LogRecord) -> str:
    time = self.formatTime(record, "%H:%M:%S")
    text = super().format(record)
    if not sys.stderr.isatty():
      text = _ESCAPES.sub("", text)
    if record.levelno <= py_logging.INFO:
      return f"{time} {text}"
    where = f"{record.filename}:{record.lineno}"
    return f"{time} {record.levelname} {text} ({where})"


class _Plain(logging.PythonFormatter):
  """Writes date, place and text, without colors."""

  def format(self, record: py_logging.LogRecord) -> str:
    return _ESCAPES.sub("", super().format(record))


def set_up() -> None:
  """Makes the lines on stderr short, with notes; call it once per process."""
  if flags.FLAGS["verbosity"].using_default_value:
    logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.setFormatter(_Lines())
  handler.addFilter(no_chatter)
  handler.addFilter(lambda record: details_shown() or not is_detail(record))
  handler.addFilter(_Once())


def details_shown() -> bool:
  """Tells whether details go to stderr, too."""
  return logging.get_verbosity() > logging.INFO


class _File(py_logging.FileHandler):
  """Ends with the first error: a full disk would be told of with every line."""

  _ended = False

  def emit(self, record: py_logging.LogRecord) -> None:
    if not self._ended:
      super().emit(record)

  def flush(self) -> None:
    if not self._ended:
      super().flush()

  def handleError(self, record: py_logging.LogRecord) -> None:  # noqa: N802
    """Called by `emit`, which has caught the error."""
    self._ended = True
    _tell(self.baseFilename, sys.exc_info()[1])


def _tell(path: str | None, error: BaseException | None) -> None:
  with contextlib.suppress(OSError):  # Stderr may be a file there, too.
    print(f"{path}: the log ends here: {error}", file=sys.stderr, flush=True)


class File:
  """The file `train.log` of a run; a continued run appends to it.

  Lines wait in memory until `begin`, so that a start that fails leaves no file.
  Processes other than 0, remote workdirs and runs without one have no file.
  """

  def __init__(self, workdir: str | None) -> None:
    """Starts to collect.

    Args:
      workdir: folder of the run, or None.
    """
    self._handler: handlers.MemoryHandler | None = None
    self._workdir = workdir
    if workdir and fs.is_local(workdir) and jax.process_index() == 0:
      # The target comes later; until then nothing is flushed.
      handler = handlers.MemoryHandler(
        capacity=sys.maxsize, flushLevel=py_logging.CRITICAL + 1
      )
      handler.addFilter(no_chatter)
      logging.get_absl_logger().addHandler(handler)
      self._handler = handler

  def __enter__(self) -> "File":
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()

  def begin(self) -> None:
    """Writes what has waited; from now on lines are written at once."""
    if self._handler is None or self._handler.target is not None:
      return
    file = _File(fs.join(self._workdir or "", "train.log"), encoding="utf-8")
    file.setFormatter(_Plain())
    self._handler.setTarget(file)
    self._handler.flush()
    self._handler.capacity = 1

  def close(self) -> None:
    """Ends the file; without `begin` its lines are dropped."""
    handler, self._handler = self._handler, None
    if handler is None:
      return
    logging.get_absl_logger().removeHandler(handler)
    file = handler.target
    if file is None:
      handler.buffer.clear()
    handler.close()
    if file is not None:
      with contextlib.suppress(OSError):  # What did not fit, see `_File`.
        file.close()
