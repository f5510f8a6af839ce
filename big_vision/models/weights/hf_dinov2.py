"""DINOv2 of transformers, with and without registers.

  Dinov2Model, Dinov2WithRegistersModel, Dinov2[WithRegisters]ForImageClassification

References:
  Oquab et al. 2023, https://arxiv.org/abs/2304.07193
  Darcet et al. 2023, registers, https://arxiv.org/abs/2309.16588
"""

from typing import Any

import numpy as np

from big_vision.models import vit
from big_vision.models.weights import settings, vit_family
from big_vision.models.weights.family import Found
from big_vision.models.weights.vit_layout import Packed

_DEFAULTS = dict(
  hidden_size=768,
  num_hidden_layers=12,
  num_attention_heads=12,
  mlp_ratio=4,
  hidden_act="gelu",
  layer_norm_eps=1e-6,
  image_size=224,
  patch_size=14,
  num_channels=3,
  qkv_bias=True,
  layerscale_value=1.0,
  drop_path_rate=0.0,
  use_swiglu_ffn=False,
  num_register_tokens=4,
)
_LAYOUT: dict[str, Any] = dict(
  embedding="embeddings.patch_embeddings.projection",
  pos_embedding="embeddings.position_embeddings",
  cls="embeddings.cls_token",
  registers="embeddings.register_tokens",
  block="encoder.layer.{i}.",
  norm1="norm1",
  norm2="norm2",
  query="attention.attention.query",
  key="attention.attention.key",
  value="attention.attention.value",
  out="attention.output.dense",
  fc1="mlp.fc1",
  fc2="mlp.fc2",
  ls1="layer_scale1.lambda1",
  ls2="layer_scale2.lambda1",
  norm="layernorm",
  head="classifier",
)
_SWIGLU = dict(
  fc1=Packed("mlp.weights_in", (0, 2)),
  up=Packed("mlp.weights_in", (1, 2)),
  fc2="mlp.weights_out",
)
_WITH = "dinov2_with_registers"
_MASK = "embeddings.mask_token"


def _read(config, shapes):
  s = settings.Settings(config, _DEFAULTS)
  s.one_of("num_channels", [3])
  glu = bool(s.get("use_swiglu_ffn"))
  width = s.integer("hidden_size")
  mlp_dim = int(width * s.number("mlp_ratio"))
  sizes = settings.Settings(
    {**config, "intermediate_size": mlp_dim}, _DEFAULTS
  ).sizes()
  model = sizes | dict(
    patch_size=s.pair("patch_size"),
    pool_type="tok+gap" if "classifier.weight" in shapes else "tok",
    attn_bias="qkvo" if s.get("qkv_bias") else "o",
    layerscale=s.number("layerscale_value"),
  )
  if glu:
    model |= dict(glu=True, act="silu", mlp_dim=_swiglu_dim(mlp_dim))
  registers = config["model_type"] == _WITH
  if registers:
    model["registers"] = s.integer("num_register_tokens", 0)
  return Found(
    "vit",
    model,
    settings.num_classes(config) if "classifier.weight" in shapes else None,
    s.pair("image_size"),
    "bicubic_antialias" if registers else "bicubic",
    head={"pool_type": "tok+gap"},
  )


def _swiglu_dim(mlp_dim):
  """Two thirds, rounded up to a multiple of 8."""
  return (int(mlp_dim * 2 / 3) + 7) // 8 * 8


def _plain(name, found):
  del found
  for prefix in ("dinov2.", "dinov2_with_registers."):
    name = name.removeprefix(prefix)
  return None if name == _MASK else name  # Of pre-training.


def _kind(found):
  return _WITH if found.model.get("registers") else "dinov2"


def _named(name, found):
  if not found.num_classes or name.startswith("classifier."):
    return name
  return f"{_kind(found)}.{name}"


def _extra(found):
  mask = np.zeros([1, vit.Model(**found.model).width], np.float32)
  return {_named(_MASK, found): mask}


def _settings(found):
  model = vit.Model(found.num_classes, **found.model)
  name = "Dinov2WithRegisters" if model.registers else "Dinov2"
  end = "ForImageClassification" if found.num_classes else "Model"
  out = settings.of_vit(model, found.image_size)
  del out["intermediate_size"]
  if model.glu and model.act == "silu":
    out["hidden_act"] = "gelu"  # That of the other models.
  if model.registers:
    out["num_register_tokens"] = model.registers
  return out | {
    "architectures": [name + end],
    "model_type": _kind(found),
    "mlp_ratio": _ratio(model),
    "use_swiglu_ffn": model.glu,
    "layerscale_value": model.layerscale,
    "qkv_bias": "q" in model.attn_bias,
  }


def _ratio(model):
  """Finds the whole number that transformers turns into the width of MLPs."""
  dim = model.mlp_dim or 4 * model.width
  for ratio in range(1, 2 * dim // model.width + 2):
    hidden = model.width * ratio
    if dim == (_swiglu_dim(hidden) if model.glu else hidden):
      return ratio
  part = "two thirds of " * model.glu
  raise ValueError(
    f"config.model.mlp_dim={dim}: transformers' DINOv2 has {part}a multiple of "
    f"the width, {model.width}."
  )


FAMILY = vit_family.make(
  "DINOv2",
  "transformers",
  "dinov2(_with_registers)?",
  read=_read,
  settings=_settings,
  layout=lambda model, found: _LAYOUT | (_SWIGLU if model.glu else {}),
  plain=_plain,
  named=_named,
  tokens=lambda model: ["cls"],
  extra=_extra,
)
