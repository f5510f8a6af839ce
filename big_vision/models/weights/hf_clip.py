"""CLIP of transformers: both towers, or one of them.

  CLIPModel                              proj.image_text.two_towers
  CLIPVisionModel[WithProjection]        vit
  CLIPTextModel[WithProjection]          proj.image_text.text_transformer

Reference: Radford et al. 2021, https://arxiv.org/abs/2103.00020
"""

from typing import Any

import numpy as np

from big_vision.models import vit
from big_vision.models.proj.image_text import text_transformer
from big_vision.models.weights import settings, tables, vit_layout
from big_vision.models.weights.family import (
  TEXT_MODEL,
  TWO_TOWERS,
  Family,
  Found,
)

_SIZES = dict(hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=512)
_IMAGE_DEFAULTS = _SIZES | dict(
  hidden_size=768,
  num_hidden_layers=12,
  num_attention_heads=12,
  intermediate_size=3072,
  image_size=224,
  patch_size=32,
  num_channels=3,
)
_TEXT_DEFAULTS = _SIZES | dict(
  hidden_size=512,
  num_hidden_layers=12,
  num_attention_heads=8,
  intermediate_size=2048,
  vocab_size=49408,
  max_position_embeddings=77,
  eos_token_id=49407,
)
_BLOCK: dict[str, Any] = dict(
  block="encoder.layers.{i}.",
  norm1="layer_norm1",
  norm2="layer_norm2",
  query="self_attn.q_proj",
  key="self_attn.k_proj",
  value="self_attn.v_proj",
  out="self_attn.out_proj",
  fc1="mlp.fc1",
  fc2="mlp.fc2",
)
_IMAGE = _BLOCK | dict(
  embedding="embeddings.patch_embedding",
  pos_embedding="embeddings.position_embedding.weight",
  cls="embeddings.class_embedding",
  pre_norm="pre_layrnorm",
  norm="post_layernorm",
  head="visual_projection",
)
_TEXT = _BLOCK | dict(norm="final_layer_norm")
_TEXT |= dict(
  embed="embeddings.token_embedding.weight",
  pos_embedding="embeddings.position_embedding.weight",
  head="text_projection",
)
# Part of the model -> prefix of its tensors, and the layer that has none.
_PARTS = dict(
  img=("vision_model.", "visual_projection."),
  txt=("text_model.", "text_projection."),
)

_MODEL = "transformers' CLIP"


def _read(config, shapes):
  kind = config["model_type"]
  if kind == "clip":
    image, text = config["vision_config"], config["text_config"]
    model = dict(
      image=_image_model(image),
      text=_text_model(text),
      text_model=TEXT_MODEL,
      out_dim=config.get("projection_dim", 512),
      temperature_init=float(
        np.exp(config.get("logit_scale_init_value", 2.6592))
      ),
    )
    return Found(
      TWO_TOWERS, model, None, _size(image), text_length=_length(text)
    )
  part = "img" if kind == "clip_vision_model" else "txt"
  head = shapes.get(f"{_PARTS[part][1]}weight")
  num = head[0] if head else None
  if part == "img":
    return Found("vit", _image_model(config), num, _size(config))
  return Found(
    TEXT_MODEL, _text_model(config), num, text_length=_length(config)
  )


def _image_model(config):
  s = settings.Settings(config, _IMAGE_DEFAULTS)
  s.one_of("num_channels", [3])
  return s.sizes() | dict(
    patch_size=s.pair("patch_size"),
    pool_type="tok",
    patch_bias=False,
    pre_norm=True,
    head_bias=False,
  )


def _text_model(config):
  s = settings.Settings(config, _TEXT_DEFAULTS)
  eot = s.get("eos_token_id")
  return s.sizes() | dict(
    vocab_size=s.integer("vocab_size"),
    pool_type="eot",
    causal=True,
    eot_token=None if eot == 2 else eot,  # 2 was a mistake of old files.
    head_bias=False,
  )


def _size(config):
  return settings.Settings(config, _IMAGE_DEFAULTS).pair("image_size")


def _length(config):
  s = settings.Settings(config, _TEXT_DEFAULTS)
  return s.integer("max_position_embeddings")


def _image_table(model, num, found):
  model = vit.Model(num, **model)
  rows, columns = (
    s // p for s, p in zip(found.image_size, model.patch_size, strict=True)
  )
  return vit_layout.table(_IMAGE, model, rows * columns)


