"""Measures saving and loading of checkpoints beside the disk's own speed."""

import os
import pathlib
import time
from typing import Any

import jax
import numpy as np

from big_vision import checkpoints

_BLOCK = 16 << 20  # Bytes that are written and read at once.


def measure(state: Any, folder: str, rounds: int) -> dict[str, list[float]]:
  """Saves and loads a state, and a plain file as large as the checkpoint.

  All of a round follow each other, so that other load on the machine hits all.
  Before anything is read, the system forgets what it has of the files in memory.

  Args:
    state: tree of jax.Array.
    folder: empty folder on the disk.
    rounds: how many are counted; one that comes before imports what it needs.

  Returns:
    Seconds of each round: `blocked` (the caller of the save waits), `saved` (until
    all is on disk), `loaded`, `written` and `read` (the plain file); and `bytes`
    on the disk.
  """
  prefix = os.path.join(folder, "checkpoint.bv")
  plain = os.path.join(folder, "plain")
  found: dict[str, list[float]] = {
    k: [] for k in ("blocked", "saved", "loaded", "written", "read", "bytes")
  }
  manager = checkpoints.CheckpointManager()
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
  shardings = jax.tree.map(lambda x: x.sharding, state)
  for i in range(rounds + 1):
    start = time.perf_counter()
    checkpoints.save_checkpoint_ts(manager, state, prefix, i, keep=False)
    blocked = time.perf_counter() - start
    manager.wait_until_finished()
    saved = time.perf_counter() - start
    saved_in = pathlib.Path(f"{prefix}-{i:09d}-tmp")
    files = [p for p in saved_in.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    for path in files:
      _forget(path)
    start = time.perf_counter()
    loaded = checkpoints.load_checkpoint_ts(
      prefix, tree=like, shardings=shardings
    )
    jax.block_until_ready(loaded)
    del loaded
    seconds = time.perf_counter() - start
    written, read = _plain(plain, size)
    if i:
      row = (blocked, saved, seconds, written, read, size)
      for values, value in zip(found.values(), row, strict=True):
        values.append(value)
  return found


def _forget(path):
  with open(path, "rb") as f:
    os.fsync(f.fileno())
    os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _plain(path, size):
  """Writes and reads a file of noise; returns the seconds of both."""
  block = np.random.default_rng(0).bytes(_BLOCK)
  start = time.perf_counter()
  with open(path, "wb") as f:
    for begin in range(0, size, _BLOCK):
      f.write(block[: size - begin])
    f.flush()
    os.fsync(f.fileno())
  written = time.perf_counter() - start
  _forget(path)
  start = time.perf_counter()
  with open(path, "rb", buffering=0) as f:
    while f.read(_BLOCK):
      pass
  read = time.perf_counter() - start
  os.remove(path)
  return written, read
