"""Finds pictures in files, folders, tar files and lists; reads them in threads."""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO

from big_vision import fs

# In folders and tar files; a file that is named may be called anything.
EXTENSIONS = (
  ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
)  # fmt: skip
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclasses.dataclass(frozen=True)
class Picture:
  """Says where a picture is.

  Attributes:
    name: for the user; of a member of a tar file, its path after that of the file.
    path: of the file.
    member: None, or (position, size) in the tar file, bytes.
  """

  name: str
  path: str
  member: tuple[int, int] | None = None

  def read(self) -> bytes:
    """Reads the content.

    Returns:
      The bytes.

    Raises:
      OSError: it cannot be read.
    """
    if self.member is not None:
      return fs.read_range(self.path, *self.member)
    with fs.open(self.path, "rb") as f:
      return f.read()


def find(paths: Sequence[str], stdin: TextIO) -> list[Picture]:
  """Finds pictures.

  Args:
    paths: files, folders, tar files, or "-" for a list of these in `stdin`.
    stdin: one path a line.

  Returns:
    List of Picture; folders are sorted by path. A file that does not exist is in
    it, too: reading it fails.

  Raises:
    ValueError: a tar file is damaged.
  """
  out = []
  for path in paths:
    if path == "-":
      lines = [line.rstrip("\r\n") for line in stdin]
      out += find([line for line in lines if line and line != "-"], stdin)
    elif fs.isdir(path):
      out += [Picture(p, p) for p in _in_folder(path)]
    elif path.lower().endswith(_TAR) and fs.exists(path):
      out += _in_tar(path)
    else:
      out.append(Picture(path, path))
  return out


def _in_folder(folder):
  """Lists the pictures below a folder, sorted; hidden ones are left out."""
  if not fs.is_local(folder):
    names = [n for n in fs.listdir(folder) if _is_picture(n)]
    return [fs.join(folder, name) for name in sorted(names)]
  found = []
  for root, folders, names in os.walk(folder, followlinks=True):
    folders[:] = sorted(f for f in folders if not f.startswith("."))
    found += [os.path.join(root, n) for n in sorted(names) if _is_picture(n)]
  return found


def _is_picture(name):
  base = name.rpartition("/")[2]
  return base.lower().endswith(EXTENSIONS) and not base.startswith(".")


def _in_tar(path):
  try:
    with fs.open(path, "rb") as f, tarfile.open(fileobj=f, mode="r:*") as tar:
      file = path
      if not path.lower().endswith(".tar"):
        file = _uncompressed(tar)
      return [
        Picture(f"{path}/{m.name}", file, (m.offset_data, m.size))
        for m in tar
        if m.isfile() and _is_picture(m.name)
      ]
  except OSError as e:
    if e.filename or isinstance(e, FileNotFoundError):
      raise
    raise ValueError(f"{path} is not a tar file that can be read: {e}") from e
  except Exception as e:  # Damaged headers get to numbers, codecs and zlib.
    raise ValueError(f"{path} is not a tar file that can be read: {e}") from e


_temporary: list[Any] = []  # Files that are deleted when the process ends.


def _uncompressed(tar):
  """Copies a compressed tar file to a temporary one, for reads in any order."""
  file = tempfile.NamedTemporaryFile(suffix=".tar")
  _temporary.append(file)
  tar.fileobj.seek(0)
  shutil.copyfileobj(tar.fileobj, file)
  file.flush()
  tar.fileobj.seek(0)
  return file.name


def in_threads(
  fn: Callable[[bytes], Any], pictures: Iterable[Picture], threads: int
) -> Iterator[tuple[str, Any, str]]:
  """Reads pictures and calls a function of their contents, some ahead.

  Args:
    fn: content -> anything; raises ValueError if it is not a picture.
    pictures: where they are.
    threads: how many do so at once.

  Yields:
    (name, result, "") in the order of the pictures, or (name, None, what went
    wrong).
  """

  def one(picture):
    try:
      return picture.name, fn(picture.read()), ""
    except FileNotFoundError:
      return picture.name, None, "There is no such file."
    except (ValueError, OSError) as e:
      reason = e.strerror if isinstance(e, OSError) else None
      return picture.name, None, " ".join((reason or str(e)).split())

  pictures = iter(pictures)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    ahead = collections.deque(
      pool.submit(one, p) for p in itertools.islice(pictures, 8 * threads)
    )
    try:
      while ahead:
        result = ahead.popleft().result()
        ahead.extend(pool.submit(one, p) for p in itertools.islice(pictures, 1))
        yield result
    finally:
      for future in ahead:
        future.cancel()
