"""The registry of everything that strings in configs can call by name.

Names have a prefix for what they are: `preprocess_ops.`, `tokenizers.`,
`tokensets.`, `shardings.`. Strings are parsed, never evaluated: arguments are
Python literals. Needs no TensorFlow.
"""

import ast
import contextlib
import functools


def parse_name(string_to_parse):
  """Parses `name`, `a.b` or `name(1, key="x")`.

  Args:
    string_to_parse: str, one Python expression. Arguments are literals: numbers,
      strings, tuples, lists, dicts, sets, True, False, None.

  Returns:
    (name, args, kwargs): str, tuple, dict. A bare name is returned as it is.

  Raises:
    ValueError: it is neither a name nor the call of one, or an argument is not
      a literal.
    SyntaxError: it is not Python.
  """
  expr = ast.parse(string_to_parse, mode="eval").body
  if isinstance(expr, (ast.Name, ast.Attribute)):
    return string_to_parse, (), {}
  if not isinstance(expr, ast.Call):
    raise ValueError(
      f"Expected a name or a call, got {type(expr).__name__}: {string_to_parse}"
    )

  def dotted(node):
    if isinstance(node, ast.Name):
      return node.id
    if isinstance(node, ast.Attribute):
      return f"{dotted(node.value)}.{node.attr}"
    raise ValueError(
      f"Only a name can be called, not {type(node).__name__}: {string_to_parse}"
    )

  args = tuple(ast.literal_eval(a) for a in expr.args)
  kwargs = {kw.arg: ast.literal_eval(kw.value) for kw in expr.keywords}
  return dotted(expr.func), args, kwargs


def _parse(lookup_string):
  """`parse_name`, its ValueError naming what was looked up."""
  try:
    return parse_name(lookup_string)
  except ValueError as e:
    raise ValueError(f"Error parsing:\n{lookup_string}") from e


class Registry:
  """Name -> item, for the whole process."""

  _GLOBAL = {}

  @staticmethod
  def global_registry():
    """The dict behind the registry; all access goes through this method."""
    return Registry._GLOBAL

  @staticmethod
  def register(name, replace=False):
    """Decorator that adds a function or class.

    Args:
      name: str, with prefix.
      replace: bool, whether the name may exist already.

    Returns:
      The decorator, which returns what it gets.

    Raises:
      KeyError: the name exists (raised by the decorator).
    """

    def add(item):
      items = Registry.global_registry()
      if name in items and not replace:
        raise KeyError(f"{name} has already been registered.")
      items[name] = item
      return item

    return add

  @staticmethod
  def lookup(lookup_string, kwargs_extra=None):
    """Finds an item and binds the arguments of the string.

    Args:
      lookup_string: str, see `parse_name`.
      kwargs_extra: dict, overrides keyword arguments of the string.

    Returns:
      functools.partial of the item.

    Raises:
      KeyError: no such name.
      ValueError, SyntaxError: see `parse_name`.
    """
    name, args, kwargs = _parse(lookup_string)
    item = Registry.global_registry()[name]
    return functools.partial(item, *args, **(kwargs | (kwargs_extra or {})))

  @staticmethod
  def knows(lookup_string):
    """Whether the name in a string is registered."""
    return _parse(lookup_string)[0] in Registry.global_registry()


@contextlib.contextmanager
def temporary_ops(**kw):
  """Registers `preprocess_ops.<keyword>` factories within a `with` block.

  Args:
    **kw: name -> factory.

  Raises:
    AssertionError: one of them exists already.
  """
  for name in kw:
    full = f"preprocess_ops.{name}"
    assert full not in Registry.global_registry(), f"{full} exists already."
  try:
    for name, factory in kw.items():
      Registry.register(f"preprocess_ops.{name}")(factory)
    yield
  finally:
    for name in kw:
      Registry.global_registry().pop(f"preprocess_ops.{name}", None)
