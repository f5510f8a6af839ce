"""The classes of labels: how many there are, and what they are called."""

from __future__ import annotations

import dataclasses

_MAX_SHOWN = 10  # Names that an error lists.


@dataclasses.dataclass(frozen=True)
class Classes:
  """Says what the labels of a feature can be.

  Attributes:
    num: labels are in [0, num).
    names: names of the first classes in the order of the labels; None: the
      classes are called by their numbers.
  """

  num: int
  names: tuple[str, ...] | None = None

  @property
  def known(self) -> tuple[str, ...]:
    """Names of the classes as far as they are known."""
    if self.names is None:
      return tuple(map(str, range(self.num)))
    return self.names[: self.num]

  @property
  def numbered(self) -> bool:
    """Whether the classes are called by their numbers, "0", "1", …"""
    return self.names is None or self.known == Classes(len(self.known)).known

  def __str__(self) -> str:
    if self.numbered:
      return f"0 to {self.num - 1}"
    shown = ", ".join(map(repr, self.known[:_MAX_SHOWN]))
    return shown + (", …" if self.num > _MAX_SHOWN else "")


def comparable(a: Classes, b: Classes) -> bool:
  """Tells whether two datasets name their classes alike.

  Args:
    a: classes of one dataset.
    b: classes of the other.

  Returns:
    Whether they have a name in common. Case and underscores do not matter.
  """
  return bool(set(map(_plain, a.known)) & set(map(_plain, b.known)))


def first_difference(
  a: Classes, b: Classes, *, moved_only: bool = False
) -> int | None:
  """Finds the first label that two datasets use for different classes.

  Where one list goes on behind the end of the other, nothing differs.

  Args:
    a: classes of one dataset.
    b: classes of the other.
    moved_only: whether only labels count of which a name has another label in
      the other dataset; names of one dataset may be another spelling.

  Returns:
    The label; None if there is none.
  """
  names_a, names_b = ([_plain(name) for name in c.known] for c in (a, b))
  in_both = set(names_a) & set(names_b)
  for label, (x, y) in enumerate(zip(names_a, names_b, strict=False)):
    if x != y and (not moved_only or in_both & {x, y}):
      return label
  return None


def _plain(name):
  return " ".join(name.replace("_", " ").casefold().split())
