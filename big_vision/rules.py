"""Checks rules of configs, (regex, value), against the names they are for.

A regex that matches no name does nothing, and nothing tells the user so: the
head whose name is misspelt is trained like the rest, or not at all.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from big_vision import lookup

# Rules that may match no name: what stands for the rest, and what a published
# config has for others to fill in.
EXEMPT = (".*", ".*FREEZE_ME.*")
# So many names are suggested, or listed if none is near.
_NUM_NEAREST = 3
_MAX_LISTED = 10


def check_pairs(rules: Any, key: str) -> list[tuple[str, Any]]:
  """Reads a list of rules.

  Args:
    rules: sequence of (regex, value).
    key: the config key that holds it, for example "config.lr_mults".

  Returns:
    The rules as tuples.

  Raises:
    lookup.ConfigError: it is not such a list, or a regex cannot be read.
  """
  if isinstance(rules, str) or not isinstance(rules, Sequence):
    raise lookup.ConfigError(
      f"{key} = {rules!r} must be a list of pairs (regex, value), for example "
      "[('head/.*', 0.1)]."
    )
  out = []
  for rule in rules:
    if (
      isinstance(rule, str)
      or not isinstance(rule, Sequence)
      or len(rule) != 2
      or not isinstance(rule[0], str)
    ):
      raise lookup.ConfigError(
        f"{key} is a list of pairs (regex, value), for example [('head/.*', "
        f"0.1)]; {rule!r} is not such a pair."
      )
    _compile(rule[0], key)
    out.append((rule[0], rule[1]))
  return out


def check_used(
  patterns: Iterable[str],
  names: Iterable[str],
  key: str,
  what: str = "parameter",
) -> None:
  """Refuses patterns that match no name.

  Args:
    patterns: regexes that the user wrote; those in `EXEMPT` are left alone.
    names: full names, for example of parameters; nothing is checked if there
      are none.
    key: the config key that holds the patterns, for the error message.
    what: what the names are names of.

  Raises:
    lookup.ConfigError: a pattern matches no name; suggests the nearest.
  """
  names = list(names)
  if not names:
    return
  for pattern in patterns:
    if pattern in EXEMPT:
      continue
    compiled = _compile(pattern, key)
    if not any(compiled.fullmatch(name) for name in names):
      raise lookup.ConfigError(
        f"{key}: {pattern!r} matches the full name of no {what}"
        f"{_suggest(pattern, names)}"
      )


def _compile(pattern: str, key: str) -> re.Pattern[str]:
  """Compiles a regular expression; the error names the config key."""
  try:
    return re.compile(pattern)
  except re.error as e:
    raise lookup.ConfigError(
      f"{key}: {pattern!r} cannot be read as a regular expression: {e}."
    ) from e


def _suggest(pattern: str, names: Sequence[str]) -> str:
  """Ends the error with the names that the pattern may have meant."""
  # Like a user who has the right word, but not the whole path.
  inside = [n for n in names if re.search(f"(?:{pattern})", n)]
  if inside:
    part = pattern.removeprefix(".*").removesuffix(".*")
    return (
      f", only a part of {_listed(inside)}. Patterns match from the first to "
      f"the last letter: write for example '.*{part}.*'."
    )
  # The text between the special characters, component by component.
  literal = re.sub(r"\\.|\(\?[a-zA-Z]+\)|[][^$.*+?(){}]", "", pattern)
  words = [w for w in re.split(r"[/|]+", literal) if w]
  near = _nearest(words, names)
  if near:
    return f". The nearest names are {_listed(near)}."
  roots = sorted({n.split("/")[0] for n in names})
  return f". Names start with {_listed(roots, _MAX_LISTED)}."


def _nearest(words: Sequence[str], names: Sequence[str]) -> list[str]:
  """Returns the names whose components are most like `words`."""

  @functools.cache
  def alike(word: str, part: str) -> float:
    return difflib.SequenceMatcher(None, word, part).ratio()

  def score(name: str) -> float:
    best = [max(alike(w, p) for p in name.split("/")) for w in words]
    return sum(best) / len(best) if best else 0.0

  scores = {name: score(name) for name in names}
  top = max(scores.values())
  return [n for n in names if scores[n] == top] if top >= 0.6 else []


def _listed(names: Sequence[str], num: int = _NUM_NEAREST) -> str:
  """Lists some names; says how many there are besides."""
  text = ", ".join(repr(n) for n in names[:num])
  more = len(names) - num
  return f"{text} and {more} more" if more > 0 else text
