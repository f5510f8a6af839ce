"""Examples that fail to be preprocessed: find them, report them, skip them."""

from __future__ import annotations

import atexit
import ctypes
import functools
import re
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging

from big_vision.datasets.source import DataSource
from big_vision.lookup import ConfigError
from big_vision.tf import tf

# What TensorFlow says of its own parts in messages.
_NOISE = (
  r"\{\{function_node [^}]*\}\} *",
  r"^Error in user-defined function passed to .* with iterator: [\w:\[\]]+: ",
  r" *\[Op:\w+\].*",
)
_SEARCH_SECONDS = 60  # How long to look for the example behind an error.
_RELEASE_SECONDS = 0.1  # How long to wait for the destructor of an iterator.


class Record:
  """Remembers which example is being preprocessed.

  Attributes:
    current: its description, None between examples.
  """

  def __init__(self):
    self.current: str | None = None

  def begin(self, name: str, position: Any, x: Any) -> Any:
    """Notes the example of an element of a stream.

    Args:
      name: of the dataset.
      position: of the element.
      x: (epoch, (index, example)).

    Returns:
      (position, x).
    """
    epoch, (index, example) = x
    tfds_id = example.get("tfds_id", "") if isinstance(example, dict) else ""

    def note(index, epoch, tfds_id):
      tfds_id = readable(tfds_id.numpy())
      which = f"tfds_id='{tfds_id}'" if tfds_id else f"index {int(index)}"
      self.current = f"{which} of the dataset {name!r} in epoch {int(epoch)}"

    tf.py_function(note, [index, epoch, tfds_id], [])
    return position, x

  def end(self, *element: Any) -> Any:
    """Notes that an example is done.

    Args:
      *element: of a dataset.

    Returns:
      The element.
    """

    def forget():
      self.current = None

    tf.py_function(forget, [], [])
    return element


def find_failure(
  make_examples: Callable[[Record], tf.data.Dataset], num: int | None
) -> str | None:
  """Finds out which example fails to be preprocessed.

  Args:
    make_examples: makes the dataset to search, which fills in the record.
    num: how many results to look at; None: until the time is over.

  Returns:
    A description, or None if none fails (again) or it takes too long.
  """
  record = Record()
  try:
    error = _first_error(make_examples(record), num)
  except (tf.errors.OpError, UnicodeDecodeError):
    return None  # To find the place to start from, a filter reads everything.
  return record.current if error else None


def first_error(
  ds: tf.data.Dataset, record: Record | None = None
) -> str | None:
  """Reads a dataset until it fails.

  Args:
    ds: finite dataset.
    record: that the dataset fills in.

  Returns:
    What failed and why, in one line; None if nothing fails (or it takes too
    long).
  """
  error = _first_error(ds, None)
  if error is None:
    return None
  which = f"{record.current}: " if record and record.current else ""
  return which + reason(error)


def _first_error(ds, num):
  """Returns the error of one of the first `num` elements, if any."""
  options = tf.data.Options()
  # Fused functions would lose what comes first.
  options.experimental_optimization.apply_default_optimizations = False
  deadline = time.monotonic() + _SEARCH_SECONDS
  try:
    for i, _ in enumerate(ds.with_options(options)):
      if i + 1 == num or time.monotonic() > deadline:
        return None
  except (tf.errors.OpError, UnicodeDecodeError) as e:
    return e
  return None


def reason(e: Exception) -> str:
  """Shortens an error of a pipeline to what it is about.

  Args:
    e: an error of TensorFlow, or a UnicodeDecodeError: TensorFlow decodes
      messages, which fails for those that quote bytes.

  Returns:
    One line.
  """
  lines = [line.strip() for line in _message(e).splitlines() if line.strip()]
  text = lines[0] if lines else type(e).__name__
  for pattern in _NOISE:
    text = re.sub(pattern, "", text)
  if failed := re.fullmatch(r"assertion failed: \[(.*)\]", text):
    text = _unescaped(failed[1].replace("] [", " "))
  return text


def _unescaped(text):
  r"""Undoes what TensorFlow does to the strings of assertions: \', \303\244."""
  pattern, escapes = rb"\\([0-7]{3}|['\"\\])", text.encode()
  char = lambda m: m[1] if len(m[1]) == 1 else bytes([int(m[1], 8) % 256])
  return readable(re.sub(pattern, char, escapes))


def _message(e):
  if isinstance(e, UnicodeDecodeError):
    return readable(e.object)
  return getattr(e, "message", None) or str(e)


def readable(text: bytes) -> str:
  """Decodes bytes; those that are not UTF-8 are shown as `\\xff`."""
  return bytes(text).decode("utf-8", "backslashreplace")


