"""Gives all commands one style of flags and of help, without slow imports.

`--long_names` with underscores, defaults shown, `--help` and `--debug`. Modules
of commands import what takes seconds (jax, TensorFlow) in functions, so that
help and mistakes are answered at once.
"""

import argparse
import collections
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

# Arguments that configs have asked `configs.common.parse_arg` for, in the order of
# its calls: name -> (default, function that converts a string). `--help` shows them.
config_arguments: collections.deque[
  dict[str, tuple[Any, Callable[[str], Any]]]
] = collections.deque(maxlen=100)

DEBUG_HELP = "Show the traceback of an error, too."


class _Formatter(argparse.RawDescriptionHelpFormatter):
  """Keeps the lines of descriptions, and shows defaults."""

  def __init__(self, prog: str) -> None:
    super().__init__(prog, max_help_position=26)

  def _get_help_string(self, action: argparse.Action) -> str | None:
    text = action.help or ""
    hidden = action.default in (None, argparse.SUPPRESS)
    if hidden or not action.option_strings or "%(default)" in text:
      return text
    return f"{text} (default: %(default)s)".strip()


def make_parser(
  module: str, doc: str | None, usage: str | None = None
) -> argparse.ArgumentParser:
  """Makes the parser of a command.

  Args:
    module: dotted name after `python -m`.
    doc: what the command does, the docstring of its module.
    usage: the first line of the help, if not to be made from the flags.

  Returns:
    The parser, with `--help` and `--debug`.
  """
  parser = argparse.ArgumentParser(
    prog=f"python -m {module}",
    usage=usage,
    description=(doc or "").strip(),
    formatter_class=_Formatter,
  )
  parser.add_argument(
    "--debug", action="store_true", default=False, help=DEBUG_HELP
  )
  return parser


def split_changes(
  argv: Sequence[str] | None,
) -> tuple[list[str], list[str]]:
  """Takes `--config.key value` out of arguments, written with =.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    (the other arguments, those of the config).
  """
  own, changes, rest = [], [], list(sys.argv[1:] if argv is None else argv)
  while rest:
    arg = rest.pop(0)
    if not re.match(r"--?(no)?config\.", arg):
      own.append(arg)
      continue
    if "=" not in arg and rest and not re.match(r"--?[a-zA-Z]", rest[0]):
      arg = f"{arg}={rest.pop(0)}"
    changes.append(arg)
  return own, changes


def start() -> str:
  """Tells how the user starts modules, for commands that are shown.

  Returns:
    What is before the name of a module: "python -m", or "bash setup.sh" if
    `setup.sh` has started this program.
  """
  return os.environ.get("BV_START", "python -m")


def wants_debug(argv: Sequence[str] | None = None) -> bool:
  """Tells whether the command line asks for tracebacks.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Whether `--debug` is among them. Also known while flags are being parsed.
  """
  given = sys.argv[1:] if argv is None else argv
  return any(a.lower() in ("--debug", "-debug", "--debug=true") for a in given)
