"""Accesses files by path: local ones with `os`, others (gs://) with gfile.

TensorFlow is imported only when a path that is not local is touched.
"""

import builtins
import glob as _glob
import os
import posixpath
import re
import shutil
from typing import IO, Any, TypeAlias

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


def _gfile():
  try:
    from tensorflow.io import gfile
  except ImportError as e:
    raise ImportError(
      "Paths such as gs://… are opened with TensorFlow, which is not "
      "installed: pip install 'big_vision[data]', or use a local path."
    ) from e
  return gfile


# Shadows the builtin on purpose, like `gfile`.
def open(path: Path, mode: str = "r") -> IO[Any]:
  """Opens a file.

  Args:
    path: file.
    mode: as for the builtin `open`. Text is UTF-8.

  Returns:
    A file object, to be used as a context manager.

  Raises:
    OSError: a local file cannot be opened. For remote files TensorFlow has
      errors of its own.
  """
  if is_local(path):
    encoding = None if "b" in mode else "utf-8"
    return builtins.open(path, mode, encoding=encoding)
  return _gfile().GFile(os.fspath(path), mode)


def exists(path: Path) -> bool:
  """Tells whether a path exists.

  Args:
    path: file or folder.

  Returns:
    Whether it exists.
  """
  if is_local(path):
    return os.path.exists(path)
  return _gfile().exists(os.fspath(path))


def isdir(path: Path) -> bool:
  """Tells whether a path is a folder.

  Args:
    path: any path; it does not need to exist.

  Returns:
    Whether it is a folder.
  """
  if is_local(path):
    return os.path.isdir(path)
  return _gfile().isdir(os.fspath(path))


def makedirs(path: Path) -> None:
  """Creates a folder and its parents, unless it exists already.

  Args:
    path: the folder.
  """
  if is_local(path):
    os.makedirs(path, exist_ok=True)
  else:
    _gfile().makedirs(os.fspath(path))


def listdir(path: Path) -> list[str]:
  """Lists a folder.

  Args:
    path: the folder.

  Returns:
    Sorted names, without slashes at their end.
  """
  if is_local(path):
    return sorted(os.listdir(path))
  return sorted({n.rstrip("/") for n in _gfile().listdir(os.fspath(path))})


def glob(pattern: Path) -> list[str]:
  """Finds the paths that match a pattern.

  Args:
    pattern: path with `*`, `?` or `[…]`.

  Returns:
    Sorted paths.
  """
  if is_local(pattern):
    return sorted(_glob.glob(os.fspath(pattern)))
  return sorted(_gfile().glob(os.fspath(pattern)))


def rename(src: Path, dst: Path) -> None:
  """Moves a file over `dst`, or a folder to a `dst` that does not exist.

  Atomic for local paths: `dst` is the old or the new file at any time.

  Args:
    src: file or folder to move.
    dst: its new path.
  """
  if is_local(src) and is_local(dst):
    os.replace(src, dst)
  else:
    _gfile().rename(os.fspath(src), os.fspath(dst), overwrite=True)


def remove(path: Path) -> None:
  """Deletes one file.

  Args:
    path: the file.
  """
  if is_local(path):
    os.remove(path)
  else:
    _gfile().remove(os.fspath(path))


def rmtree(path: Path) -> None:
  """Deletes a folder with its content, if it exists.

  Args:
    path: the folder.
  """
  if is_local(path):
    if os.path.lexists(path):
      shutil.rmtree(path)
  elif exists(path):
    _gfile().rmtree(os.fspath(path))


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
