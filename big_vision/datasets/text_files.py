"""Text that users write: encodings, lines, tables, names of files."""

from __future__ import annotations

import codecs
import csv
import io
import os

from big_vision import fs
from big_vision.lookup import ConfigError

# The longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
  (codecs.BOM_UTF32_LE, "utf-32"),
  (codecs.BOM_UTF32_BE, "utf-32"),
  (codecs.BOM_UTF16_LE, "utf-16"),
  (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS = ",;\t"


def read(path: str | os.PathLike, key: str) -> str:
  """Reads a text file: UTF-8, or UTF-16 with its mark at the begin.

  Args:
    path: of the file.
    key: the config key that names it, for errors.

  Returns:
    The text, without the mark; its ends of lines as they are.

  Raises:
    ConfigError: no such file, or another encoding.
  """
  if not fs.exists(path):
    raise ConfigError(f"config.{key}: there is no file {path!r}.")
  with fs.open(path, "rb") as f:
    data = f.read()
  encoding = next((e for mark, e in _MARKS if data.startswith(mark)), "utf-8")
  try:
    text = data.decode(encoding).removeprefix("\ufeff")
  except UnicodeDecodeError as e:
    line = data.count(b"\n", 0, e.start) + 1
    raise ConfigError(
      f"config.{key}: {path} is not {encoding.upper()}: line {line} has the "
      f"bytes {data[e.start : e.end]!r}. Save it as UTF-8."
    ) from None
  if "\0" in text:
    raise ConfigError(
      f"config.{key}: {path} has zero bytes, as UTF-16 without a mark has. Save "
      "it as UTF-8."
    )
  return text


def lines(text: str) -> list[str]:
  r"""Splits text at \n, \r\n and \r.

  `str.splitlines` splits at other characters, too, that names may have.

  Args:
    text: any.

  Returns:
    The lines without their ends.
  """
  return [line.rstrip("\r\n") for line in io.StringIO(text, newline=None)]


def read_table(
  path: str | os.PathLike,
  columns: tuple[str, ...],
  key: str,
  optional: tuple[str, ...] = (),
) -> list[tuple[int, list[str]]]:
  """Reads a CSV file with a header.

  Args:
    path: of the file; delimiters are commas, or else semicolons or tabs.
    columns: names of the columns to read.
    key: the config key that names the file, for errors.
    optional: further columns; if there is no such column, its cells are empty.

  Returns:
    List of (number of the line, cells of the columns, without blanks at their
    ends); empty lines are left out.

  Raises:
    ConfigError: no such file, no such columns, a quote without an end.
  """
  text = read(path, key)
  where = f"config.{key}: {path}"
  header = _header(csv.reader(io.StringIO(text, newline="")), where)
  for delimiter in _DELIMITERS:
    # Quotes may have line breaks between them.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = [name.strip() for name in _header(reader, where)]
    if set(columns) <= set(names):
      break
  else:
    raise ConfigError(
      f"config.{key}: the first line of {path} has to name the columns "
      f"{' and '.join(columns)}; it has "
      f"{[name.strip()[:60] for name in header[:40]]}."
    )
  places, rows = [names.index(c) for c in columns], []
  places += [names.index(c) if c in names else None for c in optional]
  try:
    for row in reader:
      # Lines may end before the last column.
      cells = {i: cell.strip() for i, cell in enumerate(row)}
      if row:
        rows.append((reader.line_num, [cells.get(i, "") for i in places]))
    _check_quotes(text, delimiter)
  except csv.Error as e:
    raise ConfigError(f"{where}, line {reader.line_num}: {e}.") from None
  return rows


def _header(reader, where):
  """Reads the first row; empty if there is none."""
  try:
    return next(reader, [])
  except csv.Error as e:  # A field of more than 128 KiB.
    raise ConfigError(f"{where}, line {reader.line_num}: {e}.") from None


def _check_quotes(text, delimiter):
  """Fails if a quote swallows the rest of the text; others may be odd."""
  strict = csv.reader(
    io.StringIO(text, newline=""), delimiter=delimiter, strict=True
  )
  begin = 1
  try:
    for _ in strict:
      begin = strict.line_num + 1
  except csv.Error as e:
    if "unexpected end" in str(e):
      raise csv.Error(
        f"the quote that begins in line {begin} has no end"
      ) from None


def printable(name: str | bytes | os.PathLike) -> str:
  r"""Shows the name of a file: bytes that are not UTF-8 as \xe9.

  Args:
    name: as the file system gives it.

  Returns:
    Text that can be encoded.
  """
  return os.fsencode(name).decode("utf-8", "backslashreplace")
