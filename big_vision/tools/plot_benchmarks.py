"""Draws figures of benchmarks over commits.

  python -m big_vision.tools.plot_benchmarks [FILE] [--out FILE.png]
    [--figures PATTERN]

Reads what `tools.benchmark --record` has appended to a file. Each figure has a
panel, ratios first; each machine with its settings has a color. The line goes through the
median of each commit; a commit with * had files that differed. Needs neither jax
nor TensorFlow.
"""

import re
import sys
from collections.abc import Sequence

from big_vision import command_line
from big_vision.benchmarks import record
from big_vision.plots import benchmarks


def main(argv: Sequence[str] | None = None) -> int:
  """Draws the picture.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  parser = command_line.make_parser("big_vision.tools.plot_benchmarks", __doc__)
  parser.add_argument(
    "file", nargs="?", default=record.FILE, metavar="FILE", help="The rows."
  )
  parser.add_argument("--out", default="benchmarks.png", help="The picture.")
  parser.add_argument(
    "--figures",
    default="",
    metavar="PATTERN",
    help="Only those whose name this is found in, for example relative_to.",
  )
  args = parser.parse_args(argv)
  try:
    re.compile(args.figures)
  except re.error as e:
    parser.error(f"--figures {args.figures!r} is not a regular expression: {e}")
  try:
    benchmarks.save(record.read(args.file), args.out, args.figures)
  except (OSError, ImportError, ValueError) as e:
    if args.debug:
      raise
    print(f"Error: {e}", file=sys.stderr)
    return 1
  print(f"Wrote {args.out}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