def _text_table(model, num, found):
  model = text_transformer.Model(num, **model)
  return vit_layout.text_table(_TEXT, model, found.text_length)


def _table(found):
  """Makes the table; names of two towers begin with their part."""
  if found.model_name == TEXT_MODEL:
    return _text_table(found.model, found.num_classes, found)
  if found.model_name != TWO_TOWERS:
    return _image_table(found.model, found.num_classes, found)
  m, dim = found.model, found.model["out_dim"]
  return [
    *tables.within(_image_table(m["image"], dim, found), "img/"),
    *tables.within(_text_table(m["text"], dim, found), "txt/"),
    *tables.same("logit_scale", "t", 1, there=()),
  ]


def _plain(name, both):
  """Turns the name of a tensor into that of a table."""
  for part, starts in _PARTS.items():
    if name.startswith(starts):
      name = name.removeprefix(starts[0])
      return f"{part}/{name}" if both else name
  return name


def _image_part(found):
  """Returns the prefix of the image tower in names of a table, or None."""
  if found.model_name == TEXT_MODEL:
    return None
  return "img/" if found.model_name == TWO_TOWERS else ""


def _to_params(tensors, found):
  both = found.model_name == TWO_TOWERS
  tensors = {
    _plain(name, both): x
    for name, x in tensors.items()
    if not name.endswith(".position_ids")  # Of old files: 0, 1, 2, …
  }
  if (part := _image_part(found)) is not None:
    cls, pos = (part + _IMAGE[key] for key in ("cls", "pos_embedding"))
    for name, shape in ((cls, (1, 1, -1)), (pos, (1, -1, _width(found)))):
      if name in tensors:
        tensors[name] = np.reshape(tensors[name], shape)
    tensors = vit_layout.fold(tensors, pos, [cls])
  return tables.to_params(_table(found), tensors, "the checkpoint", _MODEL)


def _width(found):
  image = found.model.get("image", found.model)
  return image["width"]


def _to_tensors(params, found):
  tensors = tables.to_tensors(_table(found), params, _MODEL)
  if (part := _image_part(found)) is not None:
    cls, pos = (part + _IMAGE[key] for key in ("cls", "pos_embedding"))
    tensors = vit_layout.unfold(tensors, pos, [cls])
    tensors[cls], tensors[pos] = tensors[cls][0, 0], tensors[pos][0]
  return {_name(k, found): x for k, x in tensors.items()}, _config(found)


def _name(name, found):
  """Turns the name of a table into that of a tensor."""
  part, _, rest = name.rpartition("/")
  if not part:
    if name == "logit_scale" or not found.num_classes:
      return name  # transformers saves one tower without its prefix.
    part = "txt" if found.model_name == TEXT_MODEL else "img"
  prefix, projection = _PARTS[part]
  return rest if rest.startswith(projection) else prefix + rest


def _config(found):
  if found.model_name == TEXT_MODEL:
    return _text_config(found.model, found.num_classes, found)
  if found.model_name != TWO_TOWERS:
    return _image_config(found.model, found.num_classes, found)
  m, dim = found.model, found.model["out_dim"]
  return {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": dim,
    "logit_scale_init_value": float(np.log(m["temperature_init"])),
    "vision_config": _image_config(m["image"], dim, found),
    "text_config": _text_config(m["text"], dim, found),
  }


def _image_config(model, dim, found):
  model = vit.Model(dim, **model)
  return _common("Vision", model, dim) | {
    **settings.pixels(found.image_size, model.patch_size),
    "num_channels": 3,
  }


def _text_config(model, dim, found):
  model = text_transformer.Model(dim, **model)
  return _common("Text", model, dim) | {
    "vocab_size": model.vocab_size,
    "max_position_embeddings": found.text_length,
    "eos_token_id": 2 if model.eot_token is None else model.eot_token,
  }


def _common(kind, model, dim):
  end = "WithProjection" if dim else ""
  return {
    "architectures": [f"CLIP{kind}Model{end}"],
    "model_type": f"clip_{kind.lower()}_model",
    **settings.written(model),
    "hidden_act": settings.ACTIVATION_NAMES[model.act],
    "layer_norm_eps": model.norm_eps,
    "projection_dim": dim or 512,
  }


FAMILY = Family(
  "CLIP",
  "transformers",
  "clip(_vision_model|_text_model)?",
  _read,
  _to_params,
  _to_tensors,
  _PARTS,
)
