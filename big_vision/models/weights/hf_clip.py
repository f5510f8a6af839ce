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
from big_vision.models.weights import settings, vit_family
from big_vision.models.weights.family import TEXT_MODEL, TWO_TOWERS, Found

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
_BOTH_DEFAULTS = dict(projection_dim=512, logit_scale_init_value=2.6592)
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
  flat=True,
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


def _read(config, shapes):
  kind = config["model_type"]
  if kind == "clip":
    s = settings.Settings(config, _BOTH_DEFAULTS)
    image, text = s.section("vision_config"), s.section("text_config")
    model = dict(
      image=_image_model(image),
      text=_text_model(text),
      text_model=TEXT_MODEL,
      out_dim=s.integer("projection_dim"),
      temperature_init=float(np.exp(s.number("logit_scale_init_value"))),
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


def _plain(name, found):
  if name.endswith(".position_ids"):
    return None  # Of old files: 0, 1, 2, …
  for part, starts in _PARTS.items():
    if name.startswith(starts):
      name = name.removeprefix(starts[0])
      return f"{part}/{name}" if found.model_name == TWO_TOWERS else name
  return name


def _named(name, found):
  part, _, rest = name.rpartition("/")
  if not part:
    if name == "logit_scale" or not found.num_classes:
      return name  # transformers saves one tower without its prefix.
    part = "txt" if found.model_name == TEXT_MODEL else "img"
  prefix, projection = _PARTS[part]
  return rest if rest.startswith(projection) else prefix + rest


def _settings(found):
  if found.model_name == TEXT_MODEL:
    return _text_settings(found.model, found.num_classes, found)
  if found.model_name != TWO_TOWERS:
    return _image_settings(found.model, found.num_classes, found)
  dim = vit_family.out_dims(found)[0]
  return {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": dim,
    "logit_scale_init_value": float(
      np.log(found.model.get("temperature_init", 1.0))
    ),
    "vision_config": _image_settings(found.model["image"], dim, found),
    "text_config": _text_settings(found.model["text"], dim, found),
  }


def _image_settings(model, dim, found):
  model = vit.Model(dim, **model)
  if len({*found.image_size}) > 1 or len({*model.patch_size}) > 1:
    raise ValueError(
      f"image_size={found.image_size}, patch_size={model.patch_size}: "
      "transformers' CLIP only has squares."
    )
  return _common("Vision", model, dim) | {
    **settings.pixels(found.image_size, model.patch_size),
    "num_channels": 3,
  }


def _text_settings(model, dim, found):
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
    "hidden_act": settings.activation(model),
    "layer_norm_eps": model.norm_eps,
    "projection_dim": dim or 512,
  }


FAMILY = vit_family.make(
  "CLIP",
  "transformers",
  "clip(_vision_model|_text_model)?",
  read=_read,
  settings=_settings,
  layout=lambda model, found: _IMAGE,
  text_layout=lambda model, found: _TEXT,
  plain=_plain,
  named=_named,
  prefixes=_PARTS,
)
