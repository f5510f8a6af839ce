"""Defines the flag `--config`: a file, and any key that code knows.

`ml_collections.config_flags` parses the flags; it changes keys that a config
has. Here a config is prepared for that: keys that it lacks and code reads are
added with their types before flags are parsed. What is wrong ends the program
with one line.
"""

import glob
import inspect
import itertools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import ml_collections as mlc
from absl import flags
from ml_collections import config_dict
from ml_collections.config_flags import config_flags, config_path

import big_vision
from big_vision import command_line, lookup
from big_vision.training import config_keys, user_errors

flags.disclaim_key_flags()  # They belong to the module that calls `define`.

_PARSERS = {
  bool: flags.BooleanParser(),
  int: flags.IntegerParser(),
  float: flags.FloatParser(),
}


def define(
  name: str, help_string: str, flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder[Any]:
  """Defines the flag of a config file, whose keys are flags, too.

  Args:
    name: name of the flag; `--<name>.<key>` changes a key.
    help_string: what `--help` shows.
    flag_values: where flags are defined.

  Returns:
    The holder of the flag; its value is a locked ConfigDict.
  """
  return flags.DEFINE_flag(
    _ConfigFlag(
      parser=_Parser(name=name, lock_config=True),
      serializer=flags.ArgumentSerializer(),
      name=name,
      default=None,
      help_string=help_string,
      flag_values=flag_values,
    ),
    flag_values,
  )


class _Parser(config_flags.ConfigFileFlagParser):
  """Reads a config file and prepares it for the flags of its keys."""

  def parse(self, path: str) -> Any:
    config = self._load(path)
    if isinstance(config, mlc.ConfigDict):
      try:
        prepare(config, {k: v for k, (v, _) in given_keys(self.name).items()})
      except ValueError as e:
        _stop(user_errors.message(e))
    return config

  def _load(self, path: str) -> Any:
    """Returns the config; ends the program if the user got something wrong."""
    flag = f"--{self.name}={path}"
    file, colon, argument = path.partition(":")
    path = f"{find_file(file)}{colon}{argument}"
    if not os.path.exists(find_file(file)):
      folder = find_file(os.path.dirname(file) or ".")
      there = glob.glob(os.path.join(folder, "*.py"))
      names = [n for f in there if (n := os.path.basename(f))[0] != "_"]
      near = lookup.did_you_mean(os.path.basename(file), names)
      _stop(f"{flag}: there is no file {file!r}{near}")
    try:
      config = super().parse(path)
      # Of a file that could not be read, this raises the OSError.
      getattr(config, "lock", None)
    except (TypeError, ValueError) as e:
      # Raised anew by the library, with a traceback for text.
      _stop_if_said(flag, e.__context__ or e)
      _stop_if_key(flag, e.__context__ or e)
      raise
    except OSError as e:
      _stop_if_said(flag, e.__cause__ or e)
      raise
    except (AssertionError, KeyError, ModuleNotFoundError) as e:
      _stop_if_said(flag, e)
      _stop_if_key(flag, e)
      raise
    except SyntaxError as e:
      _stop(f"{flag}: line {e.lineno} of {e.filename}: {e.msg}")
    except AttributeError as e:
      if e.name == "get_config":
        _stop(f"{flag}: {file!r} defines no function get_config.")
      _stop_if_key(flag, e)
      raise
    return config


class _ConfigFlag(config_flags._ConfigFlag):  # There is no public class.
  """Lets flags of keys be followed by their value, whatever their type."""

  def _parse(self, argument: Any) -> Any:
    try:
      config = super()._parse(argument)
    except (
      config_flags.UnsupportedOperationError,
      config_flags.FlagOrderError,
    ) as e:
      _stop(user_errors.message(e))
    if self.flag_values is flags.FLAGS:
      _hint_at_keys(config, self.name)
    for key, (_, separate) in given_keys(self.name).items():
      field = f"{self.name}.{key}"
      if separate and field in self.flag_values:
        # Else `--config.key False` would be True, and False an argument.
        self.flag_values[field].boolean = False
    return config


def _hint_at_keys(config: Any, name: str) -> None:
  """Says what is meant if `--lr` is given, which absl then refuses."""
  for arg in itertools.takewhile(lambda a: a != "--", sys.argv[1:]):
    match = re.match(r"--?([a-z]\w*)[\w.]*(=|$)", arg)
    if match and match[1] not in flags.FLAGS and match[1] in (config or ()):
      given = arg.lstrip("-").partition("=")[0]
      hint = f"--{given} is no flag, a key of the config is --{name}.{given}"
      print(hint, file=sys.stderr)


def find_file(path: str) -> str:
  """Finds a config file: in the current folder, or in the package from anywhere.

  Args:
    path: as given; `configs/NAME.py` and `big_vision/configs/NAME.py` are those
      of the package if the current folder has no such file (or folder).

  Returns:
    Path of the file; `path` itself if there is none.
  """
  if os.path.exists(path):
    return path
  inside = path.removeprefix("./").removeprefix("big_vision/")
  for root in big_vision.__path__:
    found = os.path.join(root, inside)
    if inside.split("/")[0] == "configs" and os.path.exists(found):
      return found
  return path


def check_method(keys: Iterable[str], build: Callable[..., Any]) -> None:
  """Refuses keys of the command line that another method would read.

  Args:
    keys: dotted keys that the command line changes.
    build: that of the trainer.

  Raises:
    lookup.ConfigError: a key is one of another trainer of this package.
  """
  fn = inspect.unwrap(getattr(build, "func", build))
  path = os.path.realpath(fn.__code__.co_filename).replace(os.sep, "/")
  if not any(path.startswith(os.path.realpath(p)) for p in big_vision.__path__):
    return  # A trainer of the user's own may read anything.
  for key in keys:
    readers = config_keys.READERS.get(key.split(".")[0])
    if readers and not any(f"/big_vision/{r}" in path for r in readers):
      raise lookup.ConfigError(
        f"config.{key} has no effect here: trainers that read it are in "
        f"big_vision/{readers[0]}."
      )


def check_arguments(argv: Sequence[str]) -> None:
  """Refuses arguments that belong to no flag, which would be ignored.

  Args:
    argv: what is left of the command line, the program first. `True` is left
      after `--cleanup True`, and does no harm.

  Raises:
    SystemExit: there are others.
  """
  rest = [a for a in argv[1:] if a.lower() != "true"]
  if rest:
    _stop(
      f"{rest[0]!r} belongs to no flag. Write --flag=value, and quotes around "
      "values with spaces."
    )


def given_keys(name: str) -> dict[str, tuple[str | None, bool]]:
  """Finds the keys of the config that the command line changes.

  Args:
    name: name of the flag of the config.

  Returns:
    Dotted key -> (text of its value, whether that is an argument of its own).
    None instead of text: `--config.key` and `--noconfig.key` of a bool.
  """
  argv = flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False)
  given = {}
  for arg, following in itertools.zip_longest(argv, argv[1:]):
    if arg == "--":
      break
    match = re.match(rf"--?(no)?{name}\.([^=]*)(?:=(.*))?$", arg, re.DOTALL)
    if not match:
      continue
    no, key, value = match.groups()
    separate = value is None and not no and following is not None
    separate = separate and not re.match(r"--?[a-zA-Z]", following or "")
    given[key] = (following if separate else value, separate)
  return given


