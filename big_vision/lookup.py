"""Strings in configs become code here, with one style of error.

A name is looked up below a package of big_vision first; a dotted path to a
user's own module is accepted wherever a name is.
"""

import difflib
import importlib
import importlib.util
import pkgutil


def did_you_mean(name, known):
  """A sentence fragment with the nearest of `known`, or all if none is near.

  Args:
    name: str, what was asked for.
    known: iterable of str.

  Returns:
    For example ". Did you mean 'softmax_xent'?"; empty without `known`.
  """
  known = sorted(map(str, known))
  near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
  if near:
    return ". Did you mean " + " or ".join(repr(n) for n in near) + "?"
  return f". Known: {', '.join(known)}." if known else "."


def unknown(kind, name, known, key=None):
  """ValueError for a name that a config asks for and nobody knows.

  Args:
    kind: str, what is looked up, for example "evaluator".
    name: str, what was asked for.
    known: iterable of the names that exist.
    key: str, the config key that holds the name, for example "model_name".

  Returns:
    The exception, to be raised by the caller.
  """
  where = f"config.{key}: " if key else ""
  return ValueError(
    f"{where}unknown {kind} {name!r}{did_you_mean(name, known)}"
  )


def module(package, name, *, kind, key=None):
  """Imports `big_vision.<package>.<name>`, else the dotted path `name`.

  Args:
    package: str, sub-package of big_vision, for example "models".
    name: str, module below it (dots allowed), or a path of a user's module.
    kind: str, what the error calls it, for example "model".
    key: str, the config key that holds the name.

  Returns:
    The module.

  Raises:
    ValueError: no such module; names the key and the nearest known names.
      Errors inside of a module that exists propagate unchanged.
  """
  for path in (f"big_vision.{package}.{name}", name):
    if _exists(path):
      return importlib.import_module(path)
  raise unknown(kind, name, known_modules(package), key)


def preprocessing(config, default=("ops_general", "ops_image", "ops_text")):
  """Imports the modules of preprocessing ops that a config names.

  Args:
    config: ConfigDict; reads `pp_modules`.
    default: sequence of str, if it has none.

  Raises:
    ValueError: no such module.
  """
  for name in config.get("pp_modules", default):
    module("pp", name, kind="preprocessing module", key="pp_modules")


def _exists(path):
  """Whether `path` names an importable module (imports only its parents)."""
  try:
    return importlib.util.find_spec(path) is not None
  except ModuleNotFoundError as e:
    if e.name and (path == e.name or path.startswith(e.name + ".")):
      return False
    raise  # A parent package exists but needs something that is missing.
  except (ValueError, ImportError):
    return False


def known_modules(package):
  """Names of all modules below `big_vision.<package>`, sub-packages too."""
  root = importlib.import_module(f"big_vision.{package}")
  prefix = f"big_vision.{package}."
  return [
    m.name.removeprefix(prefix)
    for m in pkgutil.walk_packages(root.__path__, prefix)
    if not m.ispkg
  ]
