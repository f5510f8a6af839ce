"""The table of docs/datasets.md says the same of the datasets as their builders."""

import pathlib
import re

import pytest

from big_vision.datasets import building
from big_vision.lookup import ConfigError

pytestmark = pytest.mark.tf

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "datasets.md"


def rows():
  """Dataset -> its configs, splits, how to get files, license and homepage."""
  text = PAGE.read_text(encoding="utf-8")
  section = text.split("## Datasets of PaliGemma's transfers\n")[1]
  lines = re.findall(r"^\| (`.*) \|$", section.split("\n## ")[0], re.MULTILINE)
  found = {}
  for line in lines[1:] if lines[0].startswith("`name`") else lines:
    names, *cells = line.split(" | ")
    names = [name.partition("/") for name in code(names)]
    found[names[0][0]] = [c for _, _, c in names if c], *cells
  return found


def code(cell):
  return re.findall("`(.*?)`", cell)


ROWS = rows()


def test_all_datasets_are_listed():
  assert list(ROWS) == sorted(building.MODULES)


@pytest.mark.parametrize("name", ROWS)
def test_row(tmp_path, name):
  configs, splits, files, license_, homepage = ROWS[name]
  cls = building.builder_class(name)
  assert configs == [c.name for c in cls.BUILDER_CONFIGS]
  assert (license_, homepage) == (cls.LICENSE, f"<{cls.HOMEPAGE}>")
  builder = cls(source=str(tmp_path), data_dir=str(tmp_path))
  by_hand = any(d.manual for d in builder.downloads())
  assert files == ("by hand" if by_hand else "`--download`")
  try:
    actual = set(builder.splits())
  except ConfigError:  # It opens files for that.
    return
  if "<" not in splits:
    assert set(code(splits)) == actual
  patterns = [re.sub("<.*?>", r"\\w+", s) for s in code(splits)]
  for split in actual:
    assert any(re.fullmatch(p, split) for p in patterns), split
