"""Measures how fast ViTs train on the first GPU, in ten minutes at most.

  python -m big_vision.tools.benchmark_gpu [--json FILE] [--minutes 9.5]
    [--parts sizes,attention,remat,flags] [--sizes S/16,B/16,L/16,So400m/14]

sizes      per size: the trainer's update step in bfloat16 with a batch on the
           device, the same step fed with batches of uint8 from the host, and the
           forward pass
attention  forward and backward, by length and size of a head: that of models,
           flax's, XLA's, cuDNN's, and cuDNN's with padding
remat      a step with layers apart and with `scan`, per policy of recomputation
flags      a short model with options of XLA that runs do not have, see
           big_vision/xla_flags.py

Each row is printed, and written with --json, as soon as it is measured. What no
longer fits into the time is left out, and said. Needs neither TensorFlow nor data.
docs/benchmarks.md says what the figures are.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from big_vision import command_line

PARTS = ("sizes", "attention", "remat", "flags")
SIZES = ("S/16", "B/16", "L/16", "So400m/14")
# Images: tens of thousands of tokens, which by `tools.plan` fit into 80 GB. Where
# they do not, half as many.
_BATCHES = {"S/16": 512, "B/16": 256, "L/16": 128, "So400m/14": 64}
# Images/s on one H100 or H200 that are the goal.
GOALS = {"S/16": 9000, "B/16": 3300, "L/16": 1100}
# Seconds that a row may take, as long as none of its kind has been measured.
_GUESSES = {
  "size": 75.0,
  "more": 20.0,
  "attention": 8.0,
  "remat": 45.0,
  "flags": 30.0,
}
# Compiled in a third of the time, with the same kinds of operations.
_SHORT = {"depth": 4}


class Rows:
  """Measures rows while there is time, prints and keeps them.

  Attributes:
    results: dict of `machine` and `rows`.
  """

  def __init__(
    self,
    minutes: float,
    path: str | None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      minutes: for all rows.
      path: file of the results; None for none.
      clock: seconds.
    """
    self._clock, self._path = clock, path
    self._end = clock() + 60 * minutes
    self._took = dict(_GUESSES)
    self.results: dict[str, Any] = {"machine": {}, "rows": []}

  def left(self) -> float:
    """Returns the seconds that are left."""
    return self._end - self._clock()

  def machine(self, facts: dict[str, Any]) -> None:
    """Prints and keeps what the figures depend on."""
    self.results["machine"] = facts
    print("  ".join(f"{k}: {v}" for k, v in facts.items()), flush=True)
    self._write()

  def fits(self, kind: str, what: str) -> bool:
    """Tells whether there is time for another row; says it if not."""
    need = self._took[kind]
    if self.left() >= need:
      return True
    text = (
      f"left out: needs about {need:.0f} s, {max(self.left(), 0):.0f} s left"
    )
    self.add(what, {"left_out": text})
    return False

  def measure(
    self, kind: str, what: str, fn: Callable[[], dict[str, Any]]
  ) -> dict[str, Any] | None:
    """Measures a row if there is time; an error becomes its text.

    Args:
      kind: of the row, of which the last one tells how long it takes.
      what: its name.
      fn: returns the figures.

    Returns:
      The figures, or None.
    """
    if not self.fits(kind, what):
      return None
    start = self._clock()
    try:
      row = fn()
    except Exception as e:  # The other rows are worth having.
      lines = str(e).strip().splitlines() or [type(e).__name__]
      self.add(what, {"left_out": f"{type(e).__name__}: {lines[0][:300]}"})
      return None
    self._took[kind] = self._clock() - start
    self.add(what, row)
    return row

  def add(self, what: str, row: dict[str, Any]) -> None:
    """Prints and keeps a row."""
    self.results["rows"].append({"what": what, **row})
    print(f"{what:<44} {format_row(row)}", flush=True)
    self._write()

  def _write(self):
    """Writes all so far; the file is never a part of it."""
    if self._path:
      with open(f"{self._path}.tmp", "w", encoding="utf-8") as f:
        json.dump(self.results, f, indent=2)
      os.replace(f"{self._path}.tmp", self._path)


_FORMATS = {
  "batch": "batch {}",
  "milliseconds": "{:.2f} ms",
  "images_per_second": "{:,.0f} img/s",
  "microseconds_per_image": "{:.2f} µs/image",
  "mfu": "MFU {:.1%}",
  "tflops": "{:.0f} TFLOP/s",
  "temporary_gib": "{:.2f} GiB",
  "seconds_to_first_step": "first step {:.0f} s",
  "relative_time": "x {:.3f} of the time",
  "goal": "goal {:,} img/s",
  "left_out": "{}",
}


def format_row(row: dict[str, Any]) -> str:
  """Formats the figures of a row for people."""
  shown = ((form, row.get(key)) for key, form in _FORMATS.items())
  return "  ".join(form.format(x) for form, x in shown if x is not None)


def _sizes(args: argparse.Namespace, rows: Rows) -> None:
  from big_vision.benchmarks import gpu

  for variant in args.sizes:
    what = f"{variant} at {args.res}"
    size = None

    def step(variant=variant):
      nonlocal size
      size = gpu.Size(variant, _batch(args, variant), **_kw(args, rows))
      found = size.step()
      if args.profile:
        _trace(size, f"{args.profile}/{variant.replace('/', '_')}")
      is_goal = variant in GOALS and args.res == 224
      return found | ({"goal": GOALS[variant]} if is_goal else {})

    if rows.measure("size", f"{what}, step", step) and size:
      rows.measure("more", f"{what}, step fed with uint8", size.fed)
      rows.measure("more", f"{what}, forward", size.forward)


