"""Writes the preprocessing of published models, as strings for configs.

Images are the feature `image`, uint8 [H, W, 3], which keeps its name; a text is
the feature `texts`, a string scalar, and becomes `labels`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from big_vision import fs

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


def of_texts(folder: str, model: Mapping[str, Any], length: int) -> str:
  """Writes the preprocessing of texts of a published model.

  Args:
    folder: str, path or `hf://org/repo`, where the tokenizer is.
    model: mapping, arguments of `text_transformer`.
    length: int, number of tokens.

  Returns:
    str, preprocessing of `texts` to `labels`.
  """
  common = f'tokenize(max_len={length}, model="{folder}/{{}}", eos="sticky"'
  if model.get("causal"):  # CLIP.
    tokenize = f'{common}, add_bos=True, pad_value=0, inkey="texts")'
    return tokenize.format(_JSON)
  lower, file, pad = "", "spiece.model", 1
  if model["vocab_size"] == _GEMMA_VOCAB:
    lower, file, pad = 'lower("utf-8", key="texts")|', "tokenizer.model", 0
  if fs.is_local(folder) and not fs.exists(fs.join(folder, file)):
    if fs.exists(fs.join(folder, _JSON)):  # All that transformers 5 writes.
      file = _JSON
  tokenize = f'{common}, pad_value={pad}, inkey="texts")'
  return lower + tokenize.format(file)
