"""Turns strings in configs into code, with one style of error.

A name is looked up below a package of big_vision first. A dotted path to a
user's own module is accepted wherever a name is.
"""

import ast
import contextlib
import contextvars
import difflib
import functools
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from big_vision.types import ConfigLike

# What `module(needs=...)` says for modules that register preprocessing ops.
OPS = "Registry.register"
# Modules of others that may be imported; None is any. See `stored_config`.
_allowed: contextvars.ContextVar[tuple[str, ...] | None]
_allowed = contextvars.ContextVar("allowed", default=None)
# So many known names are listed if none is near.
_MAX_LISTED = 40


class ConfigError(ValueError, AssertionError):
  """A config asks for what does not exist or cannot work.

  It is also an AssertionError since callers of earlier versions catch that.
  Python's option `-O`, which strips `assert`, does not strip it.
  """


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """Ends an error message with the nearest known names, or with all of them.

  Args:
    name: what was asked for.
    known: the names that exist.

  Returns:
    For example ". Did you mean 'softmax_xent'?"; "." without `known`.
  """
  names = sorted(set(map(str, known)))
  near = _near(name, names)
  if near:
    return ". Did you mean " + " or ".join(repr(n) for n in near) + "?"
  listed = ", ".join(names[:_MAX_LISTED])
  if len(names) > _MAX_LISTED:
    listed += f" and {len(names) - _MAX_LISTED} more"
  return f". Known: {listed}." if names else "."


def _near(name: str, known: list[str], cutoff: float = 0.6) -> list[str]:
  return difflib.get_close_matches(str(name), known, n=3, cutoff=cutoff)


def unknown(
  kind: str,
  name: str,
  known: Iterable[str],
  key: str | None = None,
  error: type[Exception] = ValueError,
) -> Exception:
  """Makes the error for a name that a config asks for and nobody knows.

  Args:
    kind: what is looked up, for example "evaluator".
    name: what was asked for.
    known: the names that exist.
    key: the config key that holds the name, for example "model_name".
    error: class of the exception; `ConfigError` where callers expect an
      AssertionError.

  Returns:
    The exception, to be raised by the caller.
  """
  where = f"config.{key}: " if key else ""
  return error(
    f"{where}unknown {kind} {name!r:.200}{did_you_mean(name, known)}"
  )


def choice(
  config: Mapping[str, Any], key: str, known: Sequence[str], kind: str
) -> str:
  """Reads a key that holds one of a few names.

  Args:
    config: mapping.
    key: its key.
    known: the names, the default first, which a missing key and None mean.
    kind: what they are, for the error.

  Returns:
    One of `known`.

  Raises:
    ConfigError: it is none of them.
  """
  name = config.get(key)
  if name is None:
    return known[0]
  if name not in known:
    raise unknown(kind, name, known, key, ConfigError)
  return name


def check_keys(
  given: Iterable[str],
  known: Iterable[str],
  key: str = "",
  *,
  only_near: bool = False,
) -> None:
  """Refuses keys of a config that nobody reads.

  Args:
    given: the keys of the config, or of the part of it that `key` names.
    known: the keys that are read.
    key: dotted path of the part, for example "input"; empty is the config.
    only_near: refuse only what looks like a misspelling of a known key, where
      other keys may stand for reasons of their own.

  Raises:
    ValueError: names the key and the nearest known ones.
  """
  known = list(known)
  where = f"config.{key}" if key else "config"
  for name in given:
    if name in known or (only_near and not _near(name, known, cutoff=0.8)):
      continue
    raise ValueError(
      f"{where}.{name} is not a known key{did_you_mean(name, known)}"
    )


@contextlib.contextmanager
def stored_config(modules: Iterable[str] = ()) -> Iterator[None]:
  """Restricts what names mean while a config is used that came with data.

  A config of the command line is code and may name any module. The `config.json`
  of a workdir may be from somebody else, and importing runs code: of its names
  only modules of big_vision are imported.

  Args:
    modules: further modules that may be imported, with those inside of them,
      since the command or the call names them.

  Yields:
    Nothing; names are restricted in the body, in this thread.
  """
  token = _allowed.set(tuple(map(str, modules)))
  try:
    yield
  finally:
    _allowed.reset(token)


def allowed() -> tuple[str, ...] | None:
  """Returns the modules of `stored_config`; None outside of its body."""
  return _allowed.get()


def _check_allowed(path: str, key: str | None) -> None:
  """Refuses a module that exists but may not be imported."""
  allowed = _allowed.get()
  if allowed is None or any(
    path == name or path.startswith(f"{name}.")
    for name in ("big_vision", *allowed)
  ):
    return
  root = path.split(".")[0]  # Found without an import, unlike what is inside.
  if root in sys.modules or importlib.util.find_spec(root) is not None:
    where = f"config.{key}" if key else "The config"
    raise ConfigError(
      f"{where} of a stored run names the module {path!r}, which is not part of "
      "big_vision and therefore not imported. If you trust it, name it "
      f"yourself: pp_modules=[{path!r}] in Python, --pp_modules={path} on the "
      "command line."
    )


