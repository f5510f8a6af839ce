"""Where the members of a tar file are: one pass over its headers.

References: POSIX.1-2017, pax, "ustar interchange format" and "pax header block";
GNU tar manual, "Basic Tar Format" (long names, sizes in base 256).

Why not the module `tarfile`: it takes a damaged header for the end of the file, so
that samples would be lost silently; it ignores damaged pax headers before Python
3.11.10, and with them sizes; and an index takes 2.3 to 2.7 times as long (25, 37
and 62 microseconds per member of a ustar, GNU and pax file, 11, 14 and 24 here).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from big_vision import fs

_BLOCK = 512  # Bytes: all positions in a tar file are multiples.
_REGULAR = (b"0", b"\0", b"7")
_FOLDER, _LONG_NAME, _LONG_LINK = b"5", b"L", b"K"
_PAX, _PAX_GLOBAL = b"x", b"g"
_MAX_SPECIAL = 1 << 20  # Bytes of a long name, or of pax records.
# Folders may have dots: the extensions begin at the first dot of the name.
_KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)


def members(
  read: Callable[[int, int], bytes], size: float, path: str
) -> Iterator[tuple[str, int, int]]:
  """Yields the files in a tar file.

  Args:
    read: (position, number of bytes) -> bytes, fewer at the end of the file.
    size: bytes of the file.
    path: for errors.

  Yields:
    (name, position of the content, bytes of the content).

  Raises:
    ValueError: the file is cut off, or no (uncompressed) tar file.
  """
  position, special, last = 0, {}, None
  while True:
    header = read(position, _BLOCK)
    if len(header) < _BLOCK:
      raise _cut_off(path, last)
    if not header.rstrip(b"\0"):  # The mark of the end.
      return
    _check(header, position, path)
    length = special.get("size") or _number(header[124:136])
    start, kind = position + _BLOCK, header[156:157]
    name = special.get("path") or _name(header)
    if length < 0:
      raise _damaged(path, position, f"the size of the member {name!r}")
    if start + length > size:
      raise _cut_off(path, name)
    if kind in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
      if length > _MAX_SPECIAL:
        raise _damaged(path, position, f"a header of {length:,} bytes")
    position = start + -(-length // _BLOCK) * _BLOCK
    if kind in (_PAX, _PAX_GLOBAL):
      records = _pax(read(start, length))
      if records is None:
        raise _damaged(path, start, f"the pax header {name!r}")
      special |= records if kind == _PAX else {}
      continue
    if kind == _LONG_NAME:
      special["path"] = _text(read(start, length))
      continue
    if kind == _LONG_LINK:
      continue
    if kind not in (*_REGULAR, _FOLDER) or "sparse" in special:
      raise ValueError(
        f"{path}: the member {name!r} is a link, sparse or of another special "
        f"type ({kind!r}). Write the shard with plain files (tar --dereference "
        "--hard-dereference, without --sparse)."
      )
    if kind in _REGULAR and not name.endswith("/"):  # As folders once were.
      last = name
      yield name, start, length
    special = {}


def _cut_off(path, name):
  where = f" (at or after the member {name!r})" if name else ""
  return ValueError(
    f"The shard {path} is cut off{where}. Copy or download it again."
  )


def _damaged(path, position, what):
  return ValueError(
    f"The shard {path} is damaged at {position}: {what} cannot be right. Copy "
    "or download it again."
  )


def _check(header, position, path):
  """Checks the checksum of a header, which counts its own field as blanks."""
  total = sum(header) - sum(header[148:156]) + 8 * 32
  if _number(header[148:156], -1) == total:
    return
  if position == 0 and header[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7", b"(\xb5"):
    raise ValueError(
      f"The shard {path} is compressed, so that its members cannot be read one "
      "by one. Decompress it; images do not get smaller anyway."
    )
  what = "is not a tar file" if position == 0 else f"is damaged at {position}"
  raise ValueError(f"The shard {path} {what}. Copy or download it again.")


def _number(field, default=0):
  """Parses a number of a header; negative ones are as good as none."""
  if field[0] & 0x80:  # Base 256, of GNU tar, with a sign.
    value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
    return -1 if field[0] & 0x40 else value
  digits = field.strip(b" \0")
  if not digits:
    return default
  return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else -1


def _text(data):
  return _decode(data.split(b"\0")[0])


def _decode(name):
  """Decodes a name: different bytes must not become one key."""
  return name.decode("utf-8", "backslashreplace")


def _name(header):
  name = _text(header[:100])
  prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
  return f"{prefix}/{name}" if prefix else name


def _pax(data):
  """{"path": ..., "size": ...} of pax records `<length> <key>=<value>\\n`.

  With "sparse" if what is stored are the pieces of a sparse file. None if the
  records are damaged.
  """
  out = {}
  while data:
    match = re.match(rb"([0-9]{1,12}) ([^=]+)=", data)
    length = int(match[1]) if match else 0
    if not match or not match.end() < length <= len(data):
      return None
    value = data[match.end() : length - 1]
    if match[2] == b"path":
      out["path"] = _decode(value)
    elif match[2] == b"size":
      if not re.fullmatch(rb"[0-9]+", value):
        return None
      out["size"] = int(value)
    elif match[2].startswith(b"GNU.sparse."):
      out["sparse"] = True
    data = data[length:]
  return out


def split_name(name: str) -> tuple[str, str] | None:
  """Splits a member's name into key of the sample and extension.

  Args:
    name: for example "train/0001.seg.png".

  Returns:
    ("train/0001", "seg.png"), the extension in lower case; None for names
    without an extension, hidden files and those that tools keep for themselves
    (`__…__`).
  """
  match = _KEY.fullmatch(name.removeprefix("./"))
  if not match or match[1].rpartition("/")[2].startswith("__"):
    return None
  return match[1], match[2].lower()


class Index:
  """Holds the samples of one shard: N samples with F fields.

  Attributes:
    keys: list of N str.
    fields: list of F extensions, sorted.
    positions: [N, F] int64, where in the file; 0 where there is none.
    sizes: [N, F] int64 bytes; -1 where there is none.
  """

  def __init__(
    self,
    keys: list[str],
    fields: list[str],
    positions: np.ndarray,
    sizes: np.ndarray,
  ):
    self.keys = keys
    self.fields = fields
    self.positions = positions
    self.sizes = sizes

  def check(self, size: float) -> None:
    """Checks that it can be the index of a file: it may have been damaged.

    Args:
      size: bytes of the shard; infinite if that is not known.

    Raises:
      ValueError: it cannot.
    """
    shape = len(self.keys), len(self.fields)
    for array in (self.positions, self.sizes):
      if array.shape != shape or array.dtype != np.int64:
        raise ValueError(f"it has {array.dtype}{array.shape}, not int64{shape}")
    # Each of them, too: their sum may overflow.
    good = (0 <= self.positions) & (self.positions <= size)
    good &= (-1 <= self.sizes) & (self.sizes <= size - self.positions)
    if not good.all():
      raise ValueError("it has members beyond the end of the shard")

  def column(self, extensions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Finds the first of some extensions in each sample.

    Args:
      extensions: in lower case.

    Returns:
      (positions, sizes), each [N].
    """
    positions = np.zeros(len(self.keys), np.int64)
    sizes = np.full(len(self.keys), -1, np.int64)
    for ext in reversed(extensions):
      if ext in self.fields:
        f = self.fields.index(ext)
        has = self.sizes[:, f] >= 0
        positions = np.where(has, self.positions[:, f], positions)
        sizes = np.where(has, self.sizes[:, f], sizes)
    return positions, sizes


