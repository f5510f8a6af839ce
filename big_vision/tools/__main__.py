"""Lists the commands of this folder, with a line each.

python -m big_vision.tools
"""

import ast
import pathlib
import sys
from collections.abc import Sequence

from big_vision import command_line


def tools() -> dict[str, str]:
  """Finds the commands; reads, does not import them.

  Returns:
    Name after `python -m` -> first line of its docstring.
  """
  here = pathlib.Path(__file__).parent
  found = {}
  for path in [*here.glob("*.py"), *here.glob("*/__main__.py")]:
    name = path.stem if path.parent == here else path.parent.name
    if not name.startswith("_"):
      doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
      found[f"big_vision.tools.{name}"] = (doc or "").partition("\n")[0]
  return dict(sorted(found.items()))


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the list.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  command_line.make_parser("big_vision.tools", __doc__).parse_args(argv)
  found = tools()
  width = max(map(len, found))
  for name, line in found.items():
    print(f"python -m {name:<{width}}  {line}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
