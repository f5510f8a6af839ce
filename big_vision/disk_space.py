"""Says in one line that a disk is full: the path, the reason, the free space."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator

from big_vision import fs, lookup

# The errors of a disk, also as the text in which libraries wrap them.
_REASONS = {
  code: os.strerror(code)
  for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
}


class WriteError(lookup.ConfigError, RuntimeError):
  """Something could not be written; says where and why."""


def reason(error: BaseException) -> str | None:
  """Finds out whether an error is one of the disk.

  Args:
    error: what was raised.

  Returns:
    The reason, for example "No space left on device"; None for other errors.
  """
  if isinstance(error, OSError) and error.errno is not None:
    return _REASONS.get(error.errno)
  text = str(error)
  return next((r for r in _REASONS.values() if r in text), None)


@contextlib.contextmanager
def explained(path: fs.Path) -> Iterator[None]:
  """Names the path and the free space if the body fails because of the disk.

  Args:
    path: file or folder that the body writes.

  Yields:
    Nothing; used as `with explained(path):`.

  Raises:
    WriteError: instead of errors of the disk. All others propagate.
  """
  try:
    yield
  except Exception as e:
    why = reason(e)
    if why is None or isinstance(e, WriteError):
      raise
    raise error(path, why) from e


def error(path: fs.Path, why: str) -> WriteError:
  """Makes the error for what cannot be written.

  Args:
    path: file or folder.
    why: the reason, see `reason`.

  Returns:
    The exception, to be raised by the caller.
  """
  return WriteError(
    f"{os.fspath(path)} cannot be written: {why}{_space(path)}. Make room and "
    "start the same command again: a run continues from its last complete "
    "checkpoint."
  )


def _space(path):
  """Tells how much is free on the disk of a path, as far as it is known."""
  if not fs.is_local(path):
    return ""
  path = os.path.abspath(path)
  while not os.path.exists(path):
    path = os.path.dirname(path)
  usage = shutil.disk_usage(path)
  return f" ({_megabytes(usage.free)} of {_megabytes(usage.total)} are free)"


def _megabytes(count):
  return f"{count / 1e6:,.1f} MB"
