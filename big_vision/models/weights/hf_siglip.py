"""SigLIP and SigLIP 2 of transformers: both towers, or one of them.

  Siglip[2]Model             proj.image_text.two_towers
  SiglipVisionModel          vit
  Siglip2VisionModel         proj.image_text.naflex_vit
  Siglip[2]TextModel         proj.image_text.text_transformer

References:
  Zhai et al. 2023, SigLIP, https://arxiv.org/abs/2303.15343
  Tschannen et al. 2025, SigLIP 2, https://arxiv.org/abs/2502.14786
"""

from typing import Any

import numpy as np

from big_vision.models import vit
from big_vision.models.proj.image_text import (
  huggingface_config,
  huggingface_layout,
  naflex_vit,
  text_transformer,
)
from big_vision.models.proj.image_text.huggingface_config import NAFLEX, PARTS
from big_vision.models.weights import settings, tables
from big_vision.models.weights.family import (
  TEXT_MODEL,
  TWO_TOWERS,
  Family,
  Found,
)

_MODEL = "Hugging Face's SigLIP"


def _read(config, shapes):
  del shapes
  parts = huggingface_config.parts_of(config)
  model = huggingface_config.model_config(config)
  fields = huggingface_config.fields_of(config)
  length = fields["txt"]["length"] if "txt" in fields else None
  size = _image_size(fields["img"]) if "img" in fields else (224, 224)
  if parts == PARTS:
    return Found(TWO_TOWERS, model, None, size, text_length=length)
  if parts == ("img",):
    return Found(model["image_model"], model["image"], None, size)
  dim = model["out_dim"][1]
  return Found(TEXT_MODEL, model["text"], dim, text_length=length)


def _image_size(fields):
  size = fields.get("image_size") or fields["side"] * fields["patch_size"]
  return size, size


def fields_of(
  found: Found,
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
  """Describes towers in the terms of `huggingface_config`.

  Args:
    found: both towers, or one of them.

  Returns:
    (fields of the towers, see there; parts).
  """
  m, parts = found.model, PARTS
  fields: dict[str, dict[str, Any]] = {}
  image, text, name = m.get("image", {}), m.get("text", {}), None
  if found.model_name == TEXT_MODEL:
    image, text, dim, parts = None, m, found.num_classes, ("txt",)
  elif found.model_name != TWO_TOWERS:
    image, text, dim, parts = m, None, None, ("img",)
    name = found.model_name
  else:
    dim = found.tower("txt").num_classes
    name = m.get("image_model", "vit")
  if image is not None:
    naflex = name == NAFLEX
    image = (naflex_vit if naflex else vit).Model(**image)
    rows, patch = _grid(found, image)
    fields["img"] = _sizes(image) | dict(
      naflex=naflex,
      use_head=image.pool_type == "map",
      patch_size=patch,
      side=rows,
      image_size=found.image_size[0],
    )
  if text is not None:
    text = text_transformer.Model(dim, **text)
    fields["txt"] = _sizes(text) | dict(
      vocab_size=text.vocab_size, length=found.text_length, out_dim=dim
    )
  return fields, parts


def _sizes(model):
  sizes = {key: getattr(model, key) for key in settings.SIZES}
  return sizes | dict(mlp_dim=model.mlp_dim or 4 * model.width)


def _grid(found, image):
  """Returns (rows of positions, rows of pixels of a patch)."""
  if hasattr(image, "nposemb"):
    return image.nposemb, found.image_size[0] // image.nposemb
  patch = image.patch_size[0]
  return found.image_size[0] // patch, patch


def _to_params(tensors, found):
  fields, parts = fields_of(found)
  prefix = huggingface_layout.PREFIXES[parts[0]]
  tensors = {
    name: x
    for name, x in tensors.items()
    if not name.endswith(".position_ids")  # Of old files: 0, 1, 2, …
  }
  # transformers 5 saves a tower alone without it.
  if len(parts) == 1 and not any(n.startswith(prefix) for n in tensors):
    tensors = {prefix + name: x for name, x in tensors.items()}
  table = huggingface_layout.entries(fields, parts)
  params = tables.to_params(table, tensors, "the checkpoint", _MODEL)
  return params[parts[0]] if len(parts) == 1 else params


def _to_tensors(params, found):
  fields, parts = fields_of(found)
  if len(parts) == 1:
    params = {parts[0]: params}
  else:
    params = {"b": np.zeros(1, np.float32), **params}
  table = huggingface_layout.entries(fields, parts)
  tensors = tables.to_tensors(table, params, _MODEL)
  return tensors, huggingface_config.hf_config(
    fields.get("img"), fields.get("txt")
  )


FAMILY = Family(
  "SigLIP, SigLIP 2",
  "transformers",
  "siglip2?(_vision_model|_text_model)?",
  _read,
  _to_params,
  _to_tensors,
  {part: (huggingface_layout.PREFIXES[part],) for part in ("img", "txt")},
  models=(TWO_TOWERS, TEXT_MODEL, "vit", NAFLEX),
)
