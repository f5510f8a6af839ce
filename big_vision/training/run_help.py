"""Writes the help of trainers, and of tools that read a training config.

`--help` lists flags and the configs of the package. `--config FILE --help` lists
what this config takes: its arguments, and its keys with types and values.
"""

import ast
import atexit
import contextlib
import functools
import gc
import inspect
import pathlib
import re
import shutil
import signal
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import app, flags

import big_vision
from big_vision import command_line, lookup
from big_vision.training import config_flag, keep_going, run_flags, signals

# What arguments of many configs mean, unless the docstring says it.
_ARGUMENTS = {
  "batch_size": "Examples in a batch, over all devices.",
  "demo": "A tiny model on generated data, in minutes on a CPU.",
  "res": "Side of the images in pixels.",
  "runlocal": "For trying it on one machine: small batch, short evaluations.",
  "variant": "Size of the model.",
}
_TRAINER = "big_vision.train"
# Flags of tools which neither train nor write to a workdir.
READS_CONFIG = ("config", "debug")


class _HelpFlag(flags.BooleanFlag):
  """`--help` with the page of this file instead of absl's list of everything."""

  def __init__(self, names: Sequence[str] | None):
    self._names = names
    super().__init__(
      "help", False, "show this help", short_name="h", allow_override=True
    )

  def parse(self, argument: Any) -> None:
    if self._parse(argument):
      _answer(sys.modules["__main__"].__doc__, self._names)


def define(names: Sequence[str] | None = None) -> None:
  """Defines `--help`; called by modules that have the flags of `run_flags`.

  Args:
    names: those of `run_flags` that the command reads; None is all.
  """
  app.define_help_flags()  # Absl's others: --helpfull has all flags.
  flags.DEFINE_flag(_HelpFlag(names))


def answer(doc: str | None) -> None:
  """Prints the help and ends the program if the command line asks for it.

  The first thing that trainers do, before they import jax. If they go on, signals
  are listened to from here on, and `--keep_going` runs the rest in a child.

  Args:
    doc: docstring of the command's module.
  """
  for arg in sys.argv[1:]:
    if arg == "--":
      break
    if arg in ("--help", "-help", "-h", "-?", "--help=true"):
      _answer(doc, None)
  keep_going.supervise()
  signals.listen()
  # What imports and traces make stays: to look for garbage in it a thousand times
  # takes a tenth of a short run, and at exit the system frees all of it anyway.
  gc.set_threshold(50_000, 20, 100)
  atexit.register(gc.freeze)


def _answer(doc: str | None, names: Sequence[str] | None) -> None:
  """Prints the help and ends the program."""
  main = sys.modules["__main__"]
  module = main.__spec__.name if main.__spec__ else None
  spec = _given_config(sys.argv[1:])
  if hasattr(signal, "SIGPIPE"):  # As `| head` is used to.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
  if spec:
    for text in config_page(spec, sys.argv, module):
      print(text, end="\n\n", flush=True)
  else:
    print(page(module, doc, names).rstrip())
  raise SystemExit(0)


def _given_config(argv: Sequence[str]) -> str | None:
  """Returns the value of `--config`, if it is there."""
  for arg, following in zip(argv, [*argv[1:], None], strict=True):
    match = re.fullmatch(r"--?config(?:=(.*))?", arg, re.DOTALL)
    if match:
      return match[1] or following
  return None


# Commands.


def page(
  module: str | None, doc: str | None, names: Sequence[str] | None = None
) -> str:
  """Formats the help of a command.

  Args:
    module: its dotted name; None if it runs as a file.
    doc: docstring of its module.
    names: the flags of `run_flags` that it reads; None is all.

  Returns:
    Text: usage, what it does, flags with defaults, configs with a line each.
  """
  prog = f"python -m {module}" if module else f"python {sys.argv[0]}"
  config = "--config FILE.py[:ARGUMENTS]"
  usage = f"{prog} {config} [--workdir FOLDER]"
  if names:  # Tools, some of which do without a config.
    usage = f"{prog} [{config}]"
  usage += " [--config.KEY VALUE ...] [FLAGS]"
  parser = command_line.make_parser(module or "", doc, usage)
  parser.conflict_handler = "resolve"  # A fork may have its own --debug.
  known = flags.FLAGS.flags_by_module_dict()
  ours = known.get(run_flags.__name__, ())
  for flag in ours:
    if flag.name != "debug" and (names is None or flag.name in names):
      _add(parser, flag)
  own = [f for f in known.get(sys.argv[0], ()) if f not in ours]
  if own:
    group = parser.add_argument_group("flags of this command")
    for flag in own:
      _add(group, flag)
  parser.epilog = _list_configs(module or "")
  return parser.format_help()


