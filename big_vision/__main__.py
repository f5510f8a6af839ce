"""Says which commands there are.

python -m big_vision
"""

import sys
from collections.abc import Sequence

import big_vision
from big_vision import command_line

_TEXT = """\
big_vision {version}

{start} big_vision.train --config configs/quickstart.py --workdir DIR
{start} big_vision.train --help    flags, and the list of configs
{start} big_vision.tools           tools: predict, plot, sweep and others"""


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the list.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  command_line.make_parser("big_vision", __doc__).parse_args(argv)
  start = command_line.start()
  print(_TEXT.format(version=big_vision.__version__, start=start))
  return 0


if __name__ == "__main__":
  sys.exit(main())
