"""Repeats what a slow or flaky store of objects refuses for the moment."""

import errno
import time
from collections.abc import Callable
from typing import Any, TypeVar

from absl import logging

from big_vision import lookup

# Seconds before each further try.
DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

_T = TypeVar("_T")
# What callers expect: these tell what a store has, not how it is.
_ANSWERS = (
  FileNotFoundError,
  FileExistsError,
  IsADirectoryError,
  NotADirectoryError,
)
# By name, since the libraries may not be installed: of aiohttp, requests,
# botocore and TensorFlow.
_TRANSIENT = {
  "ClientConnectionError", "ClientPayloadError", "ServerTimeoutError",
  "RequestException", "HTTPClientError", "EndpointConnectionError",
  "UnavailableError", "DeadlineExceededError", "AbortedError",
  "ResourceExhaustedError",
}  # fmt: skip
_PERMANENT = {"HttpError", "PermissionDeniedError", "UnauthenticatedError"}
_TRANSIENT_CODES = {
  errno.EAGAIN, errno.EBUSY, errno.EIO, errno.EINTR, errno.ETIMEDOUT,
  errno.ECONNRESET, errno.ENETUNREACH, errno.EHOSTUNREACH,
}  # fmt: skip


class StoreError(lookup.ConfigError, OSError):
  """A store refuses something for good; names the path."""


def repeat(call: Callable[[], _T], path: str) -> _T:
  """Calls a function again, with growing pauses, after errors of the moment.

  Args:
    call: function without arguments that may be called more than once.
    path: what it is about.

  Returns:
    Its result.

  Raises:
    StoreError: the store refuses, or still does so after half a minute.
    OSError: the answer is that the path does not exist, or is not a folder.
  """
  for delay in (*DELAYS, None):
    try:
      return call()
    except _ANSWERS:
      raise
    except Exception as e:
      if not is_transient(e):
        if isinstance(e, OSError) or _named(e, _PERMANENT):
          raise StoreError(f"{path}: {_line(e)}") from e
        raise
      if delay is None:
        raise StoreError(
          f"{path}: {_line(e)}. Tried {len(DELAYS) + 1} times in "
          f"{sum(DELAYS):.0f} s."
        ) from e
      logging.warning("%s: %s. Again in %.1f s.", path, _line(e), delay)
      time.sleep(delay)
  raise AssertionError  # The last delay is None.


def is_transient(error: BaseException) -> bool:
  """Tells whether an error may be gone at the next try.

  Args:
    error: of fsspec's drivers, what they use, or TensorFlow.

  Returns:
    Whether the store was overloaded or could not be reached.
  """
  if isinstance(error, ConnectionError | TimeoutError):
    return True
  status = getattr(error, "code", None) or getattr(error, "status", None)
  if isinstance(status, str) and status.isdigit():
    status = int(status)
  if isinstance(status, int) and status >= 400:  # Of HTTP.
    return status in (408, 429) or status >= 500
  if _named(error, _TRANSIENT):
    return True
  return isinstance(error, OSError) and error.errno in _TRANSIENT_CODES


def _named(error, names):
  return any(c.__name__ in names for c in type(error).__mro__)


def _line(error):
  return " ".join(str(error).split()) or type(error).__name__


class Repeating:
  """A store of `remote_stores.py` whose methods are repeated."""

  def __init__(self, store: Any) -> None:
    """Wraps a store; its methods take the path first."""
    self.store = store

  def __getattr__(self, name: str) -> Callable[..., Any]:
    method = getattr(self.store, name)

    def repeated(path, *args):
      tries = 0

      def call():
        nonlocal tries
        tries += 1
        try:
          return method(path, *args)
        except FileNotFoundError:
          # The first try may have done it before its answer was lost.
          if tries > 1 and name in ("remove", "rmtree"):
            return None
          if tries > 1 and name == "rename" and self.store.exists(args[0]):
            return None
          raise

      return repeat(call, path)

    return repeated
