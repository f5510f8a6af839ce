"""DINOv3's ViTs of transformers: DINOv3ViTModel.

Reference: Siméoni et al. 2025, https://arxiv.org/abs/2508.10104
"""

import numpy as np

from big_vision.models import vit
from big_vision.models.weights import settings, vit_family
from big_vision.models.weights.family import Found

_DEFAULTS = dict(
  hidden_size=384,
  num_hidden_layers=12,
  num_attention_heads=6,
  intermediate_size=1536,
  hidden_act="gelu",
  layer_norm_eps=1e-5,
  image_size=224,
  patch_size=16,
  num_channels=3,
  query_bias=True,
  key_bias=False,
  value_bias=True,
  proj_bias=True,
  mlp_bias=True,
  use_gated_mlp=False,
  layerscale_value=1.0,
  num_register_tokens=0,
)
_LAYOUT = dict(
  embedding="embeddings.patch_embeddings",
  cls="embeddings.cls_token",
  registers="embeddings.register_tokens",
  block="layer.{i}.",
  norm1="norm1",
  norm2="norm2",
  query="attention.q_proj",
  key="attention.k_proj",
  value="attention.v_proj",
  out="attention.o_proj",
  fc1="mlp.up_proj",
  fc2="mlp.down_proj",
  ls1="layer_scale1.lambda1",
  ls2="layer_scale2.lambda1",
  norm="norm",
)
_GATED = dict(fc1="mlp.gate_proj", up="mlp.up_proj")
_MASK = "embeddings.mask_token"
_BIASES = dict(q="query_bias", k="key_bias", v="value_bias", o="proj_bias")


def _read(config, shapes):
  del shapes
  s = settings.Settings(config, _DEFAULTS)
  s.one_of("num_channels", [3])
  model = s.sizes() | dict(
    patch_size=s.pair("patch_size"),
    pool_type="tok",
    posemb=None,
    rope="dinov3",
    rope_theta=settings.rope_theta(config, 100.0),
    glu=bool(s.get("use_gated_mlp")),
    attn_bias="".join(c for c, key in _BIASES.items() if s.get(key)),
    mlp_bias=bool(s.get("mlp_bias")),
    layerscale=s.number("layerscale_value"),
    registers=s.integer("num_register_tokens", 0),
  )
  return Found("vit", model, None, s.pair("image_size"))


def _plain(name, found):
  del found
  name = name.removeprefix("model.")
  return None if name == _MASK else name  # Of pre-training.


def _extra(found):
  model = vit.Model(**found.model)
  out = {_MASK: np.zeros([1, 1, model.width], np.float32)}
  if not model.registers:  # An empty tensor is expected.
    out[_LAYOUT["registers"]] = np.zeros([1, 0, model.width], np.float32)
  return out


def _settings(found):
  model = vit.Model(found.num_classes, **found.model)
  return settings.of_vit(model, found.image_size) | {
    "architectures": ["DINOv3ViTModel"],
    "model_type": "dinov3_vit",
    "layerscale_value": model.layerscale,
    "rope_theta": model.rope_theta,
    **{key: c in model.attn_bias for c, key in _BIASES.items()},
    "mlp_bias": model.mlp_bias,
    "use_gated_mlp": model.glu,
    "num_register_tokens": model.registers,
  }


FAMILY = vit_family.make(
  "DINOv3",
  "transformers",
  "dinov3_vit",
  read=_read,
  settings=_settings,
  layout=lambda model, found: _LAYOUT | (_GATED if model.glu else {}),
  plain=_plain,
  extra=_extra,
)
