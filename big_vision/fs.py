"""Files and folders by path: local ones with `os`, gs:// and the like by gfile.

TensorFlow is imported only when a path that is not local is touched.
"""

import builtins
import glob as _glob
import os
import posixpath
import re
import shutil

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_local(path):
  """Whether `path` is a plain path of this machine (no `scheme://`)."""
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


def open(path, mode="r"):  # Shadows the builtin on purpose, like `gfile`.
  """Opens a file.

  Args:
    path: str or path object.
    mode: as for the builtin `open`. Text is UTF-8.

  Returns:
    A file object, to be used as a context manager.

  Raises:
    FileNotFoundError or OSError for local files; for remote ones what
      TensorFlow raises.
  """
  if is_local(path):
    encoding = None if "b" in mode else "utf-8"
    return builtins.open(path, mode, encoding=encoding)
  return _gfile().GFile(os.fspath(path), mode)


def exists(path):
  """Whether there is a file or folder at `path`."""
  if is_local(path):
    return os.path.exists(path)
  return _gfile().exists(os.fspath(path))


def isdir(path):
  """Whether `path` is a folder."""
  if is_local(path):
    return os.path.isdir(path)
  return _gfile().isdir(os.fspath(path))


def makedirs(path):
  """Creates a folder and its parents; fine if it exists already."""
  if is_local(path):
    os.makedirs(path, exist_ok=True)
  else:
    _gfile().makedirs(os.fspath(path))


def listdir(path):
  """Sorted names in a folder, without slashes at their end."""
  if is_local(path):
    return sorted(os.listdir(path))
  return sorted({n.rstrip("/") for n in _gfile().listdir(os.fspath(path))})


def glob(pattern):
  """Sorted paths that match a pattern with `*`, `?` or `[…]`."""
  if is_local(pattern):
    return sorted(_glob.glob(os.fspath(pattern)))
  return sorted(_gfile().glob(os.fspath(pattern)))


def rename(src, dst):
  """Moves a file over `dst`, or a folder to a `dst` that does not exist.

  Atomic for local paths: `dst` is the old or the new file at any time.
  """
  if is_local(src) and is_local(dst):
    os.replace(src, dst)
  else:
    _gfile().rename(os.fspath(src), os.fspath(dst), overwrite=True)


def remove(path):
  """Deletes one file."""
  if is_local(path):
    os.remove(path)
  else:
    _gfile().remove(os.fspath(path))


def rmtree(path):
  """Deletes a folder with all it holds; fine if it does not exist."""
  if is_local(path):
    if os.path.lexists(path):
      shutil.rmtree(path)
  elif exists(path):
    _gfile().rmtree(os.fspath(path))


def join(*parts):
  """Joins path components; with `/` for remote paths."""
  if is_local(parts[0]):
    return os.path.join(*parts)
  return posixpath.join(*map(os.fspath, parts))


def dirname(path):
  """The folder that holds `path`; "" for a bare local name."""
  if is_local(path):
    return os.path.dirname(path)
  return posixpath.dirname(os.fspath(path))
