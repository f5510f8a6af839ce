"""SigLIP and SigLIP 2 of Hugging Face's transformers as models of this package.

Pure functions from tensors with Hugging Face's names to trees of parameters,
and back; `huggingface_files` reads and writes the files.

  model_type in config.json           config.model
  siglip (SigLIP, most of SigLIP 2)   image_model = "vit"
  siglip2 (NaFlex)                    image_model = "proj.image_text.naflex_vit"
  siglip_vision_model, siglip2_text_model, …   one of the towers

References:
  Zhai et al. 2023, SigLIP, https://arxiv.org/abs/2303.15343
  Tschannen et al. 2025, SigLIP 2, https://arxiv.org/abs/2502.14786
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision import trees
from big_vision.models import vit_checkpoints
from big_vision.models.proj.image_text import (
  huggingface_config,
  huggingface_layout,
)
from big_vision.models.proj.image_text.huggingface_config import (
  NAFLEX,
  PARTS,
  VIT,
  fields_of,
  model_config,
  parts_of,
)
from big_vision.models.weights import tables
from big_vision.types import ConfigLike, Params

__all__ = [
  "NAFLEX",
  "PARTS",
  "VIT",
  "check_parts",
  "fields_of",
  "from_params",
  "model_config",
  "parts_of",
  "select",
  "to_params",
]

_MODEL = "Hugging Face's SigLIP"


def select(
  names: Iterable[str],
  hf_config: Mapping[str, Any],
  parts: Sequence[str] | None = None,
) -> list[str]:
  """Lists the names of the tensors that belong to some parts.

  Args:
    names: iterable of str, all names in a checkpoint.
    hf_config: mapping, content of config.json.
    parts: some of `PARTS`; None means all that the checkpoint has, and then
      includes names of unknown parts.

  Returns:
    List of str.
  """
  names = list(names)
  if parts is None or not _has_prefixes(names, hf_config):
    return names
  prefixes = tuple(huggingface_layout.PREFIXES[part] for part in parts)
  return [name for name in names if name.startswith(prefixes)]


def _has_prefixes(names, hf_config):
  """Tells whether names begin with their part.

  They do not in a tower that transformers 5 saved alone.
  """
  parts = parts_of(hf_config)
  prefix = huggingface_layout.PREFIXES[parts[0]]
  return len(parts) > 1 or any(name.startswith(prefix) for name in names)


def check_parts(
  hf_config: Mapping[str, Any], parts: Sequence[str] | None = None
) -> tuple[str, ...]:
  """Checks that the models of this package can represent parts of a checkpoint.

  Args:
    hf_config: mapping, content of config.json.
    parts: some of `PARTS`; None means all that the checkpoint has.

  Returns:
    `parts`, or all parts of the checkpoint.

  Raises:
    ValueError: the checkpoint lacks such a part, or has a setting that the
      models do not have.
  """
  have = parts_of(hf_config)
  parts = have if parts is None else parts
  if lacking := [p for p in parts if p not in have]:
    raise ValueError(
      "A Hugging Face checkpoint with model_type = "
      f"{hf_config['model_type']!r} has {', '.join(have)}, but "
      f"config.model_init asks for {', '.join(lacking)}, too. List what to "
      f"load, as in config.model_init = {{{have[0]!r}: ...}}."
    )
  fields_of(hf_config, parts)
  return tuple(parts)


def to_params(
  tensors: Mapping[str, np.ndarray],
  hf_config: Mapping[str, Any],
  parts: Sequence[str] | None = None,
) -> Params:
  """Converts the tensors of a checkpoint to parameters.

  Args:
    tensors: mapping, name -> array of float16, bfloat16, float32 or float64.
    hf_config: mapping, content of config.json.
    parts: some of `PARTS`, tensors of others are ignored; None means all that
      the checkpoint has.

  Returns:
    Nested dict of float32 arrays with `parts` as keys: the parameters of
    `two_towers` with scan=False.

  Raises:
    ValueError: a setting that the models of this package do not have; a part or
      a tensor is missing, unknown, or has an unexpected shape or type.
  """
  have = parts_of(hf_config)
  parts = check_parts(hf_config, parts)
  if not _has_prefixes(tensors, hf_config):
    prefix = huggingface_layout.PREFIXES[have[0]]
    tensors = {prefix + name: x for name, x in tensors.items()}
  selected = None if set(parts) == set(have) else parts
  names = [
    name
    for name in select(tensors, hf_config, selected)
    if not name.endswith(".position_ids")  # Of old files: 0, 1, 2, …
  ]
  table = huggingface_layout.entries(fields_of(hf_config, parts), parts)
  tensors = {name: tensors[name] for name in names}
  return tables.to_params(table, tensors, "the Hugging Face checkpoint", _MODEL)


def from_params(
  params: Params, model_cfg: ConfigLike, image_size: int | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Converts parameters to tensors and settings; the inverse of `to_params`.

  Args:
    params: nested mapping, parameters of `two_towers`, scanned or not.
    model_cfg: mapping, `config.model`.
    image_size: int, side of the images in pixels, if it is not a multiple of
      the side of a patch. Not for NaFlex.

  Returns:
    (tensors, hf_config): dict of name -> contiguous float32 array, and the
    content of config.json. The bias of the logits is 0 if the model has none.

  Raises:
    ValueError: the model has a setting or a parameter that Hugging Face's model
      lacks, or the reverse; names it.
  """
  if absent := [name for name in ("img", "txt", "t") if name not in params]:
    raise ValueError(
      f"The model has no {', '.join(absent)}: only one with both towers can be "
      "exported."
    )
  huggingface_config.check_exportable(model_cfg or {})
  params = {name: _unstacked(part) for name, part in params.items()}
  params.setdefault("b", np.zeros(1, np.float32))
  flat = dict(trees.tree_flatten_with_names(params)[0])
  shapes = {name: tuple(np.shape(x)) for name, x in flat.items()}
  fields = {
    "img": _image_fields(shapes, image_size),
    "txt": _text_fields(shapes),
  }
  table = huggingface_layout.entries(fields, PARTS)
  tensors = tables.to_tensors(table, params, _MODEL)
  return tensors, huggingface_config.hf_config(fields["img"], fields["txt"])


