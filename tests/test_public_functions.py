"""Public functions have types and describe their arguments, in plain words."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / "big_vision").rglob("*.py"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TEXTS += sorted((ROOT / "docs").glob("*.md"))

# Stems of words in British spelling.
BRITISH = re.compile(
  r"\b(\w*colour|centre|behaviour|favour|grey\b|licence|neighbour|metres?\b"
  r"|labelled|labelling|modelled|modelling|catalogue|artefact|analyse"
  r"|\w*(?:initial|serial|normal|optim|regular|general|token|parametr|quant"
  r"|summar|visual|random|penal|recogn|organ|real)is(?:e[ds]?|ing|ation)\b)",
  re.IGNORECASE,
)
OTHERS = re.compile(
  r"\bcan not\b|(?<!there )\b(?:is|are) no\b(?! longer)", re.IGNORECASE
)


def functions(body, method=False):
  """Yields (function, whether it is a method) of a module or a class."""
  for node in body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
      yield from functions(node.body, method=True)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      overload = any(ast.unparse(d) == "overload" for d in node.decorator_list)
      if not node.name.startswith("_") and not overload:
        yield node, method


def parameters(function, method):
  """The parameters that a caller gives by position or name; `*args`, `**kw`."""
  args = function.args
  named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
  if method and named and named[0].arg in ("self", "cls"):
    named = named[1:]
  return named, [a for a in (args.vararg, args.kwarg) if a]


def is_annotated(function, method):
  named, _ = parameters(function, method)
  return function.returns is not None and all(a.annotation for a in named)


def public_functions():
  """(path and line, function, whether it is a method) of the package."""
  for path in FILES:
    for function, method in functions(ast.parse(path.read_text()).body):
      where = f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
      yield where, function, method


def check_share(share_of, least):
  """Fails with the exceptions if too few of (where, ok) pairs are ok."""
  exceptions = [where for where, ok in share_of if not ok]
  share = 1 - len(exceptions) / len(share_of)
  assert len(share_of) > 500
  assert share >= least, f"{share:.1%} only:\n" + "\n".join(exceptions)


def test_annotations():
  check_share(
    [
      (where, is_annotated(f, method))
      for where, f, method in public_functions()
    ],
    least=0.8,
  )


def test_args_sections():
  takes_any = [
    (where, f) for where, f, m in public_functions() if any(parameters(f, m))
  ]
  section = re.compile(r"^ *Args:", re.MULTILINE)
  check_share(
    [
      (where, section.search(ast.get_docstring(f) or "") is not None)
      for where, f in takes_any
    ],
    least=0.8,
  )


def docstrings(path):
  """(line, docstring) of a module, its classes and all its functions."""
  kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, kinds) and (text := ast.get_docstring(node)):
      yield getattr(node, "lineno", 1), text


def without_code(text):
  """Removes text between backticks: config keys and the like."""
  return re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)


def words_to_replace(text):
  text = without_code(text)
  return [m.group() for r in (BRITISH, OTHERS) for m in r.finditer(text)]


@pytest.mark.parametrize(
  "text, found",
  [
    ("It can not be initialised.", ["initialised", "can not"]),
    ("This is no list. There is no list. It is no longer a list.", ["is no"]),
    (
      "The colours of neighbours, 2 metres away",
      ["colour", "neighbour", "metres"],
    ),
    (
      "`centre_decay` cannot be normalized; a parameter of a licensed model",
      [],
    ),
    ("Random noise, regular grids, normal values, metrics, analysis", []),
  ],
)
def test_words_to_replace(text, found):
  assert words_to_replace(text) == found


def test_words_in_docstrings():
  bad = [
    f"{path.relative_to(ROOT)}:{line} {words}"
    for path in FILES
    for line, text in docstrings(path)
    if (words := words_to_replace(text))
  ]
  assert not bad, "\n".join(bad)


def test_words_in_pages():
  bad = [
    f"{path.relative_to(ROOT)} {words}"
    for path in TEXTS
    if (words := words_to_replace(path.read_text()))
  ]
  assert not bad, "\n".join(bad)


def test_docstrings_begin_with_what_a_function_does():
  bad = [
    f"{path.relative_to(ROOT)}:{line} {text.splitlines()[0]}"
    for path in FILES
    for line, text in docstrings(path)
    if text.startswith("What ")
  ]
  assert not bad, "\n".join(bad)