def prepare(config: mlc.ConfigDict, given: Mapping[str, str | None]) -> None:
  """Makes place for values of the command line, in place.

  A key that code reads and the config lacks is added. A unit of a duration takes
  the place of the other units, unless it is negative or they are given as well.

  Args:
    config: ConfigDict, which may be locked.
    given: dotted key -> text of its value.

  Raises:
    lookup.ConfigError: an unknown key, or a value of another type than its.
  """
  for key in sorted(given, key=lambda k: not _is_name(k.split(".")[-1])):
    text, path = given[key], _split(key)
    # Others, "schedule[0][1].warmup_steps", only change what is there.
    named = all(isinstance(p, str) for p in path)
    node = _holder(config, path) if named else None
    if node is not None:
      _prepare_key(config, node, path, text)
      _replace_units(node, path, text, given)
      continue
    try:
      config_path.get_type(key, config)
    except (AttributeError, LookupError, TypeError, ValueError) as e:
      if named and isinstance(config.get(path[0]), list | tuple):
        raise lookup.ConfigError(
          f"config.{key} is not there: config.{path[0]} is a list, whose "
          f"entries are config.{path[0]}[0] and so on."
        ) from e
      raise lookup.ConfigError(
        f"config.{key} is not there: {user_errors.message(e)}"
      ) from e


def _split(key: str) -> Sequence[Any]:
  """Splits a dotted key; parts may be indices: "a.b[0].c"."""
  try:
    return config_path.split(key)
  except (
    KeyError, SyntaxError, TypeError, ValueError, RecursionError, MemoryError
  ) as e:  # fmt: skip
    raise lookup.ConfigError(
      f"config.{key:.200} is not a key, which looks like config.evals.val.log_steps; "
      "names with other characters like config.evals['my-val'].log_steps."
    ) from e


def _holder(
  config: mlc.ConfigDict, path: Sequence[str]
) -> mlc.ConfigDict | None:
  """Returns the part of the config that holds a key; makes it if need be."""
  node = config
  for i, name in enumerate(path[:-1]):
    if node.get(name) is None:
      kind = config_keys.type_of(config, path[: i + 1])
      if kind is not dict:
        raise lookup.ConfigError(
          f"config.{'.'.join(path)}: config.{'.'.join(path[: i + 1])} has no "
          "keys of its own."
        )
      with node.unlocked():
        node[name] = mlc.ConfigDict()
    node = node[name]
    if not isinstance(node, mlc.ConfigDict):
      return None  # `ml_collections` knows how to go on, or that it cannot.
  return node