def _add(parser: Any, flag: flags.Flag) -> None:
  """Adds a flag of absl to a parser whose help is shown."""
  metavars = {"config": "FILE", "workdir": "FOLDER"}
  kw: dict[str, Any] = dict(metavar=metavars.get(flag.name, flag.name.upper()))
  if flag.boolean:
    kw = dict(action="store_true")
  elif isinstance(flag, flags.EnumFlag):
    kw = dict(choices=flag.parser.enum_values)  # pyright: ignore
  default = flag.default
  if isinstance(default, list):
    default = ",".join(map(str, default)) or None
  text = re.sub("^<.*?>: ", "", flag.help or "").replace("%", "%%")
  parser.add_argument(f"--{flag.name}", default=default, help=text, **kw)


@functools.cache
def package_configs() -> dict[str, str]:
  """Finds the configs that come with the package; reads, does not import them.

  Returns:
    "configs/NAME.py" -> docstring.
  """
  found = {}
  for folder in big_vision.__path__:
    root = pathlib.Path(folder, "configs")
    for path in sorted(root.rglob("*.py")):
      tree = ast.parse(path.read_text(encoding="utf-8"))
      defined = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
      if "get_config" in defined:
        name = f"configs/{path.relative_to(root).as_posix()}"
        found[name] = ast.get_docstring(tree) or ""
  # Those of papers last.
  return dict(sorted(found.items(), key=lambda item: "/proj/" in item[0]))


def _list_configs(module: str) -> str:
  """Lists configs by the command that their docstring tells."""
  by_command: dict[str, dict[str, str]] = {}
  for name, doc in package_configs().items():
    match = re.search(r"python -m (big_vision\.[\w.]+)", doc)
    command = match[1] if match else _TRAINER
    by_command.setdefault(command, {})[name] = _first_line(doc)
  if by_command.get(module):
    by_command = {module: by_command[module], **by_command}
  lines = ["configs (--config FILE --help has their arguments and keys):"]
  for command, found in by_command.items():
    if command != module:
      lines += ["", f"configs of python -m {command}:"]
    width = max(map(len, found))
    lines += [f"  {name:<{width}}  {line}" for name, line in found.items()]
  lines += ["", "Other commands: python -m big_vision.tools"]
  return "\n".join(lines)


def _first_line(doc: str) -> str:
  return doc.strip().partition("\n\n")[0].replace("\n", " ")


# One config.


def config_page(
  spec: str, argv: Sequence[str], module: str | None = None
) -> Iterator[str]:
  """Formats the help of a config.

  Args:
    spec: value of `--config`, "path.py[:argument]".
    argv: the command line, the program first; it may change keys.
    module: dotted name of the trainer; None is any.

  Yields:
    Texts: docstring, arguments, keys with types and values, and further keys,
    for which models are imported.

  Raises:
    SystemExit: there is no such file, or it cannot be read.
  """
  given = spec.partition(":")[0]
  path = config_flag.find_file(given)
  doc = _docstring(path) if pathlib.Path(path).exists() else ""
  asked = command_line.config_arguments
  asked.clear()
  config, error = None, ""
  try:
    config = _read(argv)
  except SystemExit as e:
    error = str(e.code)
    if not asked:  # It does not even get to its arguments.
      raise
  if about := _without_arguments(doc):
    yield about
  title = "keys, changed by --config.KEY VALUE"
  arguments = (
    [_arguments(given, asked[0], _descriptions(path, doc))] if asked else []
  )
  if config is not None:
    yield from arguments
    yield f"{title}:\n{_table(keys(config))}"
    yield from _further(config, module)
    return
  # The last lines are what is in the way.
  if example := _example(doc, path):
    other = f"{given}:{example}"
    with contextlib.suppress(SystemExit):  # Changes of keys may be wrong, too.
      config = _read([a.replace(spec, other) for a in argv])
      yield f"{title}, with --config {other}:\n{_table(keys(config))}"
  yield from arguments
  yield f"With these arguments and changes there are no keys. {error}"


