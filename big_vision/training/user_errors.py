"""Shows what a user got wrong as one line instead of a traceback."""

import argparse
import contextlib
import linecache
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator

from absl import logging

import big_vision
from big_vision import command_line, disk_space, extras, fs, lookup

# Of what a user supplies if a statement of this package raises it; from
# anywhere else it may as well be a mistake in code, which needs its traceback.
_OF_THE_USER = (ValueError, FileNotFoundError, RuntimeError)
_LONGEST = 4000  # Characters of a message.


@contextlib.contextmanager
def one_line() -> Iterator[None]:
  """Ends the program with one line if a user's input turns out to be wrong.

  For the `main` of command lines: "Error: ..." on stderr, exit status 1. With
  `--debug` or `-v 1` the error propagates, and with it its traceback. Functions
  that are called from Python raise as ever.

  Yields:
    Nothing; used as `with one_line():` around what may raise.

  Raises:
    SystemExit: instead of the user's errors. All others propagate.
  """
  try:
    yield
  except Exception as e:
    verbose = logging.get_verbosity() >= logging.DEBUG
    if not is_of_user(e) or verbose or command_line.wants_debug():
      raise
    raise SystemExit(f"Error: {message(e)}") from None


def exit_status(
  run: Callable[[argparse.Namespace], int], args: argparse.Namespace
) -> int:
  """Runs a command; what a user got wrong is one line on stderr.

  Args:
    run: does what the arguments ask for, and returns the exit status.
    args: arguments; with `debug` errors propagate.

  Returns:
    That status, 1 after such an error, 130 after Ctrl-C, 0 if nobody reads what
    is written.

  Raises:
    Exception: a mistake in code.
  """
  try:
    return run(args)
  except BrokenPipeError:  # Of `| head`.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except (ValueError, KeyError, OSError, ImportError) as e:
    if args.debug or (
      isinstance(e, KeyError | ImportError) and not is_of_user(e)
    ):
      raise
    print(f"Error: {message(e)}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return 130


@contextlib.contextmanager
def interruptible(workdir: str | None) -> Iterator[None]:
  """Ends the program without a traceback after Ctrl-C.

  Args:
    workdir: of the run, or None.

  Yields:
    Nothing; used as `with interruptible(workdir):`.

  Raises:
    SystemExit: instead of KeyboardInterrupt, unless with `--debug`.
  """
  try:
    yield
  except KeyboardInterrupt:
    if command_line.wants_debug():
      raise
    from big_vision import checkpoints  # Not for `--help`: it imports jax.

    saved = workdir and checkpoints.latest(fs.join(workdir, "checkpoint.bv"))
    more = (
      " The same command goes on from the last checkpoint." if saved else ""
    )
    print(f"\nInterrupted.{more}", file=sys.stderr)
    raise SystemExit(128 + signal.SIGINT) from None


def is_of_user(error: BaseException) -> bool:
  """Tells whether an error is about what a user supplied.

  Args:
    error: what was raised.

  Returns:
    True for a `ConfigError`, for a package that is not installed, for a device
    without enough memory, for a full disk, and for a ValueError, a RuntimeError, a missing file, or
    a KeyError with a sentence that a statement of this package raised.
  """
  if isinstance(error, lookup.ConfigError) or extras.advice(error):
    return True
  if is_out_of_memory(error) or disk_space.reason(error):
    return True
  # A KeyError may be a sentence, or the key that a dict lacks.
  told = isinstance(error, KeyError) and " " in str(error)
  return (told or isinstance(error, _OF_THE_USER)) and raised_here(error)


def raised_here(error: BaseException) -> bool:
  """Tells whether a statement of this package raised an error.

  Args:
    error: what was raised.

  Returns:
    Whether the innermost frame of its traceback is a `raise` in a file of
    big_vision. What Python raises there, unpacking for example, does not count,
    but for missing files.
  """
  frames = traceback.extract_tb(error.__traceback__)
  roots = [os.path.realpath(p) + os.sep for p in big_vision.__path__]
  path = os.path.realpath(frames[-1].filename) if frames else ""
  if not any(path.startswith(root) for root in roots):
    return False
  line = linecache.getline(path, frames[-1].lineno or 0).strip()
  stated = not line or line.startswith(("raise ", "assert "))
  return stated or isinstance(error, OSError)


def is_out_of_memory(error: BaseException) -> bool:
  """Tells whether XLA found no memory for a program or an array."""
  of_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
  return of_jax and "RESOURCE_EXHAUSTED" in str(error)


def message(error: BaseException) -> str:
  """Formats an error as one line.

  Args:
    error: what was raised.

  Returns:
    Its text, without line breaks; its class if it has none.
  """
  if advice := extras.advice(error):
    return advice
  if is_out_of_memory(error):
    said = str(error).splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2]
    return (
      f"The device is out of memory: {said} A smaller config.input.batch_size, "
      "config.grad_accum_steps or a sharding needs less; python -m "
      "big_vision.tools.plan says how much."
    )
  why = disk_space.reason(error)
  if why and isinstance(error, OSError) and error.filename:
    return str(disk_space.error(error.filename, why))
  text = error.args[0] if isinstance(error, KeyError) and error.args else error
  line = " ".join(str(text).split()) or type(error).__name__
  if len(line) > _LONGEST:  # It quotes what a user gave.
    return f"{line[:_LONGEST]}… ({len(line):,} characters)"
  return line