def module(
  package: str,
  name: str,
  *,
  kind: str,
  key: str | None = None,
  needs: str | None = None,
  but: Iterable[str] = (),
) -> ModuleType:
  """Imports `big_vision.<package>.<name>`, else the dotted path `name`.

  Args:
    package: sub-package of big_vision, for example "models".
    name: module below it (dots allowed), or a path of a user's module.
    kind: what the error calls it, for example "model".
    key: the config key that holds the name.
    needs: what makes a module one of this kind: the name that it defines, for
      example "Model"; or `OPS`. None accepts every module.
    but: names of modules below the package that are not of this kind although
      they define the name, such as a base class.

  Returns:
    The module.

  Raises:
    ValueError: no such module, or it lacks what it needs; names the key and the
      nearest known names. Errors inside of a module that exists propagate
      unchanged.
    ConfigError: `stored_config` does not allow the module.
  """
  name, reason = str(name), ""
  for path in (f"big_vision.{package}.{name}", name):
    if not _exists(path, key):
      continue
    found = importlib.import_module(path)
    own = path.removeprefix(f"big_vision.{package}.")
    if own not in but and (needs is None or _has(found, needs)):
      return found
    if not path.startswith("big_vision."):
      reason = f" The module {path} exists, but has no `{needs}`."
  known = [n for n in known_modules(package, needs) if n not in but]
  error = unknown(kind, name, known, key)
  raise ValueError(f"{error}{reason}")


def preprocessing(
  config: ConfigLike,
  default: Iterable[str] = ("ops_general", "ops_image", "ops_text"),
) -> None:
  """Imports the modules of preprocessing ops that a config names.

  Args:
    config: reads `pp_modules`.
    default: the modules if the config names none; and that of the model's
      project, `proj.uvim.pp_ops` for `model_name="proj.uvim.vit"`, if there is
      one.

  Raises:
    ValueError: no such module, or it registers nothing.
  """
  if "pp_modules" in config:
    names = config["pp_modules"]
  else:
    names = [*default]
    project = str(config.get("model_name") or "").rpartition(".")[0]
    if project and _exists(f"big_vision.pp.{project}.pp_ops"):
      names.append(f"{project}.pp_ops")
  for name in names:
    module("pp", name, kind="preprocessing module", key="pp_modules", needs=OPS)


def is_part(package: str, name: str) -> bool:
  """Tells whether a name means a module of big_vision, not one of the user.

  Args:
    package: sub-package of big_vision, for example "models".
    name: as a config names it.

  Returns:
    Whether there is `big_vision.<package>.<name>`.
  """
  return name.startswith("big_vision.") or _exists(
    f"big_vision.{package}.{name}"
  )


def import_if_exists(path: str) -> ModuleType | None:
  """Imports a module by its dotted path; None if there is none of that name."""
  return importlib.import_module(path) if _exists(path) else None


def attribute(path: str) -> Any:
  """Finds what a user's module defines.

  Args:
    path: "my.module:name" or "my.module.name".

  Returns:
    The object; None if there is no such module or it does not define the name.
  """
  name, _, attr = path.rpartition(":" if ":" in path else ".")
  return getattr(import_if_exists(name), attr, None) if attr else None


def _exists(path: str, key: str | None = None) -> bool:
  """Tells whether `path` names a module; imports only its parents."""
  if not all(part.isidentifier() for part in path.split(".")):
    return False
  _check_allowed(path, key)
  if sys.modules.get(path) is not None:
    return True
  try:
    return importlib.util.find_spec(path) is not None
  except ModuleNotFoundError as e:
    if e.name and (path == e.name or path.startswith(e.name + ".")):
      return False
    raise  # A parent package exists but needs something that is missing.


def _has(found: ModuleType, needs: str) -> bool:
  """Tells whether a module is of the kind that is looked for."""
  if needs != OPS:
    return hasattr(found, needs)
  # A module of the user's own may register ops by importing others.
  if not found.__name__.startswith("big_vision.") or not found.__file__:
    return True
  return _defines(pathlib.Path(found.__file__), needs)


@functools.cache
def known_modules(package: str, needs: str | None = None) -> tuple[str, ...]:
  """Lists the modules of one kind, from their source: none is imported.

  Args:
    package: sub-package of big_vision, for example "models".
    needs: as in `module`.

  Returns:
    Names of all modules below `big_vision.<package>`, sub-packages too; and of
    the packages that define themselves what is needed.
  """
  spec = importlib.util.find_spec(f"big_vision.{package}")
  names = []
  for root in (spec and spec.submodule_search_locations) or ():
    for path in sorted(pathlib.Path(root).rglob("*.py")):
      parts = path.relative_to(root).with_suffix("").parts
      is_package = parts[-1] == "__init__"
      parts = parts[:-1] if is_package else parts
      if needs is None:
        belongs = not is_package
      else:
        belongs = bool(parts) and _defines(path, needs)
      if belongs:
        names.append(".".join(parts))
  return tuple(names)


@functools.cache
def _defines(path: pathlib.Path, needs: str) -> bool:
  """Tells from its source whether a file defines a name at its top level."""
  source = path.read_text(encoding="utf-8")
  if needs == OPS:
    return f"@{needs}(" in source
  names = set()
  for node in ast.parse(source).body:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
      names.add(node.name)
    elif isinstance(node, ast.Import | ast.ImportFrom):
      names.update(alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.Assign):
      names.update(t.id for t in node.targets if isinstance(t, ast.Name))
  return needs in names


def getfirst(d: Mapping[str, Any], *keys: str) -> Any:
  """Returns the value of the first of the keys that is in `d`.

  Args:
    d: mapping.
    *keys: in the order of preference; KeyError if `d` has none of them.

  Returns:
    The value.
  """
  for key in keys:
    if key in d:
      return d[key]
  raise KeyError(f"None of {keys} in {list(d)}.")
