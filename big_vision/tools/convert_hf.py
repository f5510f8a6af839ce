r"""Converts SigLIP and SigLIP 2 from and to Hugging Face's transformers.

  python -m big_vision.tools.convert_hf \
    --from hf://google/siglip2-base-patch16-256 --to siglip2.npz

writes a checkpoint for `config.model_init` and prints the `config.model` that
it is for. The other way, a model of this package as a folder for
`transformers.SiglipModel.from_pretrained` (Siglip2Model for NaFlex):

  python -m big_vision.tools.convert_hf --from workdirs/siglip/checkpoint.bv \
    --config configs/my_siglip.py --to folder

where --config is that of the run that has written it. Needs neither torch nor
transformers. docs/text.md has the tokenizers.
"""

from collections.abc import Sequence

from absl import app, flags, logging

from big_vision import command_line
from big_vision.training import run_help

run_help.define(run_help.READS_CONFIG)

flags.DEFINE_string(
  "from",
  None,
  "Checkpoint to convert: hf://org/repo[@revision] or a folder with config.json "
  "and model.safetensors; or one of two towers, as in config.model_init: an npz "
  "file or checkpoint.bv.",
)
flags.DEFINE_string("to", None, "New .npz file, or new folder.")
flags.DEFINE_integer(
  "resolution",
  None,
  "Side of the images in pixels, if it is not a multiple of the side of a patch, "
  "as 384 with patches of 14.",
)


def main(argv: Sequence[str]) -> None:
  """Converts what the flags ask for.

  Args:
    argv: what flags have left of the command line.
  """
  del argv
  from big_vision.models.proj.image_text import (
    huggingface_conversion,
    huggingface_files,
  )
  from big_vision.models.weights import sources

  args = flags.FLAGS
  source, target = args["from"].value, args.to
  if not source or not target:
    raise SystemExit("--from and --to are required.")
  logging.set_verbosity(logging.WARNING)
  is_hf = sources.is_source(source)
  if not is_hf and args.config is None:
    raise SystemExit(
      f"--from={source} has no config.json with model.safetensors, so it is not "
      "a checkpoint of Hugging Face. For one of this package, give --config, "
      "too."
    )
  if is_hf and (args.config is not None or args.resolution):
    raise SystemExit(
      f"--config and --resolution are for exports, but --from={source} is a "
      "checkpoint of Hugging Face already."
    )
  try:
    if is_hf and not huggingface_files.is_siglip(source):
      # The tool for all families.
      from big_vision.tools import convert

      args = ["--from", source, "--to", target, "--format", "npz"]
      raise SystemExit(convert.main(args))
    if is_hf:
      print(huggingface_conversion.from_hf(source, target))
    else:
      print(
        huggingface_conversion.to_hf(
          source, target, args.config, args.resolution
        )
      )
  except (ValueError, FileNotFoundError) as e:
    if command_line.wants_debug():
      raise
    raise SystemExit(str(e)) from e


if __name__ == "__main__":
  app.run(main)
