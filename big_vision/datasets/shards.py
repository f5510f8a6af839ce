"""Tar shards: which there are, and an index of each, kept on disk.

Shards on the web are downloaded first, once. An index is made in one pass over
the headers of a shard and kept until the shard changes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import http.client
import io
import itertools
import math
import os
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from big_vision import checkpoint_npz, download, fs
from big_vision.datasets import tar_index
from big_vision.tf import tf

_NUM_THREADS = 16
_NUM_TRIES = 3  # Of a download.
_MAX_SHARDS = 1_000_000  # That one pattern may mean.
_MAX_CHARACTERS = 1 << 28  # Of their names, together.
_BRACES = re.compile(r"\{([^{}]*)\}")
_VERSION = 2  # Of the format of stored indices.
_WEB = ("http://", "https://")


def expand(
  patterns: str | os.PathLike | Sequence[str], key: str = "input.data.path"
) -> list[str]:
  """Lists the shards that patterns mean.

  Args:
    patterns: one or several paths or URLs with braces as in a shell,
      `{000000..000123}` or `{a,b}`; and, not on the web, `*`, `?`, `[…]`.
    key: the config key, for errors.

  Returns:
    Paths; those of a glob are sorted.

  Raises:
    ValueError: nothing matches.
  """
  patterns = (
    [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns
  )
  out = []
  for pattern in patterns:
    for path in _braces(os.fspath(pattern), key):
      if path.startswith(_WEB) or not re.search(r"[*?\[]", path):
        out.append(path)
        continue
      found = fs.glob(path)
      if not found:
        raise ValueError(f"config.{key}: no files match {path!r}.")
      out += found
  if not out:
    raise ValueError(f"config.{key}: no shards in {patterns!r}.")
  return out


def _braces(pattern, key):
  """Expands `{a,b}` and `{08..11}`, from the left."""
  too_many = ValueError(
    f"config.{key}: {pattern!r:.200} means more than {_MAX_SHARDS:,} shards, "
    "or has too long names for so many."
  )
  paths = [pattern]
  while braces := _BRACES.findall(paths[0]):  # All of them have as many.
    num = len(paths) * math.prod(len(_choices(b)) for b in braces)
    if num > _MAX_SHARDS or num * len(pattern) > _MAX_CHARACTERS:
      raise too_many
    before, paths = paths, []
    for path in before:
      match = _BRACES.search(path)
      choices = _choices(match[1])
      if len(paths) + len(choices) > _MAX_SHARDS:  # Braces within braces.
        raise too_many
      head, tail = path[: match.start()], path[match.end() :]
      paths += [f"{head}{choice}{tail}" for choice in choices]
  return paths


def _choices(text):
  """Returns what stands between braces, as a list or a range."""
  span = re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", text)
  if not span:
    return text.split(",")
  first, last = int(span[1]), int(span[2])
  width = len(span[1]) if span[1].startswith("0") else 0
  step = 1 if last >= first else -1
  numbers = range(first, last + step, step)
  if len(numbers) > _MAX_SHARDS:
    return numbers  # Too many to be written out.
  return [f"{i:0{width}d}" for i in numbers]


def open_all(
  paths: Sequence[str], cache_dir: str | None = None
) -> list[tuple[str, tar_index.Index] | str]:
  """Makes or loads the indexes of shards.

  Args:
    paths: of the shards.
    cache_dir: folder for indices and downloads, local or (without shards
      on the web) gs://; default: `download.cache_dir("webdataset")`.

  Returns:
    List with one element per shard, either (local or gs:// path, `Index`), or
    str: why it cannot be used, with its name.
  """
  cache_dir = cache_dir or download.cache_dir("webdataset")
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    return list(pool.map(lambda path: _open(path, cache_dir), paths))


def _open(path, cache_dir):
  local = path
  try:
    if path.startswith(_WEB):
      local = _download(path, cache_dir)
    return local, _index(local, cache_dir)
  except (FileNotFoundError, tf.errors.NotFoundError):
    return f"The shard {path} is missing."
  except ImportError:  # Of what opens such paths: all shards need it.
    raise
  except Exception as e:  # Whatever is wrong with one, the others can be read.
    if local != path:  # Downloaded: the next time it is tried again.
      with contextlib.suppress(FileNotFoundError):
        os.unlink(local)
    text = str(e).replace(local, path)
    if not isinstance(e, OSError | ValueError | tf.errors.OpError):
      text = f"{type(e).__name__}: {text}"
    return text if path in text else f"The shard {path}: {text}"


def _download(url, cache_dir):
  for attempt in itertools.count(1):
    try:
      return download.cached_download(url, cache_dir)
    # Those of urllib are an OSError.
    except (OSError, http.client.HTTPException) as e:
      gone = 400 <= getattr(e, "code", 0) < 500
      if gone or attempt == _NUM_TRIES:
        raise OSError(f"The shard {url} cannot be downloaded: {e}") from e
      logging.warning("Trying again to download %s: %s", url, e)
      time.sleep(2**attempt)


def _index(path, cache_dir):
  """Returns the index of a shard; from the cache if that is up to date."""
  path = fs.absolute(path)
  stamp = fs.stamp(path)
  name = repr((_VERSION, path, *stamp))
  name = hashlib.sha256(name.encode()).hexdigest()[:32] + ".npz"
  stored = fs.join(cache_dir, "index", name)
  # Some stores only say whether a file has changed, not how large it is.
  size = stamp[0] if isinstance(stamp[0], int) else float("inf")
  index = _load(stored, size)
  if index is None:
    index = tar_index.make(path)
    _store(stored, index)
  return index


def _load(path, size):
  if not fs.exists(path):
    return None
  try:
    data: Any = checkpoint_npz.npload(path)
    ends = np.cumsum(data["key_lengths"])
    if ends[-1] != len(data["keys"]):
      raise ValueError("it has more or fewer letters than its keys")
    keys = [k.tobytes().decode() for k in np.split(data["keys"], ends[:-1])]
    fields = [str(name) for name in data["fields"]]
    index = tar_index.Index(keys, fields, data["positions"], data["sizes"])
    index.check(size)
    return index
  except Exception as e:  # Whatever is wrong, it can be made anew.
    logging.warning("Making the damaged index %s anew: %s", path, e)
    return None


def _store(path, index):
  keys = [key.encode() for key in index.keys]
  buffer = io.BytesIO()
  np.savez_compressed(
    buffer,
    keys=np.frombuffer(b"".join(keys), np.uint8),
    key_lengths=np.array([len(k) for k in keys]),
    fields=np.array(index.fields),
    positions=index.positions,
    sizes=index.sizes,
  )
  # Other processes may write the same: the last one wins, all are complete.
  partial = f"{path}.{os.getpid()}.{time.monotonic_ns()}.part"
  try:
    fs.makedirs(fs.dirname(path))
    with fs.open(partial, "wb") as f:
      f.write(buffer.getvalue())
    fs.rename(partial, path)
  except (OSError, tf.errors.OpError) as e:
    logging.warning("The index %s cannot be kept: %s", path, e)
