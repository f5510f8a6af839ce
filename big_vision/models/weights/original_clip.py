"""State dicts of OpenAI's CLIP with ViTs, which have no settings.

Reference: Radford et al. 2021, https://arxiv.org/abs/2103.00020
"""

import math
from typing import Any

from big_vision.models.weights import (
  open_clip,
  timm_settings,
  vit_family,
)
from big_vision.models.weights.family import TEXT_MODEL, TWO_TOWERS, Found

# Of the compiled models that were released.
_UNUSED = ("input_resolution", "context_length", "vocab_size")


def _read(config, shapes):
  del config
  shape = lambda name: timm_settings.shape(shapes, name, "CLIP")
  _, _, *patch = shape("visual.conv1.weight")
  image_width, dim = shape("visual.proj")
  length, text_width = shape("positional_embedding")
  side = math.isqrt(max(shape("visual.positional_embedding")[0] - 1, 0))
  common: dict[str, Any] = dict(act="quick_gelu", norm_eps=1e-5)
  image = common | _sizes(shapes, image_width, "visual.transformer.resblocks.")
  image |= dict(
    patch_size=tuple(patch),
    patch_bias=False,
    pool_type="tok",
    class_token=True,
    pre_norm=True,
    head_bias=False,
  )
  text = common | _sizes(shapes, text_width, "transformer.resblocks.")
  text |= dict(
    vocab_size=shape("token_embedding.weight")[0],
    pool_type="eot",
    causal=True,
    head_bias=False,
  )
  model = dict(
    image=image,
    text=text,
    text_model=TEXT_MODEL,
    out_dim=dim,
    temperature_init=1 / 0.07,
  )
  size = (side * patch[0], side * patch[1])
  return Found(TWO_TOWERS, model, None, size, text_length=length)


def _sizes(shapes, width, start):
  at = start.count(".")
  names = [name for name in shapes if name.startswith(start)]
  fc1 = timm_settings.shape(shapes, f"{start}0.mlp.c_fc.weight", "CLIP")
  return dict(
    width=width,
    depth=len({name.split(".")[at] for name in names}),
    mlp_dim=fc1[0],
    num_heads=max(width // 64, 1),
  )


def _plain(name, found):
  return None if name in _UNUSED else open_clip.plain(name, found)


FAMILY = vit_family.make(
  "CLIP",
  "original",
  r"visual\.class_embedding$",
  read=_read,
  settings=lambda found: {},
  layout=open_clip.layout,
  text_layout=open_clip.text_layout,
  plain=_plain,
  named=open_clip.named,
  tokens=lambda model: ["cls"],
  models=(TWO_TOWERS,),
  prefixes=open_clip.PREFIXES,
)
