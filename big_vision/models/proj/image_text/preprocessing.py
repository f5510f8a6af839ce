"""Writes the preprocessing of published models, as strings for configs.

Images are the feature `image`, uint8 [H, W, 3], which keeps its name; a text is
the feature `texts`, a string scalar, and becomes `labels`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from big_vision import fs
from big_vision.models.proj.image_text import huggingface_config

# What `config.pp_modules` must name for all that is here.
MODULES = (
  "ops_general",
  "ops_image",
  "ops_text",
  "proj.image_text.ops_naflex",
)

_JSON = "tokenizer.json"
_GEMMA_VOCAB = 256_000  # SigLIP 2; the vocabularies of SigLIP are smaller.


def naflex(patch_size: int, length: int | Sequence[int]) -> str:
  """Writes the preprocessing to patches of images of any aspect ratio.

  Args:
    patch_size: int, side of a patch, pixels.
    length: int, number of patches; or several, of which one is drawn for each
      image.

  Returns:
    str, preprocessing of `image` to the input of `naflex_vit`.
  """
  longest = length if isinstance(length, int) else max(length)
  keys = ", ".join(
    f'"image/{key}"' for key in ("patches", "type", "yidx", "xidx")
  )
  return (
    f"resize_to_sequence({patch_size}, {length})|value_range(-1, 1)|"
    f'patchify({patch_size})|pad_patches({longest})|tuplify([{keys}], "image")'
  )


def of_huggingface(path: str, hf_config: Mapping[str, Any]) -> tuple[str, str]:
  """Writes the preprocessing of a SigLIP or SigLIP 2 of Hugging Face.

  Args:
    path: str, the folder of the checkpoint or `hf://org/repo`, where the
      tokenizer is.
    hf_config: mapping, content of config.json.

  Returns:
    (pp_img, pp_txt).
  """
  fields = huggingface_config.fields_of(hf_config)
  image, text = fields["img"], fields["txt"]
  if image["naflex"]:
    pp_img = naflex(image["patch_size"], image["side"] ** 2)
  else:
    pp_img = f"resize({image['image_size']})|value_range(-1, 1)"
  lower, file, pad = "", "spiece.model", 1
  if text["vocab_size"] == _GEMMA_VOCAB:
    lower, file, pad = 'lower("utf-8", key="texts")|', "tokenizer.model", 0
  if fs.is_local(path) and not fs.exists(fs.join(path, file)):
    if fs.exists(fs.join(path, _JSON)):  # All that transformers 5 writes.
      file = _JSON
  return pp_img, (
    f'{lower}tokenize(max_len={text["length"]}, model="{path}/{file}", '
    f'eos="sticky", pad_value={pad}, inkey="texts")'
  )
