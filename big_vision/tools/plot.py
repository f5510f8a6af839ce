"""Plots curves of runs on an HTML page that does not need a network.

  python -m big_vision.tools.plot WORKDIR... [--out FILE] [--png FILE] [--x hours]

Reads `big_vision_metrics.txt`, `big_vision_initial_metrics.txt` (evaluations before
the first step; both together are the curves) and `config.json` of each workdir.
The page has the curves over steps, epochs, images or wall time (hover for values, log
scale, smoothing, search), the last values over the patch size of a FlexiViT, what
differs between the configs and the last values
of all metrics. `--png` draws the main curves with matplotlib. Needs neither
TensorFlow nor jax.
"""

import sys
from collections.abc import Sequence

from big_vision import command_line, fs
from big_vision.plots import curves, page, png, x_axes

# Names that notebooks know from here.
METRICS_FILE, INITIAL_FILE = curves.METRICS_FILE, curves.INITIAL_FILE
read_metrics, read_runs = curves.read_metrics, curves.read_runs
make_page, save_png = page.make, png.save


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the page.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  parser = command_line.make_parser("big_vision.tools.plot", __doc__)
  parser.add_argument(
    "workdirs", nargs="+", metavar="WORKDIR", help="Folders of runs."
  )
  parser.add_argument(
    "--out",
    help="The page (default: plot.html in the only workdir, or here).",
  )
  parser.add_argument("--png", help="Also draw the main curves to this file.")
  parser.add_argument(
    "--x",
    default="step",
    choices=x_axes.LABELS,
    help="The x axis, of the page at first; hours are wall time.",
  )
  args = parser.parse_args(argv)
  try:
    runs = curves.read_runs(args.workdirs)
    if args.png:
      png.save(runs, args.png, args.x)
      print(f"Wrote {args.png}")
  except (FileNotFoundError, ImportError) as e:
    if args.debug:
      raise
    print(f"Error: {e}", file=sys.stderr)
    return 1
  out = args.out
  if out is None:
    only = args.workdirs[0] if len(args.workdirs) == 1 else ""
    out = fs.join(only if fs.isdir(only) else "", "plot.html")
  with fs.open(out, "w") as f:
    f.write(page.make(runs, x=args.x))
  print(f"Wrote {out}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
