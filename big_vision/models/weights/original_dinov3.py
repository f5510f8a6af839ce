"""State dicts of DINOv3's first release, which have no settings.

Reference: Siméoni et al. 2025, https://arxiv.org/abs/2508.10104
"""

import dataclasses
import re

import numpy as np

from big_vision.models import vit
from big_vision.models.weights import (
  original_vit,
  timm_dinov3,
  timm_settings,
  vit_family,
)
from big_vision.models.weights.family import Found

_LAYOUT = timm_dinov3.LAYOUT | dict(
  registers="storage_tokens", ls1="ls1.gamma", ls2="ls2.gamma"
)
_GATED = dict(fc1="mlp.w1", up="mlp.w2", fc2="mlp.w3")
_PERIODS = "rope_embed.periods"
_BIAS = "attn.qkv.bias"
_THETA = 100.0


def _read(config, shapes):
  del config
  shapes = original_vit.plain(shapes)
  glu = "blocks.0.mlp.w1.weight" in shapes
  model = original_vit.sizes(shapes)
  first = "blocks.0.mlp.w1" if glu else "blocks.0.mlp.fc1"
  periods = timm_settings.shape(shapes, _PERIODS, "DINOv3")[0]
  model |= dict(
    mlp_dim=timm_settings.shape(shapes, f"{first}.weight", "DINOv3")[0],
    num_heads=max(model["width"] // (4 * periods), 1),
    act="silu" if glu else "gelu_erf",
    glu=glu,
    norm_eps=1e-5,
    posemb=None,
    rope="dinov3",
    rope_theta=_THETA,
    attn_bias="qvo" if f"blocks.0.{_BIAS}" in shapes else "o",
    pool_type="tok",
    class_token=True,
    layerscale=1e-5,
    registers=timm_settings.shape(shapes, "storage_tokens", "DINOv3")[1],
  )
  return Found("vit", model)


def _to_params(tensors, found):
  out = {}
  for name, x in original_vit.plain(tensors).items():
    start, is_bias, rest = name.partition(_BIAS)
    if is_bias and not rest:  # Its mask leaves out that of the keys.
      query, _, value = np.split(x, 3)
      out |= {f"{start}attn.q_bias": query, f"{start}attn.v_bias": value}
    elif name == _PERIODS:
      _check_periods(x.astype(np.float32))
    elif not is_bias and not re.match("(local_)?cls_norm", name):
      out[name] = x
  return _VIT.to_params(out, found)


def _check_periods(x):
  if not np.allclose(x, _periods(len(x)), rtol=1e-2):  # Some are bfloat16.
    raise ValueError(
      f"{_PERIODS} in the checkpoint are not those of a base of {_THETA}."
    )


def _periods(num):
  return np.float32(_THETA ** (np.arange(num) / num))


def _to_tensors(params, found):
  tensors, settings = _VIT.to_tensors(params, found)
  out = {}
  for name, x in tensors.items():
    if name.endswith("attn.q_bias"):
      start = name.removesuffix("q_bias")
      parts = [x, np.zeros_like(x), tensors[f"{start}v_bias"]]
      out[f"{start}qkv.bias"] = np.concatenate(parts)
      mask = [np.ones_like(x), np.zeros_like(x), np.ones_like(x)]
      out[f"{start}qkv.bias_mask"] = np.concatenate(mask)
    elif not name.endswith("attn.v_bias"):
      out[name] = x
  return out, settings


def _extra(found):
  model = vit.Model(**found.model)
  return {
    "mask_token": np.zeros([1, model.width], np.float32),
    _PERIODS: _periods(model.width // model.num_heads // 4),
  }


_VIT = vit_family.make(
  "DINOv3",
  "original",
  r"(.*\.)?storage_tokens$",
  read=_read,
  settings=lambda found: {},
  layout=lambda model, found: _LAYOUT | (_GATED if model.glu else {}),
  extra=_extra,
)
# What it writes can only be seen from the result: one tensor of biases.
FAMILY = dataclasses.replace(
  _VIT, to_params=_to_params, to_tensors=_to_tensors, written=None
)
