r"""Converts SigLIP and SigLIP 2 from and to Hugging Face's transformers.

  python -m big_vision.tools.convert_hf \
    --from hf://google/siglip2-base-patch16-256 --to siglip2.npz

writes a checkpoint for `config.model_init` and prints the `config.model` that
it is for. The other way, a model of this package as a folder for
`transformers.SiglipModel.from_pretrained` (Siglip2Model for NaFlex):

  python -m big_vision.tools.convert_hf --from workdirs/siglip/checkpoint.bv \
    --config configs/my_siglip.py --to folder

  --from          hf://org/repo[@revision] or a folder with config.json and
                  model.safetensors; or a checkpoint of two towers, as in
                  config.model_init: an npz file or checkpoint.bv
  --config        of the run that has written it; config.model is used
  --resolution    side of the images in pixels, if it is not a multiple of the
                  side of a patch, as 384 with patches of 14

Needs neither torch nor transformers. docs/text.md has the tokenizers.
"""

from collections.abc import Sequence

import jax
from absl import app, flags, logging

from big_vision import checkpoint_npz, checkpoints
from big_vision.models.proj.image_text import (
  huggingface,
  huggingface_config,
  huggingface_files,
)
from big_vision.training import cli
from big_vision.types import ConfigLike

assert cli, "Defines --config."

flags.DEFINE_string("from", None, "Checkpoint to convert.")
flags.DEFINE_string("to", None, "New .npz file, or new folder.")
flags.DEFINE_integer("resolution", None, "Side of the images in pixels.")

_TWO_TOWERS = "proj.image_text.two_towers"


def from_hf(source: str, target: str) -> str:
  """Converts a checkpoint of Hugging Face to an npz file.

  Args:
    source: folder or hf://org/repo.
    target: path of the new file.

  Returns:
    Text for the user with the lines for a config.

  Raises:
    ValueError: `target` does not end in .npz, or the checkpoint cannot be
      converted.
  """
  if not target.endswith(".npz"):
    raise ValueError(f"--to={target} must end in .npz.")
  params, hf_config = huggingface_files.load(source)
  checkpoint_npz.save_checkpoint({"params": params}, target)
  return _usage(params, hf_config, target)


def to_hf(
  source: str, target: str, config: ConfigLike, image_size: int | None = None
) -> str:
  """Writes a folder for transformers.

  Args:
    source: checkpoint of two towers, `<path>[:<sub/tree>]`.
    target: the new folder.
    config: ConfigDict of the run.
    image_size: see `huggingface.from_params`.

  Returns:
    Text for the user: how to load it.

  Raises:
    ValueError: transformers do not have such a model.
  """
  name = config.get("model_name")
  if name != _TWO_TOWERS:
    raise ValueError(
      f"config.model_name = {name!r}: only {_TWO_TOWERS!r} can be exported."
    )
  params = checkpoints.load_params(source)
  tensors, hf_config = huggingface.from_params(
    params, config.get("model"), image_size
  )
  huggingface_files.save(target, tensors, hf_config)
  cls = hf_config["architectures"][0]
  size = sum(x.size for x in tensors.values())
  return (
    f"Wrote {target}, {size:,} parameters:\n\n"
    f"  transformers.{cls}.from_pretrained({target!r})"
  )


def _usage(params, hf_config, target):
  """Returns the lines of a config that loads `target`."""
  size = sum(x.size for x in jax.tree.leaves(params))
  # The loader takes a path without a slash for a name.
  path = target if "/" in target else f"./{target}"
  towers = {"img": "image", "txt": "text"}
  init = path
  if len(params) == 1:
    init = {towers[part]: f"{path}:{part}" for part in params}
  model = huggingface.model_config(hf_config)
  return "\n".join(
    [
      f"Wrote {target}, {size:,} parameters:",
      "",
      f"  config.model_name = {_TWO_TOWERS!r}",
      "  config.model = dict(",
      *(f"    {key}={_code(value)}," for key, value in model.items()),
      "  )",
      f"  config.model_init = {init!r}",
      "",
      *_inputs(hf_config),
    ]
  )


def _code(value):
  """Formats a setting as Python."""
  if not isinstance(value, dict):
    return repr(value)
  return f"dict({', '.join(f'{k}={v!r}' for k, v in value.items())})"


def _inputs(hf_config):
  """Returns lines about the inputs of the towers."""
  fields = huggingface_config.fields_of(hf_config)
  image, text = fields.get("img"), fields.get("txt")
  lines = []
  if image and image["naflex"]:
    lines.append(
      "Images: values in [-1, 1], any number of patches of "
      f"{image['patch_size']} x {image['patch_size']} pixels; trained with {image['side'] ** 2}."
    )
  elif image:
    lines.append(
      f"Images: values in [-1, 1], {image['image_size']} x "
      f"{image['image_size']} pixels. Positions are resampled for others."
    )
  if text:
    lines.append(f"Texts: {text['length']} tokens, see docs/text.md.")
  return lines


def main(argv: Sequence[str]) -> None:
  """Converts what the flags ask for."""
  del argv
  args = flags.FLAGS
  source, target = args["from"].value, args.to
  if not source or not target:
    raise SystemExit("--from and --to are required.")
  logging.set_verbosity(logging.WARNING)
  is_hf = huggingface_files.is_checkpoint(source)
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
    if is_hf:
      print(from_hf(source, target))
    else:
      print(to_hf(source, target, args.config, args.resolution))
  except (ValueError, FileNotFoundError) as e:
    raise SystemExit(str(e)) from e


if __name__ == "__main__":
  app.run(main)
