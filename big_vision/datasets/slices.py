"""Split strings such as "train[:90%]+val", with the arithmetic of TFDS."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping

import numpy as np

from big_vision import lookup
from big_vision.tf import tfds

ALL = "all"  # The split that is everything.
_ALL = "all_"  # TFDS does not slice "all".


def names(spec: str) -> list[str]:
  """Lists the splits in a split string, each once, in order.

  Args:
    spec: for example "train[:90%]+val".

  Returns:
    Their names.
  """
  parts = [part.split("[")[0].strip() for part in spec.split("+")]
  return list(dict.fromkeys(parts))


def resolve(
  spec: str, sizes: Mapping[str, int], key: str = "input.data.split"
) -> list[tuple[str, int, int]]:
  """Finds out which examples a split string means.

  Args:
    spec: percentages round to the closest example, as in TFDS.
    sizes: split name -> number of examples.
    key: the config key that holds the string, for errors.

  Returns:
    List of (split name, start, stop), non-empty ranges in order.

  Raises:
    ValueError: unknown split, bad slice, or no examples.
  """
  for name in names(spec):
    if name not in sizes:
      raise lookup.unknown("split", name, sizes, key)
  rename = lambda name: _ALL if name == ALL else name
  infos = {
    rename(k): types.SimpleNamespace(num_examples=n, shard_lengths=[n])
    for k, n in sizes.items()
  }
  text = "+".join(
    re.sub(rf"^{ALL}(?=\[|$)", _ALL, part.strip()) for part in spec.split("+")
  )
  try:
    ranges = tfds.core.ReadInstruction.from_spec(text).to_absolute(infos)
  except (ValueError, AssertionError) as e:
    raise ValueError(f"config.{key}: bad split {spec!r}: {e}") from e
  out = []
  for r in ranges:
    name = ALL if r.splitname == _ALL else r.splitname
    start = r.from_ or 0
    stop = sizes[name] if r.to is None else r.to
    if stop > start:
      out.append((name, start, stop))
  if not out:
    raise ValueError(f"config.{key}: the split {spec!r} has no examples.")
  return out


def positions(
  spec: str,
  sizes: Mapping[str, int],
  key: str = "input.data.split",
  seed: int | None = None,
) -> np.ndarray:
  """Does what `resolve` does for splits that lie one after the other.

  Args:
    spec, key: as in `resolve`.
    sizes: split name -> number of examples, for all in `names(spec)`.
    seed: slices are of examples that this seed shuffles, split by split, so that
      a slice of data that is sorted by class has all classes; what is in a slice
      stays in order. None: slices are contiguous.

  Returns:
    int64 array of positions in what they are together.
  """
  begin, begins = 0, {}
  for name in names(spec):
    begins[name] = begin
    begin += sizes[name]
  parts = []
  for name, start, stop in resolve(spec, sizes, key):
    chosen = np.arange(start, stop, dtype=np.int64)
    if seed is not None:
      order = np.random.default_rng(seed).permutation(sizes[name])
      chosen = np.sort(order[start:stop])
    parts.append(begins[name] + chosen)
  return np.concatenate(parts)
