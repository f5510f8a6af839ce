"""docs/api.md says what the source says, and has what the other pages import."""

import ast
import importlib
import inspect
import pathlib
import re

import pytest

from docs import make_api

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs/api.md"


@pytest.fixture(scope="module")
def sections():
  """Name of a module -> what the page says of it."""
  parts = re.split(r"^###? (.+)$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
  return {
    t.strip("`"): x for t, x in zip(parts[1::2], parts[2::2], strict=True)
  }


def test_page_is_that_of_the_source():
  assert PAGE.read_text("utf-8") == make_api.page(), (
    "python docs/make_api.py writes docs/api.md anew."
  )


@pytest.mark.parametrize(
  "module", ["losses", "schedules", "trees", "optax", "checkpoints", "lookup"]
)
def test_arguments_are_those_of_the_functions(sections, module):
  imported = importlib.import_module(f"big_vision.{module}")
  text = re.sub(r"\n +(?=[^ -])", " ", sections[f"big_vision.{module}"])
  found = re.findall(r"^- `(\w+)\((.*?)\)`: (.+)$", text, re.MULTILINE)
  assert len(found) > 2
  for name, arguments, sentence in found:
    value = getattr(imported, name)
    assert inspect.getdoc(value).startswith(sentence)
    if not inspect.isclass(value):
      args = ast.parse(f"def f({arguments.replace('…', '0')}): 0").body[0].args
      args = [*args.args, *args.kwonlyargs, args.vararg, args.kwarg]
      names = {arg.arg for arg in args if arg}
      assert names == set(inspect.signature(value).parameters)


def test_what_configs_name(sections):
  by = lambda start: next(
    x.replace("\n  ", " ") for t, x in sections.items() if t.startswith(start)
  )
  assert re.search(r"^- `vit\(.*depth=12", by("Models by"), re.MULTILINE)
  assert "- `bv:folder(path, split=None, " in by("Sources by")
  assert "- `decode(channels=3, " in by("Ops of")
  assert "- `classification(loss_name, " in by("Evaluators by")
  assert "- `fsdp(axis" in by("Tactics")
  assert "- `big_vision.tools.predict`" in by("Tools")


def test_other_pages_import_what_is_public(sections):
  lines = []
  for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"),
                        re.MULTILINE | re.DOTALL)  # fmt: skip
    for block in blocks:
      lines += re.findall(r"^from (big_vision\S*) import (.+)$", block, re.M)
  assert len(lines) > 5
  for module, names in lines:
    if module == "big_vision.configs":
      continue  # Each is public, by its file.
    for name in names.split(", "):
      is_module = any(t.startswith(f"{module}.{name}") for t in sections)
      assert is_module or f"- `{name}" in sections.get(module, ""), (
        f"from {module} import {name}: add it to docs/make_api.py"
      )
