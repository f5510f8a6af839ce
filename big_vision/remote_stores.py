"""Files of remote stores: by fsspec where it has a driver, else by TensorFlow.

  gs://bucket/…     gcsfs if it is installed, else TensorFlow
  s3://bucket/…     s3fs
  memory://…        memory of this process, for tests
  others            file systems that TensorFlow knows (ram://, hdfs://, …)

Why not etils.epath, which orbax uses and which wraps the same drivers: it imports
TensorFlow wherever that is installed, keeps listings of folders for good, so that
files of other hosts are not found, leaves out names that end in "~", reads and
writes text in the encoding of the machine, makes a bucket whose name is
misspelled, and deletes by patterns: `rmtree("s3://b/run[1]")` deletes "run1".

Stores of objects have no folders: one exists as long as something is in it. An
object appears under its name when its file is closed, and replaces what was there
as a whole; after an error in the body of `with` it does not appear. `fs.py` has the
functions for local and remote paths, `retries.py` repeats what a store refuses.
"""

import importlib.util
import io
import re
import shutil
import tempfile
from collections.abc import Callable
from typing import IO, Any

from big_vision import lookup, retries

_IsFile = Callable[[str], bool] | None
# Bytes: read at once; of a file to be written, the rest goes to the local disk.
_BUFFER, _MAX_IN_MEMORY = 4 << 20, 64 << 20
_DRIVERS = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}


def of(path: str) -> Any:
  """Returns the store of a path.

  Args:
    path: `scheme://…`.

  Returns:
    An object with methods as the functions of `fs.py`, for paths of the scheme.

  Raises:
    ImportError: what opens such paths is not installed; names it.
    lookup.ConfigError: nothing knows the scheme.
  """
  scheme = scheme_of(path)
  driver = _DRIVERS.get(scheme)
  if driver and importlib.util.find_spec(driver):
    return retries.Repeating(Fsspec(scheme))
  return retries.Repeating(TensorFlow(scheme))


def scheme_of(path: str) -> str:
  """Returns what is before `://` in a path.

  Args:
    path: any path.

  Returns:
    The scheme, "" for local paths.
  """
  scheme, found, _ = path.partition("://")
  return scheme if found else ""


class _Download(io.RawIOBase):
  """Reads an object in pieces, each of which is repeated alone."""

  def __init__(self, driver, path):
    info = driver.info(path)
    if info["type"] == "directory":
      raise IsADirectoryError(f"{path} is a folder.")
    self._driver, self._path, self._size = driver, path, info["size"]
    self._at = self._start = 0
    self._block = b""

  def readable(self):
    return True

  def seekable(self):
    return True

  def seek(self, offset, whence=io.SEEK_SET):
    start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}
    self._at = start[whence] + offset
    return self._at

  def readinto(self, buffer):
    content = self._read(len(buffer))
    buffer[: len(content)] = content
    return len(content)

  def readall(self):
    parts = []
    while part := self._read(self._size - self._at):
      parts.append(part)
    return b"".join(parts)

  def _read(self, length):
    """Returns at most so many bytes, from the block that was read last."""
    begin = self._at - self._start
    if not 0 <= begin < len(self._block):
      # What reads text asks for 8 kB at a time, whatever buffer it is given.
      end = min(self._at + max(length, _BUFFER), self._size)
      if end <= self._at:
        return b""
      read = lambda: self._driver.cat_file(self._path, start=self._at, end=end)
      self._block, self._start = retries.repeat(read, self._path), self._at
      begin = 0
    content = self._block[begin : begin + length]
    self._at += len(content)
    return content


class _Upload(tempfile.SpooledTemporaryFile):
  """Collects an object, which is written as a whole when this is closed."""

  def __init__(self, driver, path):
    super().__init__(max_size=_MAX_IN_MEMORY)
    self._driver, self._path, self.dropped = driver, path, False

  def close(self):
    wanted = not self.closed and not self.dropped
    self.dropped = True  # Once, also if it fails.
    try:
      if wanted:
        retries.repeat(self._put, self._path)
    finally:
      super().close()

  def _put(self):
    self.seek(0)
    with self._driver.open(self._path, "wb") as f:
      shutil.copyfileobj(self, f)

  def __exit__(self, kind, *rest):
    self.dropped = kind is not None
    self.close()

  def __del__(self):
    self.dropped = True  # Nobody has closed it: it may be half of a file.
    super().__del__()


class _Text(io.TextIOWrapper):
  """The text of one of these."""

  buffer: Any

  def __exit__(self, kind, *rest):
    if kind is not None:
      self.buffer.dropped = True
    self.close()

  def __del__(self):
    self.buffer.dropped = True
    super().__del__()


