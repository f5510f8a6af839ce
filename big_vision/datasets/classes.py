"""The classes of labels: how many there are, and what they are called."""

from __future__ import annotations

import dataclasses

_MAX_SHOWN = 10  # Names that an error lists.


@dataclasses.dataclass(frozen=True)
class Classes:
  """Says what the labels of a feature can be.

  Attributes:
    num: labels are in [0, num).
    names: names of the classes in the order of the labels, or None.
  """

  num: int
  names: tuple[str, ...] | None = None

  @property
  def numbered(self) -> bool:
    """Whether the classes have no names but their numbers, as "0", "1", …"""
    return self.names is None or all(
      name == str(i) for i, name in enumerate(self.names)
    )

  def name(self, label: int) -> str:
    """Returns the name of a class, its number if it has none."""
    return str(label) if self.names is None else self.names[label]

  def __str__(self) -> str:
    if self.names is None:
      return f"0 to {self.num - 1}"
    shown = ", ".join(map(repr, self.names[:_MAX_SHOWN]))
    more = ", …" if len(self.names) > _MAX_SHOWN else ""
    return f"{shown}{more} ({self.num})"


def first_difference(a: Classes, b: Classes) -> int | None:
  """Finds the first label that two datasets use for different classes.

  Names are compared without regard to upper case and underscores. Where one
  list goes on behind the end of the other, nothing differs.

  Args:
    a: classes of one dataset.
    b: classes of the other.

  Returns:
    The label; None if there is none, or if the names cannot be compared since
    the two have none in common.
  """
  if not comparable(a, b):
    return None
  for label in range(min(a.num, b.num)):
    if _plain(a.name(label)) != _plain(b.name(label)):
      return label
  return None


def comparable(a: Classes, b: Classes) -> bool:
  """Tells whether two datasets name their classes alike.

  Args:
    a: classes of one dataset.
    b: classes of the other.

  Returns:
    Whether they have a name in common. Classes without names are called by
    their numbers.
  """
  return bool(_names(a) & _names(b))


def _names(classes):
  return {_plain(classes.name(label)) for label in range(classes.num)}


def _plain(name):
  return " ".join(name.replace("_", " ").casefold().split())
