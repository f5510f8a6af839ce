"""Registry of objects that configs name by strings, such as preprocessing ops.

`"resize(224, method='area')"` means the registered item `resize` with these
arguments. Arguments are literals: a string never runs code of its own.
"""

import ast
import contextlib
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from big_vision import lookup, untrusted

_Item = TypeVar("_Item")


def parse_name(
  string_to_parse: str,
) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
  """Splits a string such as `"a.b(1, k='x')"` into name and arguments.

  Args:
    string_to_parse: str, a (dotted) name or a call of one with Python literals
      as arguments. Of a repeated keyword, the last value counts.

  Returns:
    (name, args, kwargs): str, tuple, dict. A name without call is returned as
    it was given, white space included.

  Raises:
    ValueError: the string is neither a name nor a call of one, or an argument
      is not a literal.
    SyntaxError: the string is not an expression of Python.
  """
  expr = untrusted.expression(string_to_parse)
  if isinstance(expr, ast.Call):
    name = _dotted_name(expr.func, string_to_parse)
    args = tuple(untrusted.literal(arg) for arg in expr.args)
    kwargs = {kw.arg: untrusted.literal(kw.value) for kw in expr.keywords}
    return name, args, kwargs
  _dotted_name(expr, string_to_parse)
  return string_to_parse, (), {}


def _dotted_name(node, string):
  """Converts a syntax tree to the name `a.b.c`."""
  parts = []
  while isinstance(node, ast.Attribute):
    parts.append(node.attr)
    node = node.value
  if not isinstance(node, ast.Name):
    raise ValueError(
      f"Expected a name or a call of a name, such as 'a.b' or 'a.b(1, k=2)', "
      f"but found {type(node).__name__} in {string!r:.200}."
    )
  return ".".join([node.id, *reversed(parts)])


class Registry:
  """All names of this process: `preprocess_ops.*`, `shardings.*` and others."""

  _REGISTRY: dict[str, Any] = {}

  @staticmethod
  def global_registry() -> dict[str, Any]:
    """Returns the dict of all names; tests may replace this method."""
    return Registry._REGISTRY

  @staticmethod
  def register(name: str, replace: bool = False) -> Callable[[_Item], _Item]:
    """Makes a decorator that registers the decorated object.

    Args:
      name: str, with its namespace, for example "preprocess_ops.resize".
      replace: bool, whether the name may be in use already.

    Returns:
      `item -> item`. It raises KeyError if the name is in use.
    """

    def decorate(item):
      registry = Registry.global_registry()
      if name in registry and not replace:
        raise KeyError(
          f"{name!r} is registered already, as {registry[name]!r}; choose "
          "another name or pass replace=True."
        )
      registry[name] = item
      return item

    return decorate

  @staticmethod
  def lookup(
    lookup_string: str, kwargs_extra: Mapping[str, Any] | None = None
  ) -> functools.partial[Any]:
    """Looks up a string, and binds its arguments to the registered item.

    Args:
      lookup_string: str, see `parse_name`.
      kwargs_extra: dict of arguments that override those of the string.

    Returns:
      `functools.partial` of the item.

    Raises:
      ValueError: an argument is not a literal, or the string neither a name nor
        a call.
      SyntaxError: the string is not an expression of Python.
      KeyError: nothing is registered under this name.
    """
    name, args, kwargs = _parse(lookup_string)
    kwargs.update(kwargs_extra or {})
    return functools.partial(Registry.global_registry()[name], *args, **kwargs)

  @staticmethod
  def knows(lookup_string: str) -> bool:
    """Tells whether the name in a string is registered.

    Args:
      lookup_string: str, see `parse_name`.

    Returns:
      bool.

    Raises:
      ValueError, SyntaxError: as `lookup`.
    """
    return _parse(lookup_string)[0] in Registry.global_registry()


def _parse(lookup_string):
  try:
    return parse_name(lookup_string)
  except ValueError as e:
    raise ValueError(f"Error parsing:\n{lookup_string:.1000}") from e


@contextlib.contextmanager
def temporary_ops(**kw: Callable[..., Any]) -> Iterator[None]:
  """Registers preprocessing ops inside a `with` block.

  Args:
    **kw: op name -> factory; registered as `preprocess_ops.<op name>`.

  Raises:
    ConfigError: one of the names is registered already.
  """
  ops = {f"preprocess_ops.{name}": factory for name, factory in kw.items()}
  registry = Registry.global_registry()
  taken = sorted(ops.keys() & registry.keys())
  if taken:
    raise lookup.ConfigError(f"Registered already: {taken}")
  registry.update(ops)
  try:
    yield
  finally:
    for name in ops:
      registry.pop(name, None)


@functools.cache
def homes(kind: str) -> dict[str, str]:
  """Maps names of a kind to the modules below big_vision.pp that register them.

  Args:
    kind: str, the first part of the names, for example "preprocess_ops".

  Returns:
    dict of name -> module, from the source of all modules: importing them to
    find out could take long or fail. If two modules have a name, the first
    counts.
  """
  root = pathlib.Path(__file__).parent
  pattern = re.compile(rf"""\.register\(\s*["']{kind}\.([\w.]+)["']""")
  return {
    name: ".".join(path.relative_to(root).with_suffix("").parts)
    for path in sorted(root.rglob("*.py"), reverse=True)
    for name in pattern.findall(path.read_text(encoding="utf-8"))
  }
