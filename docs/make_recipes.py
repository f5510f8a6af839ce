"""Writes the table of docs/recipes.md: which mesh for which model on which chips.

  python docs/make_recipes.py

Each row is what `python -m big_vision.tools.plan --suggest` finds; it takes ten
minutes.
"""

import datetime
import pathlib
from typing import Any

from big_vision import train
from big_vision.configs import vit_i1k
from big_vision.planning import suggest, suggest_text
from big_vision.planning.report import GIB
from big_vision.training import flat_config

PAGE = pathlib.Path(__file__).parent / "recipes.md"
MODELS = ("S/16", "B/16", "L/16", "So400m/14", "g/14")
CHIPS = ("h100=1", "h100=8", "v5e=16", "v5p=256")

START = "| model | chips | mesh |"
HEADER = (
  START + " parameters | computed again | micro-batches | examples at a time "
  "| GiB needed | ms per step | MFU | limit |\n" + "|---" * 11 + "|"
)


def figures(model: str, text: str) -> dict[str, Any]:
  """Plans one row.

  Args:
    model: variant of `models/vit.py`.
    text: value of `--chips`.

  Returns:
    dict, see `suggest.figures`.
  """
  config = vit_i1k.get_config(f"variant={model},aug=none")
  config.model.dtype_mm = "bfloat16"
  chip, count = suggest.parse_chips(text)
  config = flat_config.modern(config)
  return suggest.figures(train.build, config, (224, 224), chip, count)


def row(model: str, text: str, found: dict[str, Any]) -> str:
  """Formats one row.

  Args:
    model: as for `figures`.
    text: as for `figures`.
    found: what `figures` returns.

  Returns:
    A line of a table in Markdown.
  """
  if not found["options"]:
    needs = found["chips_needed"] or "-"
    cells = ["does not fit", f"fits on {needs} chips", *"-" * 7]
  else:
    best = found["options"][0]
    cells = [
      ", ".join(f"{axis}={n}" for axis, n in best["mesh"].items()),
      best["layout"],
      best["computed_again"],
      best["micro_batches"],
      f"{best['examples_per_device']:g}",
      f"{best['peak_bytes'] / GIB:.1f}",
      f"{1e3 * best['step_seconds']:.4g}",
      f"{best['mfu']:.0%}",
      suggest_text.limit(best),
    ]
  return f"| {' | '.join(map(str, [model, text, *cells]))} |"


def write(rows: list[str], date: str) -> None:
  """Puts rows into the page, in place of those that it has.

  Args:
    rows: lines of the table.
    date: of today.
  """
  before, _, rest = PAGE.read_text("utf-8").partition("Computed on ")
  after = rest.partition("\n\n")[2].partition("\n\n")[2]
  table = "\n".join([HEADER, *rows])
  PAGE.write_text(f"{before}Computed on {date}:\n\n{table}\n\n{after}", "utf-8")


def main() -> None:
  """Plans all rows and writes the page."""
  rows = []
  for model in MODELS:
    for text in CHIPS:
      rows.append(row(model, text, figures(model, text)))
      print(rows[-1], flush=True)
  write(rows, datetime.date.today().isoformat())


if __name__ == "__main__":
  main()