def _example(doc: str, path: str) -> str:
  """Returns the arguments of the first command in the docstring of a config."""
  name = re.escape(pathlib.Path(path).name)
  match = re.search(rf"--config[ =]\S*{name}:(\S+)", doc)
  return match[1] if match else ""


def _docstring(path: str) -> str:
  text = pathlib.Path(path).read_text(encoding="utf-8")
  try:
    return ast.get_docstring(ast.parse(text)) or ""
  except SyntaxError:
    return ""  # Reading the config says where.


def _read(argv: Sequence[str]) -> Any:
  """Reads the config with the changes of the command line."""
  values = flags.FlagValues()
  config_flag.define("config", "", values)
  values.set_gnu_getopt()  # Goes on after values of flags that it lacks.
  wanted = [a for a in argv if a not in ("--help", "-help", "-h", "-?")]
  try:
    values(wanted, known_only=True)
  except flags.Error as e:
    raise SystemExit(f"Error: {e}") from e
  return values["config"].value


def _without_arguments(doc: str) -> str:
  """Removes the section "Arguments:", which becomes a table."""
  return re.sub(r"(?m)^Arguments:\n(?:  .*\n?|\n)+", "", doc).strip()


def _descriptions(path: str, doc: str) -> dict[str, str]:
  """Collects what docstrings say about arguments, as lines "  name: text".

  That of the config counts first, then those of modules that it imports from
  folders of configs.
  """
  found = _entries(doc)
  tree = ast.parse(pathlib.Path(path).read_text(encoding="utf-8"))
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom):
      where = node.module or ""
      names = [where, *(f"{where}.{n.name}" for n in node.names)]
    elif isinstance(node, ast.Import):
      names = [n.name for n in node.names]
    else:
      continue
    for name in names:
      module = sys.modules.get(name)
      if module and "configs" in name.split("."):
        found = _entries(module.__doc__ or "") | found
  return found


def _entries(doc: str) -> dict[str, str]:
  """Reads lines "  name: text" or "  name, name: text", and how they go on."""
  found: dict[str, str] = {}
  names: list[str] = []
  for line in doc.splitlines():
    entry = re.fullmatch(r"  ([a-z]\w*(?:, \w+)*): +(.*)", line)
    if entry:
      names = entry[1].split(", ")
      found |= dict.fromkeys(names, entry[2])
    elif line.startswith("    "):
      found |= {n: f"{found[n]} {line.strip()}" for n in names}
    else:
      names = []
  return found


def _arguments(
  path: str, asked: dict[str, tuple[Any, Any]], described: dict[str, str]
) -> str:
  """Lists the arguments of a config with their defaults."""
  rows = []
  for name, (default, convert) in asked.items():
    kind = {"autotype": "any", "_parse_bool": "bool", "Names": "names"}
    kind = kind.get(convert.__name__, convert.__name__)
    text = described.get(name) or _ARGUMENTS.get(name, "")
    text = text[:1].upper() + text[1:]
    rows.append((name, kind, f"{_value(default)}\n{text}".strip()))
  is_flag = [c.__name__ == "_parse_bool" for _, c in asked.values()]
  example = ",".join(
    name if flag else f"{name}=..."
    for name, flag in list(zip(asked, is_flag, strict=True))[:2]
  )
  title = f"arguments, as in --config {path}:{example}"
  return f"{title}:\n{_table(rows)}"


