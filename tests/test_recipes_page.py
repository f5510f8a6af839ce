"""docs/recipes.md holds what the planner finds."""

import itertools

import pytest

from docs import make_recipes


def rows():
  """(model, chips) -> line of the table."""
  lines = make_recipes.PAGE.read_text("utf-8").splitlines()
  table = [x for x in lines if x.startswith("|")][2:]
  return {tuple(x.strip("| ").split(" | ")[:2]): x for x in table}


def test_table():
  known = list(itertools.product(make_recipes.MODELS, make_recipes.CHIPS))
  found = rows()
  assert found and list(found) == [key for key in known if key in found]
  width = make_recipes.HEADER.splitlines()[0].count("|")
  assert all(line.count("|") == width for line in found.values())


@pytest.mark.slow
def test_a_row_is_computed_anew():
  key = ("S/16", "h100=8")
  assert make_recipes.row(*key, make_recipes.figures(*key)) == rows()[key]


def test_writing_keeps_the_text(tmp_path, monkeypatch):
  page = tmp_path / "recipes.md"
  page.write_text(make_recipes.PAGE.read_text("utf-8"), "utf-8")
  monkeypatch.setattr(make_recipes, "PAGE", page)
  found = dict(options=[], chips_needed=16)
  line = make_recipes.row("S/16", "v5e=8", found)
  make_recipes.write([line], "2030-01-02")
  text = page.read_text("utf-8")
  before = text.partition("Computed on")[0]
  assert before and "Times are lower bounds" in text.rpartition("\n\n")[2]
  table = [x for x in text.splitlines() if x.startswith("|")]
  assert table == [*make_recipes.HEADER.splitlines(), line]
  assert "Computed on 2030-01-02:\n\n|" in text
  make_recipes.write([line], "2030-01-02")
  assert page.read_text("utf-8") == text
