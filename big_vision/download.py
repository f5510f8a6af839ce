"""Fetches remote files once, verifies them and keeps them in one folder.

`fetch` takes the paths and URLs of vocabularies and other small files:

  folder/file                          a local path, used as it is
  http://…  https://…                  the web
  gs://bucket/file                     Google storage (opened with TensorFlow)
  hf://org/repo/file                   the Hugging Face hub; `hf://org/repo@rev/…`
                                       for a revision, `hf://datasets/org/repo/…`

each with an optional `#sha256=<64 hex digits>` that pins the content. Copies
are in $BV_CACHE_DIR/vocab, by default ~/.cache/big_vision/vocab, each with a
file `*.sha256` beside it, which `sha256sum -c` understands. Limits and
interrupted downloads: see transfer.py. Files of the hub are in its own cache, see
hub.py, unless an earlier version of this package has put them here.
"""

import hashlib
import os
import re
import tempfile
import urllib.parse

from absl import logging

from big_vision import fs, hub, lookup
from big_vision.transfer import transfer

_PIN = "#sha256="


def fetch(uri: str, folder: str | None = None) -> str:
  """Makes a file local that is given by path or URL, see the top of this file.

  Any number of threads and processes may ask for the same file: one of them
  downloads it, the others wait. A file that is
  in the folder already is not downloaded again, but its checksum is verified.

  Args:
    uri: path or URL.
    folder: where to keep downloads; default: `cache_dir("vocab")`. Those of the
      hub are in its cache.

  Returns:
    Path of a complete file.

  Raises:
    ValueError: the file does not exist, cannot be downloaded, or its content
      differs from the pinned or the recorded checksum.
  """
  uri, pin = _split_pin(uri)
  if fs.is_local(uri):
    if not os.path.isfile(uri):
      raise ValueError(f"There is no file {uri!r}.")
    if pin:
      _verify(uri, pin, f"correct the pin ({_PIN}…) or the path")
    return uri
  folder = folder or cache_dir("vocab")
  path = os.path.join(folder, _cached_name(uri))
  recorded = _recorded_digest(path)
  if recorded is None and uri.startswith(hub.SCHEME):
    path = hub.fetch(uri)
    if pin:
      _verify(path, pin, f"correct the pin ({_PIN}…) or name a revision")
    return path
  if recorded is None:
    recorded = _download_to_cache(uri, path, pin)
  else:
    _verify(path, recorded, f"delete it; it is then fetched anew from {uri}")
  if pin and pin != recorded:
    raise ValueError(
      f"{path}, a copy of {uri}, has the sha256 {recorded}, but {pin} is asked "
      "for. If the original has changed since, delete the copy; otherwise "
      f"correct the pin ({_PIN}…)."
    )
  return path


def cache_dir(*parts: str) -> str:
  """Returns the folder for files that can be fetched or made again.

  Args:
    *parts: sub-folders.

  Returns:
    A path below $BV_CACHE_DIR, by default below ~/.cache/big_vision.
  """
  root = os.environ.get("BV_CACHE_DIR") or "~/.cache/big_vision"
  return os.path.join(os.path.expanduser(root), *parts)


def cached_download(
  url: str, dest: str | None = None, verbose: bool = True
) -> str:
  """Downloads a file unless it is there already, without checksums.

  Args:
    url: URL of the file.
    dest: folder; default: `bv` in the system's folder for temporary files.
    verbose: whether to log downloads.

  Returns:
    Path of the file: `<dest>/<md5 of url>`.
  """
  dest = dest or os.path.join(tempfile.gettempdir(), "bv")
  path = os.path.join(dest, hashlib.md5(url.encode()).hexdigest())
  if not os.path.exists(path):
    if verbose:
      logging.info("Downloading %s to %s", url, path)
    transfer(url, path, is_done=lambda: os.path.exists(path))
  return path


def _split_pin(uri):
  """Splits `file#sha256=<hex>` into (file, hex), or (file, None)."""
  uri, found, pin = os.fspath(uri).partition(_PIN)
  if found and not re.fullmatch(r"[0-9a-fA-F]{64}", pin):
    raise ValueError(
      f"{uri}{_PIN}{pin}: a sha256 has 64 hexadecimal digits, not {pin!r}."
    )
  return uri, pin.lower() or None


def _cached_name(uri):
  """Makes a file name that is unique for the URL, and still readable."""
  base = urllib.parse.unquote(urllib.parse.urlsplit(uri).path)
  base = re.sub(r"[^\w.-]", "_", base.rpartition("/")[2])[-80:] or "file"
  return f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}-{base}"


def _recorded_digest(path):
  """Reads the checksum beside a file; None unless both exist."""
  try:
    with open(f"{path}.sha256", encoding="utf-8") as f:
      digest = f.read().partition(" ")[0]
  except FileNotFoundError:
    return None
  return digest if os.path.exists(path) else None


def _verify(path, digest, remedy):
  with open(path, "rb") as f:
    actual = hashlib.file_digest(f, "sha256").hexdigest()
  if actual != digest:
    raise ValueError(
      f"{path} has the sha256 {actual}, expected {digest}: {remedy}."
    )


def _download_to_cache(uri, path, pin):
  """Downloads and returns the checksum."""

  def accept(digest):
    if pin and pin != digest:
      raise lookup.ConfigError(
        f"{uri} has the sha256 {digest}, but {pin} is asked for. If the new "
        f"content is right, correct the pin ({_PIN}…)."
      )
    # Before the file itself gets its name: a file without it counts as absent.
    record = f"{path}.sha256"
    with open(f"{record}.part", "w", encoding="utf-8") as f:
      f.write(f"{digest}  {os.path.basename(path)}\n")
    os.replace(f"{record}.part", record)

  logging.info("Downloading %s to %s", uri, path)
  try:
    transfer(uri, path, lambda: _recorded_digest(path) is not None, accept)
  except (ImportError, lookup.ConfigError):
    raise  # They say what to do.
  except Exception as e:  # urllib, http.client, TensorFlow: no common base.
    reason = " ".join(f"{type(e).__name__}: {e}".split())
    raise ValueError(
      f"Cannot download {uri}: {reason}. Without network, give the path of a "
      "local copy instead."
    ) from e
  return _recorded_digest(path)
