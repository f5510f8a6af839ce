"""Locks and removes the folder of a run."""

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterable
from typing import IO, Any

import jax

from big_vision import fs, lookup


class InUse(lookup.ConfigError, RuntimeError):
  """Another run writes to the folder, or it cannot be written to."""


class Lock:
  """Holds `<workdir>/.lock` until `release`, or until the process dies."""

  def __init__(
    self, file: IO[Any] | None = None, undo: Callable[[], Any] | None = None
  ) -> None:
    self._file, self._undo = file, undo

  def undo(self) -> None:
    """Leaves the folder as it was before `lock`, which made it if need be."""
    if self._undo is not None:
      self._undo()

  def release(self) -> None:
    """Lets other runs use the folder; may be called twice."""
    if self._file is not None:
      self._file.close()  # Closing frees the lock, the file may stay.
      self._file = None

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.release()


def lock(workdir: str | None) -> Lock:
  """Makes sure that only one run at a time writes to a folder.

  Process 0 takes the lock of the operating system on `<workdir>/.lock`, which
  ends with the process, however it ends. Remote folders (gs://) have no such
  locks and are not locked.

  Args:
    workdir: the folder; created if missing. None: nothing is locked.

  Returns:
    A `Lock`. Keep it: when it is garbage collected the folder is free.

  Raises:
    InUse: another run holds the lock, tells which; or nothing can be written
      there.
  """
  if not workdir or not fs.is_local(workdir) or jax.process_index() != 0:
    return Lock()
  import fcntl  # Here, since Windows does not have it.

  made = _missing_folders(workdir)
  path = fs.join(workdir, ".lock")
  is_new = not os.path.exists(path)
  try:
    fs.makedirs(workdir)
    file = open(path, "a+", encoding="utf-8")
  except OSError as e:
    raise InUse(
      f"Nothing can be written to --workdir {workdir!r}: {e.strerror}. Choose "
      "another folder."
    ) from e
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as e:
    file.seek(0)
    holder = file.read().strip() or "unknown"
    file.close()
    raise InUse(
      f"Another run writes to workdir {workdir!r} (held by {holder}). Stop "
      "that run or choose another --workdir."
    ) from e
  if not os.fstat(
    file.fileno()
  ).st_nlink:  # Another run has just removed it, failing to start.
    file.close()
    return lock(workdir)
  file.seek(0)
  before = file.read()

  def say(text):
    file.truncate(0)
    file.write(text)
    file.flush()

  def undo():
    os.remove(path) if is_new else say(before)
    _remove_empty(made)

  say(f"process {os.getpid()} on {socket.gethostname()}\n")
  return Lock(file, undo)


def _missing_folders(path: str) -> list[str]:
  """Lists a folder and its parents as far as they do not exist."""
  missing, path = [], os.path.abspath(path)
  while not os.path.exists(path):
    missing.append(path)
    path = os.path.dirname(path)
  return missing


def _remove_empty(folders: Iterable[str]) -> None:
  """Removes folders, inner ones first, unless something is in them."""
  with contextlib.suppress(OSError):
    for folder in folders:
      os.rmdir(folder)


def maybe_cleanup_workdir(
  workdir: str | None, cleanup: bool, info: Callable[..., Any]
) -> None:
  """Removes the folder of a finished run, or logs its path.

  Args:
    workdir: None does nothing.
    cleanup: whether process 0 removes the folder, and its parent too if
      that is left empty.
    info: `info(text, *args)`, for example `logging.info`.
  """
  if not workdir:
    return
  if not cleanup:
    info("Logs/checkpoints are in %s", workdir)
    return
  if jax.process_index() == 0:
    fs.rmtree(workdir)
    if fs.is_local(workdir):  # Remote stores have no empty folders.
      # The parent may hold other runs, or belong to someone else.
      with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(os.path.abspath(workdir)))


def checkpointing_timeout(writer: Any, timeout: float) -> None:
  """Waits for an asynchronous write.

  Args:
    writer: object with `get(timeout)`, such as the result of
      `multiprocessing.pool.Pool.apply_async`; None is fine.
    timeout: how long to wait, in seconds.

  Raises:
    TimeoutError: the write did not finish in time.
  """
  if writer is None:
    return
  try:
    writer.get(timeout=timeout)
  except (multiprocessing.TimeoutError, TimeoutError) as e:
    raise TimeoutError(
      f"Writing the previous checkpoint has not finished within {timeout} s. "
      "Write checkpoints less often (config.ckpt_steps), or allow more time "
      "(config.ckpt_timeout)."
    ) from e