def _prepare_key(
  config: mlc.ConfigDict,
  node: mlc.ConfigDict,
  path: Sequence[str],
  text: str | None,
) -> None:
  """Gives a key the type that its value is to have."""
  name = path[-1]
  is_there = name in node
  value = node.get(name)
  current: Any = node.get_type(name) if is_there else None
  kind: type
  if text is not None and text.lower() == "none":
    kind = object
    if not is_there and list(path[:-1]) == ["evals"]:  # Nothing to take out.
      raise lookup.unknown("evaluator", name, node, "evals", lookup.ConfigError)
  elif is_there and isinstance(value, list):
    kind = object
  elif list(path) == ["schedule"] and text and text.lstrip()[:1] in ("[", "("):
    kind, value = object, None  # A list of rules in place of one for all.
  elif _is_whole_init(name, value, text):
    kind, value = str, None  # One checkpoint in place of those of parts.
  elif is_there and value is not None:
    kind = current
    if kind is int and not _is(int, text) and _wants_float(config, path):
      kind = float
  else:
    try:
      kind = config_keys.type_of(config, path)
    except lookup.ConfigError:
      if not is_there:
        raise
      kind = object
  if kind in _PARSERS and not _is(kind, text):
    what = {bool: "true or false", int: "a whole number", float: "a number"}
    raise lookup.ConfigError(
      f"config.{'.'.join(path)}={text} must be {what[kind]}."
    )
  if kind is not current:
    place = mlc.ConfigDict if kind is dict else kind
    with node.unlocked():
      if is_there:
        del node[name]
      node[name] = config_dict.FieldReference(value, field_type=place)
  if kind is str and _is_name(name) and text is not None:
    node[name] = text  # The keys below it depend on it.


def _is_whole_init(name: str, value: Any, text: str | None) -> bool:
  """Tells whether a text replaces a dict of checkpoints by a single one."""
  parts = name.endswith("_init") and isinstance(value, mlc.ConfigDict)
  return parts and text is not None and not text.lstrip().startswith("{")


def _is(kind: type, text: str | None) -> bool:
  """Tells whether a text on the command line is a value of a type."""
  try:
    return text is None or _PARSERS[kind].parse(text) is not None
  except ValueError:
    return False


def _is_name(name: str) -> bool:
  """Tells whether a key names what has further keys."""
  return name in ("type", "name") or name.endswith(("_name", "_model"))


def _wants_float(config: mlc.ConfigDict, path: Sequence[str]) -> bool:
  """Tells whether code takes a float where the config has an int."""
  try:
    return config_keys.type_of(config, path) is float
  except ValueError:  # A key of the user's own.
    return False


def _replace_units(
  node: mlc.ConfigDict,
  path: Sequence[str],
  text: str | None,
  given: Mapping[str, str | None],
) -> None:
  """Removes the other units of a duration that the command line sets."""
  prefix, _, unit = path[-1].rpartition("_")
  if unit not in config_keys.UNITS or not text or not _is(float, text):
    return
  if float(text) < 0:  # Switches off one unit, as in a sweep.
    return
  for other in config_keys.UNITS:
    name = f"{prefix}_{other}"
    if other != unit and ".".join([*path[:-1], name]) not in given:
      if name in node:
        with node.unlocked():
          del node[name]


def _stop_if_said(flag: str, error: BaseException) -> None:
  """Ends the program if an error tells a user what is wrong in one line."""
  written = isinstance(error, AssertionError | KeyError | TypeError)
  written = written and " " in str(error) and user_errors.raised_here(error)
  if written or user_errors.is_of_user(error) or isinstance(error, OSError):
    _stop(f"{flag}: {user_errors.message(error)}")


def _stop_if_key(flag: str, error: BaseException) -> None:
  """Ends the program if a statement gets or sets a key that a config refuses."""
  frames = traceback.extract_tb(error.__traceback__)
  library = os.path.dirname(mlc.__file__) + os.sep
  outside = [f for f in frames if not f.filename.startswith(library)]
  if not outside or frames[-1] is outside[-1]:
    return  # Not raised by a ConfigDict.
  place, what = outside[-1], user_errors.message(error)
  if isinstance(error, AttributeError):  # Holds a KeyError.
    error = error.__context__ or error
  if isinstance(error, KeyError):
    what = f"the config has no key {user_errors.message(error)}"
  _stop(
    f"{flag}: line {place.lineno} of {place.filename}: {place.line}: {what}"
  )


def _stop(text: str) -> NoReturn:
  """Ends the program with one line, before it with a traceback if wanted."""
  if command_line.wants_debug() and sys.exc_info()[0] is not None:
    traceback.print_exc()
  raise SystemExit(f"Error: {text}")
