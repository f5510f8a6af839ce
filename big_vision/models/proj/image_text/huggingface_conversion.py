"""Converts SigLIP and SigLIP 2 from and to Hugging Face's transformers.

`tools/convert_hf.py` is the command.
"""

import jax

from big_vision import checkpoint_npz, checkpoints
from big_vision.models.proj.image_text import (
  huggingface,
  huggingface_config,
  huggingface_files,
)
from big_vision.types import ConfigLike

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