def keys(config: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
  """Lists the keys of a config.

  Args:
    config: ConfigDict.
    prefix: of the names.

  Yields:
    (dotted key, name of its type, value as it is written).
  """
  for key in config:
    value = config[key]
    name = f"{prefix}{key}"
    if hasattr(value, "items") and len(value):
      yield from keys(value, f"{name}.")
      continue
    kind = config.get_type(key) if hasattr(config, "get_type") else type(value)
    kind = {"NoneType": "any", "object": "any", "ConfigDict": "dict"}.get(
      kind.__name__, kind.__name__
    )
    yield name, kind, _value(value)


def _value(value: Any) -> str:
  """Formats a value as on a command line, functions by name."""
  if isinstance(value, str):
    return value or '""'
  if callable(value):
    return getattr(value, "__name__", repr(value))
  if hasattr(value, "to_dict"):
    return repr(value.to_dict())
  return repr(value)


def _further(config: Any, module: str | None) -> Iterator[str]:
  """Lists what code reads and the config leaves alone."""
  from big_vision.training import config_keys, flat_config

  config = flat_config.modern(config)
  reader = f"{(module or '').replace('.', '/')}.py"
  is_ours = reader.startswith("big_vision/trainers") or module == _TRAINER
  parts: list[list[str]] = [[], ["input"], ["model"], ["schedule"], ["optax"]]
  for part in parts:
    node = config.get(part[0]) if part else config
    if not hasattr(node, "keys"):
      continue
    try:
      known = dict(config_keys.keys_of(config, part) or {})
      defaults = _defaults(config, part)
    except ValueError:  # A name that does not exist; training says so.
      continue
    if not part and is_ours:
      for key, readers in config_keys.READERS.items():
        if not any(f"big_vision/{r}" in reader for r in readers):
          known.pop(key, None)
    missing = [k for k in sorted(known) if k not in node]
    if missing:
      where = ".".join(["config", *part])
      listed = [_entry(k, known[k], defaults) for k in missing]
      yield f"{where} also takes:\n{_wrap(', '.join(listed), 2)}"


def _entry(key: str, kind: type, defaults: dict[str, Any]) -> str:
  """Formats a key with its type, and with its default where that is plain."""
  default = defaults.get(key)
  if not isinstance(default, bool | int | float | str | tuple):
    return f"{key} ({'any' if kind is object else kind.__name__})"
  kind = type(default) if kind is object else kind
  return f"{key} ({kind.__name__} = {_value(default)})"


def _defaults(config: Any, part: Sequence[str]) -> dict[str, Any]:
  """Returns the defaults of the arguments of the model or the optimizer."""
  from big_vision import optimizers

  if list(part) == ["model"]:
    name = config.model_name
    found = lookup.module("models", name, kind="model", needs="Model")
    return _defaults_of(found.Model)
  if list(part) == ["optax"]:
    return _defaults_of(optimizers.find(config.get("optax_name")))
  return {}


def _defaults_of(fn: Any) -> dict[str, Any]:
  """Returns defaults; a function may hand arguments on to what it returns."""
  made = (
    None if inspect.isclass(fn) else typing.get_type_hints(fn).get("return")
  )
  inner = _defaults_of(made) if inspect.isclass(made) else {}
  found = inspect.signature(fn).parameters.values()
  return inner | {p.name: p.default for p in found if p.default is not p.empty}


# Layout.


def _width() -> int:
  return max(shutil.get_terminal_size().columns - 2, 60)


def _wrap(text: str, indent: int) -> str:
  return textwrap.fill(
    text,
    _width(),
    initial_indent=" " * indent,
    subsequent_indent=" " * indent,
    break_on_hyphens=False,
    break_long_words=False,
  )


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
  """Aligns rows of (name, type, text of any number of lines)."""
  rows = list(rows)
  names = min(max((len(n) for n, _, _ in rows), default=0), 36)
  kinds = max((len(k) for _, k, _ in rows), default=0)
  indent = 2 + names + 2 + kinds + 2
  lines = []
  for name, kind, text in rows:
    body = "\n".join(_wrap(t, indent) for t in text.split("\n"))
    head = f"  {name:<{names}}  {kind:<{kinds}}  "
    lines.append(
      head + body.lstrip()
      if len(head) <= indent
      else f"{head.rstrip()}\n{body}"
    )
  return "\n".join(lines)
