"""Compares contrastive losses in a ring with the matrix of all pairs.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
    python -m big_vision.tools.benchmark_contrastive --batch 4096,32768

It measures loss and gradient with respect to the embeddings: temporary memory of
one device, as XLA plans it, and seconds. Results go to stdout as a table, with
`--json` also to a file.
"""

import json
import sys
from collections.abc import Sequence

from big_vision import command_line


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  parser = command_line.make_parser(
    "big_vision.tools.benchmark_contrastive", __doc__
  )
  add = parser.add_argument
  add("--batch", default="1024,4096,32768", help="Pairs, separated by commas.")
  add("--dim", type=int, default=128, help="Length of the embeddings.")
  add("--chunk", type=int, default=256, help="Columns at a time in the ring.")
  add(
    "--time_up_to", type=int, default=8192, help="Only compile larger batches."
  )
  add("--json", help="File for the figures.")
  args = parser.parse_args(argv)
  import jax

  from big_vision.benchmarks import contrastive

  rows = []
  print(
    f"{jax.device_count()} x {jax.devices()[0].device_kind}, dim {args.dim}"
  )
  print(f"{'loss':8} {'form':6} {'batch':>7} {'MiB/device':>11} {'ms':>9}")
  for batch in map(int, args.batch.split(",")):
    for kind in contrastive.PLAIN:
      for form in ("plain", "ring"):
        row = contrastive.measure(
          kind, form, batch, args.dim, args.chunk, args.time_up_to
        )
        rows.append(row)
        ms = "-" if row["seconds"] is None else f"{1e3 * row['seconds']:.1f}"
        print(
          f"{kind:8} {form:6} {batch:7} {row['mib']:11.1f} {ms:>9}", flush=True
        )
  if args.json:
    with open(args.json, "w", encoding="utf-8") as f:
      json.dump(rows, f, indent=2)
  return 0


if __name__ == "__main__":
  sys.exit(main())