def _trace(size: Any, folder: str) -> None:
  """Writes a trace of some steps."""
  import jax

  with jax.profiler.trace(folder):
    size.trainer.run(3)


def _attention(args: argparse.Namespace, rows: Rows) -> None:
  from big_vision.benchmarks import gpu

  for row in gpu.attention_rows(args.lengths, args.head_sizes):
    padded = row["padded"] != row["length"]
    what = f"attention {row['length']} x {row['head_size']}, {row['kind']}"
    what += f" padded to {row['padded']}" if padded else ""
    if why := gpu.why_not(row["kind"]):
      rows.add(what, {"left_out": f"left out: {why}"})
      continue
    measure = lambda row=row: gpu.attention(tokens=args.tokens, **row)
    rows.measure("attention", what, measure)


def _remat(args: argparse.Namespace, rows: Rows) -> None:
  from big_vision.benchmarks import gpu

  variant, first = _middle(args), None
  for name, model_kw in gpu.RECOMPUTATION.items():

    def step(model_kw=model_kw):
      nonlocal first
      kw = _kw(args, rows) | {"model_kw": model_kw}
      size = gpu.Size(variant, _batch(args, variant), **kw)
      first = first or size
      size.flops = first.flops * size.args.batch / first.args.batch
      return size.step()

    rows.measure("remat", f"{variant}, {name}", step)
    if first:
      first.trainer = None  # Frees the memory for the next one.


def _flags(args: argparse.Namespace, rows: Rows) -> None:
  from big_vision import xla_flags
  from big_vision.benchmarks import gpu
  from big_vision.models import attention

  variant, usual = _middle(args), None
  cudnn = 'config.attention = "cudnn"'
  for name, options in {"": {}, cudnn: {}, **xla_flags.TRIALS}.items():
    what = f"{variant}, {_SHORT['depth']} layers, {name or 'as runs have it'}"
    known = xla_flags.supported(options)
    if known != options:
      rows.add(what, {"left_out": "left out: unknown here, or in XLA_FLAGS"})
      continue
    kernel = "cudnn" if name == cudnn else "xla"
    if why := gpu.why_not(kernel):
      rows.add(what, {"left_out": f"left out: {why}"})
      continue

    def step(options=options, usual=usual, kernel=kernel):
      kw = _kw(args, rows) | {"model_kw": json.dumps(_SHORT)}
      with attention.context({attention.KEY: kernel}):
        size = gpu.Size(
          variant, _batch(args, variant), options=options or None, **kw
        )
      found = size.step()
      if usual:
        found["relative_time"] = _per_image(found) / usual
      return found

    found = rows.measure("flags", what, step)
    if found and not name:
      usual = _per_image(found)


def _per_image(row):
  return row["milliseconds"] / row["batch"]


def _middle(args):
  """The size that variations are measured with."""
  return "B/16" if "B/16" in args.sizes else args.sizes[0]


def _batch(args, variant):
  return args.batch or _BATCHES.get(variant, 64)


def _kw(args, rows):
  return dict(
    res=args.res, classes=args.classes, dtype=args.dtype, time_left=rows.left
  )


_MEASURE = {
  "sizes": _sizes,
  "attention": _attention,
  "remat": _remat,
  "flags": _flags,
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses the command line; see the top of the file.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Namespace.
  """
  parser = command_line.make_parser("big_vision.tools.benchmark_gpu", __doc__)
  add = parser.add_argument
  names = lambda text: text.split(",")
  numbers = lambda text: [int(x) for x in text.split(",")]
  add("--parts", type=names, default=",".join(PARTS), help="In this order.")
  add("--sizes", type=names, default=",".join(SIZES), help="Variants of ViT.")
  add("--minutes", type=float, default=9.5, help="After them no row begins.")
  add("--batch", type=int, help="Images (default: by size).")
  add("--res", type=int, default=224, help="Side of the images in pixels.")
  add("--classes", type=int, default=1000, help="Number of classes.")
  add("--dtype", default="bfloat16", help="As config.precision.")
  add("--lengths", type=numbers, default="196,197,256,576,1024", help="Tokens.")
  add("--head_sizes", type=numbers, default="64,72", help="Of attention.")
  add("--tokens", type=int, default=50_000, help="Of attention, in a batch.")
  add("--profile", help="Folder for a trace of some steps of each size.")
  add("--json", help="Also write the figures to this file.")
  args = parser.parse_args(argv)
  for part in args.parts:
    if part not in PARTS:
      parser.error(f"--parts: {part!r} is none of {', '.join(PARTS)}")
  return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Measures and prints rows.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Dict of `machine` and `rows`, a list of dicts.
  """
  args = parse_args(argv)
  rows = Rows(args.minutes, args.json)
  # Nothing else is to use the card.
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
  from big_vision.benchmarks import gpu

  rows.machine(gpu.describe())
  for part in args.parts:
    _MEASURE[part](args, rows)
  print(f"{rows.left():.0f} s left.", flush=True)
  return rows.results


if __name__ == "__main__":
  main()
