"""Exports a trained model, for programs that know nothing of this package.

  python -m big_vision.tools.export --from WORKDIR --to FOLDER --format onnx

Formats are stablehlo (of JAX), onnx, and savedmodel (of TensorFlow). FOLDER gets the
forward function with its parameters, and export.json: inputs, outputs, class names,
preprocessing, versions. `big_vision.exported.load(FOLDER)` runs it; so do jax.export,
onnxruntime and TensorFlow by themselves.

Inputs are preprocessed pictures, or with --preprocess uint8 pictures of one size.
The size of a batch is free. Outputs are logits, probabilities and features of a
classifier, values of a model of numbers, embeddings of images and texts (--tower).
docs/export.md has more.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from big_vision import command_line

_FORMATS = ("stablehlo", "onnx", "savedmodel")
_PLATFORMS = "cpu,cuda,tpu"


def parser() -> argparse.ArgumentParser:
  """Makes the parser of the command line."""
  out = command_line.make_parser(
    "big_vision.tools.export",
    __doc__,
    usage="%(prog)s --from WORKDIR --to FOLDER --format FORMAT [OPTIONS]",
  )
  add = out.add_argument
  add(
    "--from",
    dest="source",
    required=True,
    metavar="WORKDIR",
    help="of a run, or anything else that pretrained.load takes",
  )
  add("--to", required=True, metavar="FOLDER", help="a new one")
  add("--format", required=True, choices=_FORMATS, help="see above")
  add("--init", help="another checkpoint than the last one of the workdir")
  add(
    "--params",
    choices=("params", "ema"),
    default="params",
    help="ema: the average of the parameters, of runs with config.ema_decay",
  )
  add(
    "--quantize",
    choices=("int8",),
    help="store kernels as int8, a quarter of the size; the accuracy before and "
    "after is measured with the data of the run, if it is there",
  )
  add(
    "--images",
    metavar="FOLDER",
    help="of pictures, to measure it with instead; sub-folders are classes",
  )
  add(
    "--preprocess",
    action="store_true",
    help="include the preprocessing: inputs are uint8 pictures",
  )
  add(
    "--input_size", "--input-size",
    metavar="HxW",
    help="of these pictures, such as 480x640, or 512 (default: that of the first "
    "op that resizes)",
  )  # fmt: skip
  add(
    "--batch_size", "--batch-size",
    default="free",
    help="free, or a number",
  )  # fmt: skip
  add(
    "--tower",
    choices=("both", "image", "text"),
    default="both",
    help="of a model of images and texts",
  )
  add(
    "--platforms",
    default=_PLATFORMS,
    help="that stablehlo and savedmodel are compiled for",
  )
  add(
    "--external_data", "--external-data",
    action="store_true",
    help="onnx: weights in a file of their own, as always above 2 GB",
  )  # fmt: skip
  add("--pp", help="preprocessing (default: that of the run's evaluations)")
  add(
    "--pp_modules",
    help="modules of your own that the config of the run may import, with "
    "commas between them",
  )
  return out


def run(args: argparse.Namespace) -> int:
  """Does what the command line asks for.

  Args:
    args: of `parser`.

  Returns:
    Exit status.

  Raises:
    ValueError: the model cannot be loaded or exported.
  """
  batch_size = _batch_size(args.batch_size)
  input_size = _input_size(args.input_size)
  if input_size and not args.preprocess:
    raise ValueError("--input_size is for --preprocess: give that, too.")
  if args.images and not args.quantize:
    raise ValueError("--images is for --quantize: give that, too.")
  if args.images and not os.path.isdir(args.images):
    raise ValueError(f"--images={args.images} is not a folder.")
  if args.external_data and args.format != "onnx":
    raise ValueError("--external_data is for --format=onnx.")
  options: dict[str, Any] = {}
  if args.format == "onnx":
    options["external_data"] = args.external_data
    if args.platforms != _PLATFORMS:
      raise ValueError("--platforms is not for --format=onnx: leave it out.")
  else:
    options["platforms"] = _platforms(args.platforms)

  from big_vision import export, pretrained  # Take JAX with them.
  from big_vision.export import report

  model = pretrained.load(
    args.source,
    init=args.init,
    params=args.params,
    pp=args.pp,
    pp_modules=[m for m in (args.pp_modules or "").split(",") if m],
  )
  info = export.save(
    model,
    args.to,
    args.format,
    quantize=args.quantize,
    preprocess=args.preprocess,
    input_size=input_size,
    batch_size=batch_size,
    tower=args.tower,
    **options,
  )
  print(report.text(info, args.to))
  if args.quantize:
    print(report.measure(model, args.to, info, args.images))
  return 0


def _batch_size(text):
  if text == "free":
    return None
  if not text.isdecimal() or int(text) < 1:
    raise ValueError(
      f"--batch_size={text} should be free or a number, such as 1."
    )
  return int(text)


def _input_size(text):
  if not text:
    return None
  m = re.fullmatch(r"([1-9]\d*)(?:[x,]([1-9]\d*))?", text)
  if m is None:
    raise ValueError(
      f"--input_size={text} should be HEIGHTxWIDTH in pixels, such as 480x640."
    )
  return int(m[1]), int(m[2] or m[1])


def _platforms(text):
  names = [name for name in text.split(",") if name]
  known = _PLATFORMS.split(",")
  if not names or set(names) - set(known):
    raise ValueError(
      f"--platforms={text} should be some of {_PLATFORMS}, with commas between "
      "them."
    )
  return names


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  from big_vision.training import user_errors

  return user_errors.exit_status(run, parser().parse_args(argv))


if __name__ == "__main__":
  sys.exit(main())
