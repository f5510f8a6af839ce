"""Many files as one sequence of examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from big_vision.datasets import bad_examples
from big_vision.tf import tf


class Part(Protocol):
  """Examples of one file.

  Attributes:
    problem: why the file cannot be used, None if it can. Such a file counts as
      one example, since nobody knows how many it had.
  """

  problem: str | None

  def __len__(self) -> int: ...


class Concatenation:
  """Finds examples by their number in all files together.

  Args:
    parts: the files, in order.
    numbers: [N] int64, which of all examples, in which order: those of a split.
  """

  def __init__(self, parts: Sequence[Part], numbers: np.ndarray):
    self.parts = parts
    self._numbers = numbers
    self._begins = np.cumsum([0, *map(len, parts)])

  def __len__(self) -> int:
    return len(self._numbers)

  def locate(self, index: int) -> tuple[Part, int]:
    """Returns the file of an example and the row in it."""
    number = int(self._numbers[index])
    place = int(np.searchsorted(self._begins[1:], number, side="right"))
    return self.parts[place], number - int(self._begins[place])

  def pick(self, values: Sequence[Any]) -> list[Any]:
    """Selects what belongs to the examples.

    Args:
      values: of all examples of the parts, in order.

    Returns:
      [N] list.
    """
    return [values[i] for i in self._numbers]

  def locate_tensor(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Locates an example within a graph.

    Args:
      index: int64 scalar.

    Returns:
      (place of the file in `parts`, row in it): int64 scalars.
    """
    number = tf.gather(self._numbers, index)
    place = tf.searchsorted(
      self._begins[1:], number[None], side="right", out_type=tf.int64
    )[0]
    return place, number - tf.gather(self._begins, place)

  def find_bad(
    self, more: Iterable[tuple[int, int, str]] = ()
  ) -> bad_examples.BadExamples:
    """Collects what is wrong with examples.

    Args:
      more: (place of the file in `parts`, row in it, message) of examples of
        files that can be used.

    Returns:
      The messages about these examples and about the files that cannot be used.
      Of several messages about one example, the first counts.
    """
    of_files = [
      (place, 0, part.problem)
      for place, part in enumerate(self.parts)
      if part.problem
    ]
    by_number = {}
    for place, row, message in [*of_files, *more]:
      by_number.setdefault(int(self._begins[place]) + row, message)
    hit = np.isin(self._numbers, list(by_number)).nonzero()[0]
    return bad_examples.BadExamples(
      {int(i): by_number[int(self._numbers[i])] for i in hit}
    )