def explained_by(
  ds: tf.data.Dataset,
  explain: Callable[[int], str | None],
  ended: Callable[[], str | None] = lambda: None,
  sources: Sequence[DataSource] = (),
  remedy: str = "",
  exhausted: str = "",
) -> tf.data.Dataset:
  """Attaches to a dataset how to find out what is behind an error.

  Errors of tf.data do not say which example failed, and to carry its name along
  would cost time for each: `explain` is called when one did.

  Args:
    ds: dataset of batches.
    explain: number of batches that came before the error -> what failed, None
      if that is not known.
    ended: says why there are no more examples, None if that is not the reason.
    sources: where the examples come from.
    remedy: what errors advise.
    exhausted: what to say if the dataset ends; "" if it may.

  Returns:
    The dataset, for `iterate`.
  """
  ds.explain_failure, ds.why_ended = explain, ended
  ds.sources, ds.remedy, ds.exhausted = sources, remedy, exhausted
  return ds


def iterate(ds: tf.data.Dataset) -> Any:
  """Iterates over a dataset; errors say which example is behind them.

  Args:
    ds: dataset of batches, see `explained_by`.

  Yields:
    Its elements.

  Raises:
    ConfigError: an example could not be preprocessed (names it), or none is
      left.
  """
  held = _Held(iter(ds))
  try:
    yield from _elements(ds, held)
  finally:
    held.release()


def _elements(ds, held):
  """Yields what the iterator gives; errors name the example."""
  num_batches = 0
  while True:
    try:
      batch = next(held.it)
    except StopIteration:
      if message := getattr(ds, "exhausted", ""):
        raise ConfigError(message) from None
      return
    except (tf.errors.OpError, UnicodeDecodeError) as e:
      error = _explain(ds, num_batches, e)
      raise error from (None if error is e else e)
    yield batch
    num_batches += 1


class _Held:
  """Holds an iterator of tf.data, to drop it in a thread of its own.

  Its destructor joins a thread of tf.data that tunes parallelism. When that
  thread misses the wake-up, it sleeps on, for up to a minute.
  """

  def __init__(self, it: Any) -> None:
    self.it = it
    self._stays = False
    _held.add(self)

  def release(self) -> None:
    if self._stays:
      return
    clear = functools.partial(self.__dict__.pop, "it", None)
    thread = threading.Thread(target=clear, name="release", daemon=True)
    thread.start()
    # The usual case takes milliseconds, and leaves no thread behind.
    thread.join(_RELEASE_SECONDS)

  def stay(self) -> None:
    """Never drops it: while the interpreter ends, threads do not run."""
    self._stays = True
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.it))


_held: weakref.WeakSet[_Held] = weakref.WeakSet()  # Those in use.


@atexit.register
def _stay():
  for held in list(_held):
    if hasattr(held, "it"):
      held.stay()


def _explain(ds: tf.data.Dataset, num_batches: int, e: Exception) -> Exception:
  """Makes an error that names the example; `e` if it cannot be found."""
  if not hasattr(ds, "explain_failure"):
    return e
  if message := ds.why_ended():
    return ConfigError(message)
  if isinstance(e, tf.errors.DataLossError):
    logging.error("Data is lost, looking for the file: %s", reason(e))
    found = (source.find_damage() for source in ds.sources)
    if message := next(filter(None, found), None):
      return ValueError(message)
  logging.error(
    "An input pipeline failed, looking for the example: %s", _message(e)
  )
  failed = ds.explain_failure(num_batches)
  if failed:
    text = f"Preprocessing failed for the example with {failed}: {reason(e)}"
  elif isinstance(e, tf.errors.InvalidArgumentError | UnicodeDecodeError):
    text = f"Reading the data failed: {reason(e)}"
  else:
    return e
  return ConfigError(" ".join([text.rstrip(".") + ".", ds.remedy]).strip())


def report_bad_examples(
  source: DataSource, name: str, skip_errors: bool
) -> None:
  """Refuses or counts examples that are known to be unusable, before reading.

  Args:
    source: where examples come from.
    name: of the dataset.
    skip_errors: whether such examples are left out.

  Raises:
    ValueError: there are some and they are not to be left out.
  """
  bad = source.bad_examples()
  if not bad:
    return
  if not skip_errors:
    raise ValueError(
      f"config.input.data: {len(bad)} examples of {name!r} cannot be used, "
      f"the first: {bad[0]} Set config.input.skip_errors=True to leave such "
      "examples out."
    )
  logging.warning(
    "input.skip_errors: %d examples of %s cannot be used: %s",
    len(bad),
    name,
    "; ".join(bad[:5]),
  )
