"""Accesses files by path: local ones with `os`, others by remote_stores.py.

gs:// needs gcsfs or TensorFlow, s3:// needs s3fs; they are imported when such a
path is touched.
"""

import builtins
import glob as _glob
import os
import posixpath
import re
import shutil
from collections.abc import Callable
from typing import IO, Any, TypeAlias

from big_vision import remote_stores

# What functions here take for a path.
Path: TypeAlias = str | os.PathLike

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_local(path: Path) -> bool:
  """Tells whether a path is on this machine, that is, without `scheme://`.

  Args:
    path: str or path object.

  Returns:
    Whether it is local.
  """
  return not _SCHEME.match(os.fspath(path))


def _store(path):
  return remote_stores.of(os.fspath(path))


# Shadows the builtin on purpose, like `gfile`.
def open(path: Path, mode: str = "r") -> IO[Any]:
  """Opens a file.

  Args:
    path: file.
    mode: as for the builtin `open`. Text is UTF-8. A remote file appears when
      it is closed; appending to it writes all of it anew.

  Returns:
    A file object, to be used as a context manager.

  Raises:
    OSError: the file cannot be opened. TensorFlow, where it opens remote files,
      has errors of its own.
    ImportError: what opens such paths is not installed.
    lookup.ConfigError: the scheme of the path is not known.
  """
  if is_local(path):
    encoding = None if "b" in mode else "utf-8"
    return builtins.open(path, mode, encoding=encoding)
  return _store(path).open(os.fspath(path), mode)


def read_range(path: Path, begin: int, length: int) -> bytes:
  """Reads a part of a file.

  Args:
    path: file.
    begin: position of the first byte.
    length: number of bytes.

  Returns:
    The bytes, fewer at the end of the file.
  """
  if not is_local(path):
    return _store(path).read_range(os.fspath(path), begin, length)
  # Opened each time: datasets may have more files than a process may open.
  fd = os.open(path, os.O_RDONLY)
  try:
    # Room is made for all that is asked for, by an index that may be wrong.
    left = max(os.fstat(fd).st_size - begin, 0)
    return os.pread(fd, min(length, left), begin)
  finally:
    os.close(fd)


def stamp(path: Path) -> tuple:
  """Returns what differs when a file has been changed.

  Args:
    path: file.

  Returns:
    Tuple of numbers or str; local: size in bytes, time in nanoseconds.

  Raises:
    OSError: the file does not exist.
  """
  if is_local(path):
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns
  return _store(path).stamp(os.fspath(path))


def exists(path: Path) -> bool:
  """Tells whether a path exists.

  Args:
    path: file or folder.

  Returns:
    Whether it exists.
  """
  if is_local(path):
    return os.path.exists(path)
  return _store(path).exists(os.fspath(path))


def isdir(path: Path) -> bool:
  """Tells whether a path is a folder.

  Args:
    path: any path; it does not need to exist.

  Returns:
    Whether it is a folder.
  """
  if is_local(path):
    return os.path.isdir(path)
  return _store(path).isdir(os.fspath(path))


def makedirs(path: Path) -> None:
  """Creates a folder and its parents, unless it exists already.

  In stores of objects (gs://, s3://) a folder exists as long as it has files, so
  there nothing may happen.

  Args:
    path: the folder.
  """
  if is_local(path):
    os.makedirs(path, exist_ok=True)
  else:
    _store(path).makedirs(os.fspath(path))


def listdir(path: Path) -> list[str]:
  """Lists a folder.

  Args:
    path: the folder.

  Returns:
    Sorted names, without slashes at their end.
  """
  if is_local(path):
    return sorted(os.listdir(path))
  return _store(path).listdir(os.fspath(path))


def scan(
  path: Path, is_file: Callable[[str], bool] | None = None
) -> list[tuple[str, bool]]:
  """Lists a folder, and tells what is a folder in it.

  Args:
    path: the folder.
    is_file: `is_file(name)` tells of a name that it is a file for sure: some
      stores have to be asked about each.

  Returns:
    Sorted pairs (name, is it a folder).
  """
  if is_local(path):
    with os.scandir(path) as it:
      return sorted((e.name, e.is_dir()) for e in it)
  return _store(path).scan(os.fspath(path), is_file)


def glob(pattern: Path) -> list[str]:
  """Finds the paths that match a pattern.

  Args:
    pattern: path with `*`, `?` or `[…]`.

  Returns:
    Sorted paths.
  """
  if is_local(pattern):
    return sorted(_glob.glob(os.fspath(pattern)))
  return _store(pattern).glob(os.fspath(pattern))


def rename(src: Path, dst: Path) -> None:
  """Moves a file over `dst`, or a folder to a `dst` that does not exist.

  Local: atomic. Remote stores cannot rename: a file is copied, then `src` is
  deleted. `dst` is the old or the new file at any time, too, but after a crash
  `src` may still be there. That is enough for files that are written under
  another name first (LAST of checkpoints, .npz files, indices). A remote folder
  is copied file by file; checkpoints never rename one (`checkpoints.py`).

  Args:
    src: file or folder to move.
    dst: its new path, in the same store.

  Raises:
    ValueError: they are in different stores.
  """
  if is_local(src) and is_local(dst):
    os.replace(src, dst)
  else:
    src, dst = os.fspath(src), os.fspath(dst)
    if remote_stores.scheme_of(src) != remote_stores.scheme_of(dst):
      raise ValueError(f"Cannot move {src} to {dst}: they are in two stores.")
    _store(src).rename(src, dst)


def replace(path: Path, text: str) -> None:
  """Writes a text file, which at any time is the old or the new one as a whole.

  Args:
    path: the file, in a folder that exists.
    text: its new content.

  Raises:
    OSError: it cannot be written; then it is as it was.
  """
  if not is_local(path):  # As objects are.
    with open(path, "w") as f:
      f.write(text)
    return
  new = f"{os.fspath(path)}.new"
  try:
    with open(new, "w") as f:
      f.write(text)
      f.flush()
      os.fsync(f.fileno())  # Else a power cut could leave an empty file.
    os.replace(new, path)
  except OSError:
    if os.path.exists(new):
      os.remove(new)
    raise


def remove(path: Path) -> None:
  """Deletes one file.

  Args:
    path: the file.
  """
  if is_local(path):
    os.remove(path)
  else:
    _store(path).remove(os.fspath(path))


def rmtree(path: Path) -> None:
  """Deletes a folder with its content, if it exists.

  Args:
    path: the folder.
  """
  if is_local(path):
    if os.path.lexists(path):
      shutil.rmtree(path)
  elif exists(path):
    _store(path).rmtree(os.fspath(path))


def join(*parts: Path) -> str:
  """Joins parts of a path.

  Args:
    *parts: the first one decides whether the path is local.

  Returns:
    The path, with `/` between the parts if it is remote.
  """
  if is_local(parts[0]):
    return os.path.join(*parts)
  return posixpath.join(*(os.fspath(part) for part in parts))


def dirname(path: Path) -> str:
  """Returns the folder of a path.

  Args:
    path: file or folder.

  Returns:
    Its parent; "" for a bare local name.
  """
  if is_local(path):
    return os.path.dirname(path)
  return posixpath.dirname(os.fspath(path))


def absolute(path: Path) -> str:
  """Returns a path that does not depend on the current folder.

  Args:
    path: file or folder.

  Returns:
    The path; remote ones as they are.
  """
  return os.path.abspath(path) if is_local(path) else os.fspath(path)
