"""Prints tables of results."""

from collections.abc import Sequence
from typing import Any


def text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """Formats a table in Markdown, aligned for a terminal.

  Args:
    header: names of the columns.
    rows: cells; None is empty, fractions have four digits.

  Returns:
    Lines.
  """
  lines = [list(header), *([_cell(c) for c in row] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  lines.insert(1, ["-" * w for w in widths])
  return "\n".join(
    f"| {' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))} |"
    for line in lines
  )


def _cell(value: Any) -> str:
  if value is None:
    return ""
  return f"{value:.4g}" if isinstance(value, float) else str(value)
