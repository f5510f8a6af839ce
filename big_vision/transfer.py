"""Copies what a URL has into a file: one process at a time, within limits.

The file gets its name when it is complete. Until then it is `<path>.part`, which
is locked by the process that writes it; others wait. What has arrived before a
connection breaks or a process dies is kept if the server can go on from there,
and says by an ETag or a date what it belongs to; `<path>.part-of` has that.

Environment variables, limits of a single file:

  BV_DOWNLOAD_MAX_BYTES    size; default 64 GiB
  BV_DOWNLOAD_MAX_SECONDS  time; default 24 hours
"""

import contextlib
import hashlib
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import IO, Any

from absl import logging

from big_vision import fs, lookup

HUB = "https://huggingface.co"
_CHUNK = 1 << 20  # Bytes.
_TIMEOUT = 60  # Seconds without any data.
_SLOW = 1024  # Bytes per second, over a window of _TIMEOUT: as good as none.
_MAX_BYTES = 64 << 30
_MAX_SECONDS = 24 * 3600
# Random names, nothing was written to for so long.
_ABANDONED, _ABANDONED_SECONDS = re.compile(r"tmp\w{8}\.part"), 2 * 24 * 3600
_TRIES = 5  # How often one call goes on after a connection broke.


def transfer(
  url: str,
  path: str,
  is_done: Callable[[], bool],
  accept: Callable[[str], None] = lambda digest: None,
) -> None:
  """Copies the content of a URL into a file, unless another process does.

  Args:
    url: http, https, file, ftp or data; other schemes are opened by `fs`.
    path: file to write; its folder is made.
    is_done: `is_done()` tells whether the file is there already, asked when no
      other process is writing it.
    accept: `accept(sha256)` is called before the file gets its name and may
      raise, which discards it.

  Raises:
    lookup.ConfigError: the file is larger or takes longer than allowed.
    OSError, http.client.HTTPException: the content cannot be had.
  """
  os.makedirs(os.path.dirname(path), exist_ok=True)
  _remove_abandoned(os.path.dirname(path))
  with _part_of(path) as (part, forget):
    if is_done():
      forget()
      return
    digest = _fill(url, part, f"{path}.part-of")
    try:
      accept(digest)
    except BaseException:
      forget()
      raise
    part.flush()
    _remove(f"{path}.part-of")  # Before another process can begin anew.
    os.replace(f"{path}.part", path)


def _remove_abandoned(folder):
  """Removes what downloads of versions without resuming have left behind."""
  for entry in os.scandir(folder):
    if _ABANDONED.fullmatch(entry.name):
      with contextlib.suppress(OSError):  # Another process was faster.
        if time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
          os.remove(entry.path)


@contextlib.contextmanager
def _part_of(path: str) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
  """Opens `<path>.part` for this process alone; removes it if it is useless."""
  part = f"{path}.part"
  while True:
    f = open(part, "a+b")
    _lock(f, path)
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(f.fileno()), os.stat(part)):
        break  # Else another process has completed or removed this one.
    f.close()

  def forget():
    _remove(f"{path}.part-of")
    _remove(part)

  with f:
    try:
      yield f, forget
    except BaseException:
      f.flush()
      if not os.path.exists(f"{path}.part-of") or not os.path.getsize(part):
        forget()
      raise


def _lock(f, path):
  try:
    import fcntl
  except ImportError:  # On Windows each process downloads for itself.
    return
  try:
    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    logging.info("Waiting for another process, which downloads %s", path)
    fcntl.flock(f, fcntl.LOCK_EX)
  except OSError as e:  # File systems without locks.
    logging.info("Cannot lock %s.part (%s)", path, e)


def _fill(url, part, note):
  """Completes the open file `part` and returns the sha256 of the content.

  Args:
    url: where the content is.
    part: open file with the beginning of the content, or empty.
    note: file that says what the beginning belongs to.

  Returns:
    Hexadecimal digits.
  """
  limits = _Limits(url)
  for attempt in range(1, _TRIES + 1):
    before = _size(part)
    try:
      _copy(url, part, note, limits)
      break
    except _TooLargeError:
      _remove(note)  # Not worth keeping.
      raise
    except (lookup.ConfigError, urllib.error.HTTPError):
      raise
    except OSError as e:
      stuck = not os.path.exists(note) or _size(part) <= before
      if stuck or attempt == _TRIES:
        raise
      logging.info("%s broke off (%s): going on", url, e)
  part.seek(0)
  return hashlib.file_digest(part, "sha256").hexdigest()


