"""Puts pictures of runs into the HTML page of their curves."""

import base64
from collections.abc import Sequence
from typing import Any

from big_vision import fs
from big_vision.plots import curves

MAX_STEPS = 24  # Of one name.
MAX_BYTES = 32_000_000  # Of all pictures on a page, in base64.


def embed(
  runs: Sequence[curves.Run],
  max_steps: int = MAX_STEPS,
  max_bytes: int = MAX_BYTES,
) -> list[dict[str, Any]]:
  """Reads the pictures of runs, of fewer steps where they are many or large.

  Args:
    runs: list of `Run`.
    max_steps: how many of a name at most; the newest is always there.
    max_bytes: what all may take on the page. The newest ones may take more.

  Returns:
    List of dicts, by name: `run` (its number), `name`, `steps`, `images` (data
    URIs), and `total`, the number of pictures that the run has.
  """
  found = sorted(
    (name, number, steps)
    for number, run in enumerate(runs)
    for name, steps in run.pictures.items()
  )
  while True:
    out, size = [], 0
    for name, number, paths in found:
      steps = _spread(list(paths), max_steps)
      images = [_data_uri(paths[step]) for step in steps]
      size += sum(map(len, images))
      out.append(
        dict(
          run=number, name=name, steps=steps, images=images, total=len(paths)
        )
      )
    if size <= max_bytes or max_steps <= 1:
      return out
    max_steps //= 2


def _spread(steps: list[int], num: int) -> list[int]:
  """Chooses some steps, the last one in any case, the first one if several."""
  if len(steps) <= num:
    return steps
  if num <= 1:
    return steps[-1:]
  last = len(steps) - 1
  return [steps[round(i * last / (num - 1))] for i in range(num)]


def _data_uri(path: str) -> str:
  with fs.open(path, "rb") as f:
    return "data:image/png;base64," + base64.b64encode(f.read()).decode()