def _image_fields(shapes, image_size):
  """Derives the fields of the image tower from the shapes of parameters."""
  fields = _sizes(shapes, "img/Transformer")
  kernel = _shape(shapes, "img/embedding/kernel")
  positions = _shape(shapes, "img/pos_embedding")
  naflex = len(kernel) == 2  # [P * P * 3, D], else [P, P, 3, D].
  fields |= dict(naflex=naflex, use_head=True)
  if naflex:
    if image_size:
      raise ValueError(
        f"image_size = {image_size}: NaFlex models take images of any size."
      )
    side, patch = positions[0], math.isqrt(kernel[0] // 3)
    return fields | dict(patch_size=patch, side=side)
  patch, num = kernel[0], positions[1]
  if kernel[1] != patch or math.isqrt(num) ** 2 != num:
    raise ValueError(
      f"config.model.image.patch_size = {kernel[:2]} with {num} positions: "
      "Hugging Face's SigLIP only has square patches and images."
    )
  side = math.isqrt(num)
  size = image_size or side * patch
  if size // patch != side:
    raise ValueError(
      f"image_size = {image_size}: that makes {size // patch} rows of patches "
      f"of {patch} pixels, but the model has {side}."
    )
  return fields | dict(patch_size=patch, side=side, image_size=size)


def _text_fields(shapes):
  """Derives the fields of the text tower from the shapes of parameters."""
  return _sizes(shapes, "txt/Encoder_0") | dict(
    vocab_size=_shape(shapes, "txt/Embed_0/embedding")[0],
    length=_shape(shapes, "txt/pos_embedding")[1],
    out_dim=_shape(shapes, "txt/head/bias")[0],
  )


def _sizes(shapes, encoder):
  """Derives the fields that both towers have."""
  block = f"{encoder}/encoderblock_0"
  attention = f"{block}/MultiHeadDotProductAttention_0/query/kernel"
  width, num_heads, _ = _shape(shapes, attention)
  return dict(
    width=width,
    depth=len({n.split("/")[2] for n in shapes if n.startswith(block[:-1])}),
    mlp_dim=_shape(shapes, f"{block}/MlpBlock_0/Dense_0/bias")[0],
    num_heads=num_heads,
  )


def _shape(shapes, name):
  if name not in shapes:
    raise ValueError(
      f"The parameter {name} of Hugging Face's SigLIP is missing. SigLIP has "
      "learned positions, and config.model.out_dim = (None, <size>)."
    )
  return shapes[name]


def _unstacked(part):
  """Gives a tower one subtree per block; returns anything else as it is."""
  for encoder in ("Transformer", "Encoder_0"):
    if hasattr(part, "items") and "encoderblock" in part.get(encoder, {}):
      # The function knows the encoder by its name in image models.
      loop = vit_checkpoints.scan_to_pyloop({"Transformer": part[encoder]})
      return {**part, encoder: loop["Transformer"]}
  return part
