"""State dicts of first releases: DINO, MoCo v3, MAE, DeiT, DINOv2.

They have no settings: sizes are those of the tensors, and the rest is what the
papers' models have in common. Their names are those of timm.

  [teacher.|student.][module.]backbone.*              DINO, DINOv2
  [state_dict.]module.(base|momentum)_encoder.*       MoCo v3
  model.*                                             MAE, DeiT, DeiT-III
  *                                                   DINO, DINOv2
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision.models import vit
from big_vision.models.weights import timm_settings, timm_vit, vit_family
from big_vision.models.weights.family import Found
from big_vision.models.weights.vit_layout import Packed

_MOCO = "module.base_encoder."
# Those that are preferred come first.
_PREFIXES = tuple(
  more + prefix
  for prefix in (
    "teacher.module.backbone.", "teacher.backbone.", _MOCO,
    "module.momentum_encoder.", "student.module.backbone.",
    "student.backbone.", "module.backbone.", "backbone.", "model.", "",
  )
  for more in ("", "state_dict.")
)  # fmt: skip
_KERNEL = "patch_embed.proj.weight"
_LAYOUT = timm_vit.LAYOUT | dict(registers="register_tokens")
_GLU = dict(
  fc1=Packed("mlp.w12", (0, 2)), up=Packed("mlp.w12", (1, 2)), fc2="mlp.w3"
)
# Of pre-training.
_UNUSED = r"mask_token|decoder_|head\.\d|head\.(mlp|last_layer)"


def prefix_of(names: Mapping[str, Any]) -> str:
  """Finds what the names of a ViT begin with.

  Args:
    names: of all tensors of a checkpoint.

  Returns:
    The prefix.

  Raises:
    ValueError: there is no ViT among them.
  """
  for prefix in _PREFIXES:
    if prefix + _KERNEL in names:
      return prefix
  raise ValueError(
    f"The checkpoint has no config.json, and no {_KERNEL}, as the released ViTs "
    "that can be told without have."
  )


def plain(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """Strips the names of a checkpoint, and leaves out what is not the ViT.

  Args:
    tensors: name -> array or shape.

  Returns:
    The same with the names of timm.
  """
  prefix = prefix_of(tensors)
  out = {}
  for name, x in tensors.items():
    if not name.startswith(prefix):
      continue
    name = name.removeprefix(prefix)
    if re.match(_UNUSED, name):
      continue
    name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)  # In chunks.
    out[re.sub(r"\.gamma_(\d)$", r".ls\1.gamma", name)] = x  # Of DeiT-III.
  return out


def sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Reads sizes.

  Args:
    shapes: plain name -> shape.

  Returns:
    Dict with width, depth and patch_size.
  """
  width, _, *patch = timm_settings.shape(shapes, _KERNEL, "a ViT")
  blocks = {n.split(".")[1] for n in shapes if n.startswith("blocks.")}
  return dict(width=width, depth=len(blocks), patch_size=tuple(patch))


def _read(config, shapes):
  del config
  prefix, shapes = prefix_of(shapes), plain(shapes)
  has = lambda part: any(n.startswith(part) for n in shapes)
  if not prefix and any(map(has, ("head", "fc_norm", "norm_pre", "reg_token"))):
    raise ValueError(
      "The checkpoint has no config.json, and its tensors are those of many ViTs "
      "of timm: copy that file, too."
    )
  glu = has("blocks.0.mlp.w12.")
  model = sizes(shapes)
  width = model["width"]
  first = "blocks.0.mlp.w3" if glu else "blocks.0.mlp.fc2"
  model |= dict(
    mlp_dim=timm_settings.shape(shapes, f"{first}.weight", "a ViT")[1],
    num_heads=_heads(width, "_encoder." in prefix),
    act="silu" if glu else "gelu_erf",
    glu=glu,
    attn_bias="qkvo" if has("blocks.0.attn.qkv.bias") else "o",
    pool_type="gap" if has("fc_norm.") else "tok",
    class_token=True,
    pool_norm=has("fc_norm."),
  )
  if has("blocks.0.ls1"):
    model["layerscale"] = 1e-5
  if has("dist_token"):
    model["dist_token"] = True
  if has("register_tokens"):
    model["registers"] = shapes["register_tokens"][1]
  num_classes = shapes["head.weight"][0] if "head.weight" in shapes else None
  resample = "bicubic" if prefix else "bicubic_dino"
  if has("register_tokens"):
    resample = "bicubic_antialias"
  size = _image_size(shapes, model)
  return Found("vit", model, num_classes, size, resample)


def _heads(width, moco):
  """Returns the number of heads: they have 64 features, with two exceptions."""
  return {384: 12 if moco else 6, 1280: 16}.get(width, max(width // 64, 1))


def _image_size(shapes, model):
  """Returns the size of the square grid of positions, in pixels."""
  num = timm_settings.shape(shapes, "pos_embed", "a ViT")[1]
  tokens = 1 + model.get("dist_token", False)
  for rest in (num - tokens, num):  # DeiT-III has none for its token.
    side = math.isqrt(max(rest, 0))
    if side and side * side == rest:
      return tuple(side * p for p in model["patch_size"])
  raise ValueError(
    f"pos_embed has {num} positions, which are those of no square image."
  )


def _is_deit3(model):
  return model.layerscale is not None and bool(model.num_classes)


def _layout(model, found):
  del found
  return _LAYOUT | (_GLU if model.glu else {})


def _named(name, found):
  """Prefixes the names as the release with such a model has them."""
  model = vit.Model(found.num_classes, **found.model)
  if model.num_classes:
    name = re.sub(r"\.ls(\d)\.gamma$", r".gamma_\1", name)
    return f"model.{name}"
  is_moco = model.num_heads != _heads(model.width, moco=False)
  return f"state_dict.{_MOCO}{name}" if is_moco else name


def _extra(found):
  """Returns what DINOv2 expects."""
  model = vit.Model(found.num_classes, **found.model)
  if model.layerscale is None or model.num_classes:
    return {}
  return {"mask_token": np.zeros([1, model.width], np.float32)}


_VIT = vit_family.make(
  "DINO, MoCo v3, MAE, DeiT, DINOv2",
  "original",
  r"(state_dict\.)?((teacher|student|model|backbone|module|base_encoder"
  r"|momentum_encoder)\.)*(cls_token|patch_embed\.proj\.)",
  read=_read,
  settings=lambda found: {},
  layout=_layout,
  tokens=lambda model: [] if _is_deit3(model) else ["cls", "dist"],
  named=_named,
  extra=_extra,
)
FAMILY = dataclasses.replace(
  _VIT, to_params=lambda tensors, found: _VIT.to_params(plain(tensors), found)
)
