"""Parses text that others wrote: expressions and JSON, bounded, nothing is run.

Python's parsers have no limits of their own that hold: what is nested a thousand
deep ends in a RecursionError or a MemoryError without a text, which none of those
who call them expect. Here whatever is wrong is a ValueError that says so.
"""

import ast
import json
from typing import Any

MAX_CHARACTERS = 100_000  # Of an expression: a preprocessing op has dozens.
_MAX_BITS = 10_000  # Of an integer: Python does not print longer ones.


def expression(text: str) -> ast.expr:
  """Parses an expression of Python, which nobody evaluates.

  Args:
    text: for example "resize(224)".

  Returns:
    Its syntax tree.

  Raises:
    SyntaxError: it is none, or is longer or nested deeper than any that is
      meant; the text says which.
  """
  if len(text) > MAX_CHARACTERS:
    raise SyntaxError(
      f"it has {len(text):,} characters, at most {MAX_CHARACTERS:,} can be"
    )
  try:
    tree = ast.parse(text, mode="eval").body
    for node in ast.walk(tree):
      if isinstance(node, ast.Constant) and isinstance(node.value, int):
        if node.value.bit_length() > _MAX_BITS:
          raise SyntaxError("it has a number of thousands of digits")
  except (RecursionError, MemoryError) as e:
    raise SyntaxError("it is nested too deeply") from e
  except ValueError as e:  # A zero byte, or half of a surrogate pair.
    raise SyntaxError(f"it has characters that code cannot have ({e})") from e
  return tree


def literal(node: ast.expr | str) -> Any:
  """Evaluates a literal: numbers, strings, and lists, dicts and such of them.

  Args:
    node: syntax tree of `expression`, or the text of one.

  Returns:
    The value.

  Raises:
    ValueError: it is not a literal.
    SyntaxError: as `expression`.
  """
  try:
    if isinstance(node, str):
      node = expression(node.strip())
    return ast.literal_eval(node)
  except TypeError as e:  # A list in a set, or as the key of a dict.
    raise ValueError(str(e)) from e
  except (RecursionError, MemoryError) as e:
    raise ValueError("it is nested too deeply") from e


def json_value(text: str | bytes) -> Any:
  """Parses JSON.

  Args:
    text: str, or bytes of UTF-8, UTF-16 or UTF-32.

  Returns:
    The value.

  Raises:
    ValueError: it is not JSON, or nested too deeply.
  """
  try:
    return json.loads(text)
  except RecursionError as e:
    raise ValueError("it is nested too deeply") from e