def make(path: str) -> Index:
  """Indexes a shard.

  Members that follow each other and share a key belong together.

  Args:
    path: local or remote.

  Returns:
    `Index`.

  Raises:
    ValueError: the file is cut off, no tar file, or has no samples.
    OSError, tf.errors.OpError: it cannot be read.
  """
  samples, last = [], None
  with fs.open(path, "rb") as f:
    f.seek(0, os.SEEK_END)
    size = f.tell()
    for name, start, length in members(_reader(f, path), size, path):
      parts = split_name(name)
      if parts is None:
        continue
      key, ext = parts
      if key != last:
        samples.append((key, {}))
        last = key
      if ext in samples[-1][1]:
        raise ValueError(f"The shard {path} has two members {name!r} in a row.")
      samples[-1][1][ext] = start, length
  if not samples:
    raise ValueError(f"The shard {path} has no members with an extension.")
  fields = sorted(set().union(*(s for _, s in samples)))
  where = np.array(
    [[s.get(ext, (0, -1)) for ext in fields] for _, s in samples], np.int64
  )
  return Index([k for k, _ in samples], fields, where[..., 0], where[..., 1])


def _reader(f, path):
  if fs.is_local(path):
    fd = f.fileno()
    return lambda position, length: os.pread(fd, length, position)

  def read(position, length):
    f.seek(position)
    return f.read(length)

  return read