def _copy(url, part, note, limits):
  """Appends to `part` what is missing, or starts over if it is of old."""
  validator = _read_note(note) if _size(part) else ""
  start = _size(part) if validator else 0
  headers = {"Range": f"bytes={start}-", "If-Range": validator} if start else {}
  try:
    source = _open(url, headers)
  except urllib.error.HTTPError as e:
    if e.code != 416 or not start:  # 416: the rest cannot be had like that.
      raise
    start, source = 0, _open(url, {})
  with source:
    got: Any = getattr(source, "headers", None) or {}
    if start and not (
      getattr(source, "status", None) == 206
      and str(got.get("Content-Range", "")).startswith(f"bytes {start}-")
    ):
      start = 0
    part.truncate(start)
    part.seek(start)
    length = got.get("Content-Length")
    expected = start + int(length) if length else None
    limits.check_size(expected or start, part)
    # Where a server cannot go on, the beginning is of no use.
    validator = got.get("ETag") or got.get("Last-Modified") or ""
    accepts = start or got.get("Accept-Ranges") == "bytes"
    if accepts and validator and not validator.startswith("W/"):
      with open(note, "w", encoding="utf-8") as f:
        f.write(validator)
    else:
      _remove(note)
    # `read` would wait for a whole chunk, however slowly it comes.
    read = getattr(source, "read1", source.read)
    size = start
    while chunk := read(_CHUNK):
      part.write(chunk)
      size += len(chunk)
      limits.check_progress(size)
  # When the connection breaks, `read` ends as it does at the end of the file.
  if expected is not None and size != expected:
    raise ConnectionError(f"{url}: only {size} of {expected} bytes arrived")


class _TooLargeError(lookup.ConfigError):
  """A file is larger than allowed."""


class _Limits:
  """Watches the size, the time and the pace of a download."""

  def __init__(self, url):
    self._url = url
    self._max_bytes = _setting("BV_DOWNLOAD_MAX_BYTES", _MAX_BYTES)
    self._max_seconds = _setting("BV_DOWNLOAD_MAX_SECONDS", _MAX_SECONDS)
    self._start = self._window = time.monotonic()
    self._size = 0  # At the start of the window.

  def _check_bytes(self, size):
    """Refuses a size that is not allowed."""
    if size > self._max_bytes:
      raise _TooLargeError(
        f"{self._url} has more than {self._max_bytes} bytes. If it is right, "
        "set the environment variable BV_DOWNLOAD_MAX_BYTES to more."
      )

  def check_size(self, size, part):
    """Refuses a size that is not allowed or does not fit onto the disk."""
    self._check_bytes(size)
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(part.name))).free
    if size - _size(part) > free:
      raise lookup.ConfigError(
        f"{self._url} has {size} bytes, but {part.name} is on a disk with "
        f"{free} free ones. BV_CACHE_DIR is the folder for downloads."
      )
    self._window, self._size = time.monotonic(), _size(part)

  def check_progress(self, size):
    """Refuses what is too much, too long or too slow."""
    now = time.monotonic()
    self._check_bytes(size)
    if now - self._start > self._max_seconds:
      raise lookup.ConfigError(
        f"{self._url} takes longer than {self._max_seconds} seconds. To wait, "
        "set the environment variable BV_DOWNLOAD_MAX_SECONDS to more."
      )
    if now - self._window > _TIMEOUT:
      if size - self._size < _SLOW * _TIMEOUT:
        raise TimeoutError(
          f"{self._url}: only {size - self._size} bytes in {_TIMEOUT} seconds"
        )
      self._window, self._size = now, size


def _setting(name, default):
  value = os.environ.get(name) or str(default)
  try:
    number = int(float(value))
  except (ValueError, OverflowError):
    number = 0
  if number <= 0:
    raise lookup.ConfigError(
      f"The environment variable {name}={value!r} should be a number above 0."
    )
  return number


def _size(part):
  part.flush()
  return os.fstat(part.fileno()).st_size


def _read_note(note):
  try:
    with open(note, encoding="utf-8") as f:
      return f.read()
  except FileNotFoundError:
    return ""


def _remove(path):
  with contextlib.suppress(FileNotFoundError):
    os.remove(path)


def _open(url, headers):
  if not url.startswith(("http:", "https:", "file:", "ftp:", "data:")):
    return fs.open(url, "rb")
  headers = {"User-Agent": "big_vision", **headers}
  request = urllib.request.Request(url, headers=headers)
  hub, token = os.environ.get("HF_ENDPOINT") or HUB, os.environ.get("HF_TOKEN")
  if token and url.startswith(hub.rstrip("/") + "/"):
    # The hub redirects to other servers, which must not see it.
    request.add_unredirected_header("Authorization", f"Bearer {token}")
  return urllib.request.urlopen(request, timeout=_TIMEOUT)
