"""Locks and removes the folder of a run."""

import contextlib
import errno
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax

from big_vision import fs, lease, lookup

# What file systems without locks answer, some of networks for example.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class InUse(lookup.ConfigError, RuntimeError):
  """Another run writes to the folder, or it cannot be written to."""


class Lock:
  """Holds `<workdir>/.lock` until `release`, or until the process dies."""

  def __init__(
    self,
    release: Callable[[], Any] | None = None,
    undo: Callable[[], Any] | None = None,
  ) -> None:
    self._release, self._undo = release, undo

  def undo(self) -> None:
    """Leaves the folder as it was before `lock`, which made it if need be."""
    if self._undo is not None:
      self._undo()

  def release(self) -> None:
    """Lets other runs use the folder; may be called twice."""
    if self._release is not None:
      self._release()
      self._release = None

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.release()


def lock(workdir: str | None) -> Lock:
  """Makes sure that only one run at a time writes to a folder.

  Process 0 takes the lock of the operating system on `<workdir>/.lock`, which
  ends with the process, however it ends. Remote folders (gs://) and file systems
  without such locks get a `lease`, which others take over when it is stale.

  Args:
    workdir: the folder; created if missing. None: nothing is locked.

  Returns:
    A `Lock`. Keep it: when it is garbage collected the folder is free.

  Raises:
    InUse: another run holds the lock, tells which; or nothing can be written
      there.
  """
  if not workdir or jax.process_index() != 0:
    return Lock()
  made = _missing_folders(workdir) if fs.is_local(workdir) else []
  path = fs.join(workdir, ".lock")
  try:
    fs.makedirs(workdir)
    found = _system_lock(workdir, path) if fs.is_local(workdir) else None
    release, undo = found or _lease(workdir, path)
  except (OSError, ImportError) as e:
    why = getattr(e, "strerror", None) or str(e)
    raise InUse(
      f"Nothing can be written to --workdir {workdir!r}: {why}. Choose another "
      "folder."
    ) from e

  def undo_all():
    undo()
    _remove_empty(made)

  return Lock(release, undo_all)


def _in_use(workdir, holder):
  return InUse(
    f"Another run writes to workdir {workdir!r} (held by {holder}). Stop that "
    "run or choose another --workdir."
  )


def _lease(workdir, path):
  """Takes a lease; returns functions that release and undo it."""
  held = lease.Lease(path)
  try:
    held.acquire()
  except lease.Taken as e:
    raise _in_use(workdir, e) from e
  return held.release, held.release


def _system_lock(workdir, path):
  """Takes the lock of the system; None if the file system has no locks."""
  import fcntl  # Here, since Windows does not have it.

  is_new = not os.path.exists(path)
  file = open(path, "a+", encoding="utf-8")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as e:
    file.seek(0)
    holder = file.read().strip() or "unknown"
    file.close()
    raise _in_use(workdir, holder) from e
  except OSError as e:
    file.close()
    if e.errno not in _NO_LOCKS:
      raise
    return None
  if not os.fstat(
    file.fileno()
  ).st_nlink:  # Another run has just removed it, failing to start.
    file.close()
    fs.makedirs(workdir)
    return _system_lock(workdir, path)
  file.seek(0)
  before = file.read()

  def say(text):
    file.truncate(0)
    file.write(text)
    file.flush()

  def undo():
    os.remove(path) if is_new else say(before)

  say(lease.named(os.getpid(), socket.gethostname(), time.time()) + "\n")
  return file.close, undo  # Closing frees the lock, the file may stay.


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
