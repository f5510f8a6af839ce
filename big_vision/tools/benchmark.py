"""Measures the speed of training steps, input pipeline and checkpoints.

  python -m big_vision.tools.benchmark [--parts step,input,checkpoint]
    [--model vit --variant S/16 --res 224 --batch 8 --dtype float32]
    [--pp STRING] [--json FILE] [--record [FILE]]
  python -m big_vision.tools.benchmark --parts source [--examples 20000]

step        seconds per step and images/s of the model on synthetic data, next
            to a plain flax step of the same ViT; time to the first step.
            --against timm: next to the same model, optimizer and precision in
            PyTorch, for vit, mlp_mixer, bit_paper and proj.image_text.two_towers
input       images/s of a preprocessing string on JPEGs of 500x375 pixels; decoding,
            cropping and flipping, in turns with decoding alone, with images that
            are stored already resized and, where installed, with the loaders of
            torch (with torchvision) and grain
source      images/s, memory and time to resume for kinds of TFDS files
evaluation  seconds per batch of an evaluator, next to its predict function alone
checkpoint  how long the loop waits for a save, and how long saving and loading
            take, also relative to a plain file as large on the same disk

--check compares step and input with recorded ratios to something plain in the same
process (`benchmarks/check.py`), and fails if one is 15% slower; a minute.
--record appends the figures to a file, one line with date, commit and machine;
`tools.plot_benchmarks` draws it.

The parts `step` and `checkpoint` need no TensorFlow, `step` no orbax either.
docs/benchmarks.md has the method and figures.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from big_vision import command_line, malloc
from big_vision.benchmarks import record
from big_vision.benchmarks.measure import peak_memory, timed_rounds

PARTS = ("step", "input", "checkpoint", "source", "evaluation")
DEFAULT_PARTS = ("step", "input", "checkpoint")
DEFAULT_PP = (
  "decode_jpeg_and_inception_crop({res})|flip_lr|value_range(-1, 1)"
  '|onehot({classes}, key="label", key_result="labels")'
  '|keep("image", "labels")'
)


def peak_flops(device_kind: str) -> float | None:
  """Returns the peak of a device, in FLOP/s of dense bfloat16 products.

  Args:
    device_kind: `jax.Device.device_kind`.

  Returns:
    The peak, or None if the kind is not known.
  """
  from big_vision.planning import chips

  chip = chips.of_device(device_kind)
  return chip.flops if chip else None


def benchmark_step(args: argparse.Namespace) -> dict[str, Any]:
  """Times the training step.

  Args:
    args: the arguments of the command line.

  Returns:
    Dict of figures.
  """
  import jax

  from big_vision.benchmarks import steps

  args.devices = args.devices or len(jax.devices())
  if args.batch % args.devices:
    raise ValueError(
      f"--batch={args.batch} is not divisible by {args.devices} devices."
    )
  trainer, model = steps.make_trainer(args)
  trainer.first_step()
  memory = peak_memory()  # Before the reference takes its part.
  fns, num_params = {"big_vision": trainer.run}, {}
  if args.model == "vit" and args.reference:
    fns["plain_flax"], num_params["plain_flax"] = steps.make_reference(
      model, trainer.batch
    )
  if args.against:
    from big_vision.benchmarks import timm_steps

    fns["timm"], num_params["timm"] = timm_steps.make(
      args.model, model, trainer.batch, args.dtype
    )
  seconds = timed_rounds(fns, args.steps, args.rounds)

  best = seconds["big_vision"]["best"]
  result = {
    "model": f"{args.model} {args.variant}",
    "resolution": args.res,
    "batch": args.batch,
    "devices": args.devices,
    "dtype": args.dtype,
    "num_params": trainer.num_params,
    "seconds_to_first_step": trainer.seconds_to_first_step,
    "seconds_per_step": seconds,
    "images_per_second": args.batch / best,
    "peak_memory": memory,
  }
  for name, num in num_params.items():
    result[f"num_params_{name}"] = num
    result[f"time_relative_to_{name}"] = best / seconds[name]["best"]
  if trainer.flops and trainer.flops > 0:
    result["flops_per_step"] = trainer.flops
    result["flops_per_second"] = trainer.flops / best
    peak = peak_flops(jax.devices()[0].device_kind)
    if peak:
      result["share_of_peak_bfloat16"] = (
        trainer.flops / best / (peak * args.devices)
      )
  return result


def benchmark_checkpoint(args: argparse.Namespace) -> dict[str, Any]:
  """Times saves of a training state.

  Args:
    args: the arguments of the command line.

  Returns:
    Dict of figures.
  """
  import jax

  from big_vision.benchmarks import steps, storage

  trainer, _ = steps.make_trainer(args)
  with tempfile.TemporaryDirectory(dir=args.dir) as folder:
    seconds = storage.measure(trainer.state, folder, args.rounds)
  return {
    "model": f"{args.model} {args.variant}",
    "bytes": sum(x.nbytes for x in jax.tree.leaves(trainer.state)),
    "bytes_on_disk": int(seconds["bytes"][-1]),
    "seconds_blocked": statistics.median(seconds["blocked"]),
    "seconds_until_on_disk": statistics.median(seconds["saved"]),
    "seconds_to_load": statistics.median(seconds["loaded"]),
    # Of files as large: the least of each, since other load only adds.
    "save_relative_to_disk": min(seconds["saved"]) / min(seconds["written"]),
    "load_relative_to_disk": min(seconds["loaded"]) / min(seconds["read"]),
    "megabytes_per_second_of_disk": {
      "write": seconds["bytes"][-1] / 1e6 / min(seconds["written"]),
      "read": seconds["bytes"][-1] / 1e6 / min(seconds["read"]),
    },
    "peak_memory": peak_memory(),
  }


def benchmark_evaluation(args: argparse.Namespace) -> dict[str, Any]:
  """Times evaluation beside inference alone.

  Args:
    args: the arguments of the command line.

  Returns:
    Dict of figures.
  """
  from big_vision.benchmarks import evaluation

  return {
    "model": f"{args.model} {args.variant}",
    "resolution": args.res,
    "batch": args.batch,
    "dtype": args.dtype,
    **evaluation.measure(args),
  }


def format_table(results: dict[str, Any]) -> str:
  """Formats results as lines of text, one figure per line.

  Args:
    results: part -> dict of figures; their names contain the units.

  Returns:
    The text.
  """

  def rows(tree, prefix=""):
    for key, value in tree.items():
      if isinstance(value, dict):
        yield from rows(value, f"{prefix}{key}/")
      else:
        if isinstance(value, float) and abs(value) < 1000:
          text = f"{value:.4g}"
        else:
          text = value if isinstance(value, str) else f"{value:,.0f}"
        yield f"{prefix}{key}", text

  lines = []
  for part, tree in results.items():
    table = list(rows(tree))
    width = max(len(key) for key, _ in table)
    lines += [part] + [f"  {key:<{width}}  {text}" for key, text in table]
  return "\n".join(lines)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses the command line; see the top of the file.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Namespace.
  """
  parser = command_line.make_parser("big_vision.tools.benchmark", __doc__)
  add = parser.add_argument
  add("--parts", default=",".join(DEFAULT_PARTS), help="Separated by commas.")
  add("--model", default="vit", help="As config.model_name.")
  add("--variant", default="S/16", help="As config.model.variant.")
  add("--model_kw", default="{}", help='JSON, for example {"scan": true}.')
  add("--res", type=int, default=224, help="Side of the images in pixels.")
  add("--batch", type=int, default=8, help="Images per step.")
  add("--devices", type=int, help="How many (default: all).")
  add("--classes", type=int, default=1000, help="Number of classes.")
  add("--dtype", default="float32", help="As config.precision: or bfloat16.")
  add("--steps", type=int, default=5, help="Per round.")
  add("--rounds", type=int, default=3, help="The best one counts.")
  add(
    "--reference",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="Also measure a plain flax step of the same ViT.",
  )
  add(
    "--keep_memory",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="Keep what a step frees, as runs with BV_KEEP_MEMORY=1 do.",
  )
  add("--against", choices=["timm"], help="Also measure a step of PyTorch.")
  add("--pp", default=DEFAULT_PP, help="{res} and {classes} are filled in.")
  add("--images", type=int, default=256, help="Number of JPEGs.")
  add("--examples", type=int, default=20_000, help="Size of the dataset.")
  add("--dir", help="For what is written (default: the temporary folder).")
  add("--json", help="Also write the figures to this file.")
  add("--record", nargs="?", const=record.FILE, metavar="FILE",
      help=f"Also append them to this file, {record.FILE} if none is named.")  # fmt: skip
  add("--check", action="store_true", help="Only compare with recorded ratios.")
  args = parser.parse_args(argv)
  args.parts = args.parts.split(",")
  for part in args.parts:
    if part not in PARTS:
      parser.error(f"--parts: {part!r} is none of {', '.join(PARTS)}")
  for package in ("torch", "timm") if args.against else ():
    if importlib.util.find_spec(package) is None:
      parser.error(f"--against timm needs {package}: pip install torch timm")
  return args


def _input_part(name):
  """Makes a part that needs TensorFlow, which is imported when it runs."""

  def run(args):
    from big_vision.benchmarks import inputs

    return getattr(inputs, name)(args)

  return run


_BENCHMARKS = {
  "step": benchmark_step,
  "checkpoint": benchmark_checkpoint,
  "input": _input_part("benchmark_input"),
  "source": _input_part("benchmark_source"),
  "evaluation": benchmark_evaluation,
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Runs the parts and prints a table.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Dict of part -> figures.
  """
  args = parse_args(argv)
  if args.keep_memory and not args.check:
    malloc.keep()
  if args.check:
    from big_vision.benchmarks import check

    if not check.check():
      raise SystemExit(1)
    return {}
  results = {}
  for part in args.parts:
    print(f"Measuring {part} ...", file=sys.stderr)
    results[part] = _BENCHMARKS[part](args)
  if args.record:
    record.append(args.record, record.make_row(results))
  results = {"machine": record.machine() | record.versions(), **results}
  print(format_table(results))
  if args.json:
    with open(args.json, "w", encoding="utf-8") as f:
      json.dump(results, f, indent=2)
  return results


if __name__ == "__main__":
  main()
