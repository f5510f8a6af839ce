"""Hands a model on: from any source to the formats that others read.

  python -m big_vision.tools.convert --from workdirs/pets --to pets --format hf

--from is the workdir of a run, a published checkpoint (hf://org/repo, timm/NAME, a
folder, a file), an .npz file, or a name of `pretrained.list`. --format is one of

  npz          DST.npz with the parameters, and DST.json with the rest
  orbax        a folder that `pretrained.load` takes like a workdir
  hf           for transformers' AutoModel, AutoImageProcessor, AutoTokenizer
  timm         for timm.create_model
  open_clip    for open_clip.create_model_from_pretrained

Preprocessing, names of classes, tokenizer and a model card go along. Neither torch
nor the other libraries are needed. docs/weights.md has more.
"""

import argparse
import sys
from collections.abc import Sequence

from big_vision import command_line

_FORMATS = ("npz", "orbax", "hf", "timm", "open_clip")


def parser() -> argparse.ArgumentParser:
  """Makes the parser of the command line."""
  out = command_line.make_parser("big_vision.tools.convert", __doc__)
  add = out.add_argument
  add("--from", dest="source", required=True, metavar="SRC", help="see above")
  add(
    "--to",
    dest="target",
    required=True,
    metavar="DST",
    help="new file or folder",
  )
  add("--format", choices=_FORMATS, required=True, help="see above")
  add("--init", help="another checkpoint than the last one of the workdir")
  add(
    "--params",
    choices=("params", "ema"),
    default="params",
    help="ema: the average of the parameters, of a run with config.ema_decay",
  )
  add(
    "--upload",
    metavar="ORG/NAME",
    help="also upload the folder to this repository of the Hugging Face hub",
  )
  add(
    "--private",
    action="store_true",
    default=False,
    help="a new repository is private",
  )
  return out


def run(args: argparse.Namespace) -> int:
  """Does what the command line asks for.

  Args:
    args: of `parser`.

  Returns:
    Exit status.

  Raises:
    ValueError: the model cannot be read, or the format cannot hold it.
  """
  from big_vision.publishing import formats, source, upload

  if args.upload:
    upload.check_name(args.upload)
    if args.format == "npz":
      raise ValueError("--upload is for folders: --format=npz is one file.")
  model = source.read(args.source, init=args.init, params=args.params)
  written = formats.write(model, args.target, args.format)
  size = sum(x.size for x in _leaves(model.params))
  print(f"Wrote {size:,} parameters of a {model.found.model_name!r}:")
  for path in written:
    print(f"  {path}")
  if args.upload:
    print(upload.upload(args.target, args.upload, private=args.private))
  return 0


def _leaves(params):
  import jax

  return jax.tree.leaves(params)


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