class Fsspec:
  """A store by its driver for fsspec."""

  def __init__(self, scheme: str):
    """Makes the driver, or takes the one that this process has.

    Args:
      scheme: one of fsspec.
    """
    import fsspec

    self._scheme = scheme
    # Listings would not be renewed when other processes write.
    self._driver: Any = fsspec.filesystem(scheme, use_listings_cache=False)

  def _info(self, path):
    try:
      return self._driver.info(path)
    except FileNotFoundError:  # Not its `exists`, which hides other errors.
      return None

  def open(self, path: str, mode: str) -> IO[Any]:
    """See `fs.open`."""
    is_text = "b" not in mode
    if mode.strip("bt") == "r":
      file: Any = io.BufferedReader(_Download(self._driver, path))
    else:
      # Objects cannot grow, so they are written anew.
      grows = "a" in mode and self.exists(path)
      old = self._driver.cat_file(path) if grows else b""
      file = _Upload(self._driver, path)
      file.write(old)
    return _Text(file, encoding="utf-8") if is_text else file

  def read_range(self, path: str, begin: int, length: int) -> bytes:
    """See `fs.read_range`."""
    if not length:  # The header Range cannot say so.
      return b""
    return self._driver.cat_file(path, start=begin, end=begin + length)

  def exists(self, path: str) -> bool:
    """See `fs.exists`."""
    return self._info(path) is not None

  def isdir(self, path: str) -> bool:
    """See `fs.isdir`."""
    info = self._info(path)
    return info is not None and info["type"] == "directory"

  def stamp(self, path: str) -> tuple:
    """See `fs.stamp`."""
    return (self._driver.ukey(path),)

  def makedirs(self, path: str) -> None:
    """See `fs.makedirs`; there are no folders."""

  def scan(self, path: str, is_file: _IsFile = None) -> list[tuple[str, bool]]:
    """See `fs.scan`."""
    own = self._bare(path)
    entries = self._driver.ls(path, detail=True)
    names = [(e["name"].rstrip("/"), e["type"]) for e in entries]
    # Some programs write an object with the name of the folder.
    return sorted(
      (name.rpartition("/")[2], kind == "directory")
      for name, kind in names
      if name != own
    )

  def listdir(self, path: str) -> list[str]:
    """See `fs.listdir`."""
    return [name for name, _ in self.scan(path)]

  def glob(self, pattern: str) -> list[str]:
    """See `fs.glob`."""
    found = self._driver.glob(pattern)
    return sorted(f"{self._scheme}://{path.lstrip('/')}" for path in found)

  def rename(self, src: str, dst: str) -> None:
    """See `fs.rename`."""
    if not self.isdir(src):
      self._driver.cp_file(src, dst)
      self._driver.rm_file(src)
      return
    start = len(self._bare(src))
    for path in self._files(src):
      self._driver.cp_file(path, self._bare(dst) + path[start:])
    self.rmtree(src)

  def remove(self, path: str) -> None:
    """See `fs.remove`."""
    self._driver.rm_file(path)

  def rmtree(self, path: str) -> None:
    """See `fs.rmtree`."""
    if not re.search(r"[*?\[]", path):
      self._driver.rm(path, recursive=True)
      return
    for file in self._files(path):  # `rm` would take `path` for a pattern.
      self._driver.rm_file(file)

  def _files(self, folder):
    """All files below a folder, as the driver writes them."""
    found = self._driver.find(folder, detail=True)
    is_file = lambda name, info: info["type"] == "file" and name[-1] != "/"
    return [name for name, info in found.items() if is_file(name, info)]

  def _bare(self, path):
    """The path as the driver writes it."""
    return self._driver._strip_protocol(path).rstrip("/")


class TensorFlow:
  """A store by TensorFlow."""

  def __init__(self, scheme: str):
    """Imports TensorFlow.

    Args:
      scheme: of the paths.

    Raises:
      ImportError: it is not installed.
      lookup.ConfigError: it does not know the scheme.
    """
    driver = _DRIVERS.get(scheme)
    either = f"{driver} or " if driver else ""
    package = driver or "'big_vision[data]'"
    try:
      from tensorflow.io import gfile
    except ImportError as e:
      raise ImportError(
        f"Paths such as {scheme}://… are opened with {either}TensorFlow: pip "
        f"install {package}, or use a local path."
      ) from e
    known = gfile.get_registered_schemes()
    if scheme not in known:
      hint = f": pip install {driver}" if driver else ""
      others = sorted({*known, *_DRIVERS} - {""})
      raise lookup.ConfigError(
        f"Paths such as {scheme}://… cannot be opened{hint}. There are local "
        f"paths and {', '.join(f'{s}://' for s in others)}."
      )
    self._gfile = gfile

  def open(self, path: str, mode: str) -> IO[Any]:
    """See `fs.open`."""
    return self._gfile.GFile(path, mode)

  def read_range(self, path: str, begin: int, length: int) -> bytes:
    """See `fs.read_range`."""
    with self._gfile.GFile(path, "rb") as f:
      f.seek(begin)
      return f.read(length)

  def exists(self, path: str) -> bool:
    """See `fs.exists`."""
    return self._gfile.exists(path)

  def isdir(self, path: str) -> bool:
    """See `fs.isdir`."""
    return self._gfile.isdir(path)

  def stamp(self, path: str) -> tuple:
    """See `fs.stamp`."""
    stat = self._gfile.stat(path)
    return stat.length, stat.mtime_nsec

  def makedirs(self, path: str) -> None:
    """See `fs.makedirs`."""
    self._gfile.makedirs(path)

  def scan(self, path: str, is_file: _IsFile = None) -> list[tuple[str, bool]]:
    """See `fs.scan`."""
    entries = {}
    for name in self._gfile.listdir(path):
      bare = name.rstrip("/")
      is_dir = bare != name  # A slash marks folders, but not in all stores.
      if not is_dir and not (is_file and is_file(name)):
        is_dir = self._gfile.isdir(f"{path.rstrip('/')}/{name}")
      if bare:
        entries[bare] = is_dir
    return sorted(entries.items())

  def listdir(self, path: str) -> list[str]:
    """See `fs.listdir`."""
    return sorted({name.rstrip("/") for name in self._gfile.listdir(path)})

  def glob(self, pattern: str) -> list[str]:
    """See `fs.glob`."""
    return sorted(self._gfile.glob(pattern))

  def rename(self, src: str, dst: str) -> None:
    """See `fs.rename`."""
    self._gfile.rename(src, dst, overwrite=True)

  def remove(self, path: str) -> None:
    """See `fs.remove`."""
    self._gfile.remove(path)

  def rmtree(self, path: str) -> None:
    """See `fs.rmtree`."""
    self._gfile.rmtree(path)
