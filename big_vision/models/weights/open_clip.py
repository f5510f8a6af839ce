"""CLIP and SigLIP of open_clip: both towers.

The image tower is a ViT of open_clip or, as that of SigLIP, one of timm, which
open_clip builds from its name alone.

Reference: https://github.com/mlfoundations/open_clip
"""

import re
from typing import Any

import numpy as np

from big_vision.models import vit
from big_vision.models.proj.image_text import text_transformer
from big_vision.models.weights import settings, timm_vit, vit_family, vit_layout
from big_vision.models.weights.family import TEXT_MODEL, TWO_TOWERS, Found
from big_vision.models.weights.vit_layout import Matrix, Packed

_ENDS = ("in_proj_weight", "in_proj_bias")
_BLOCK: dict[str, Any] = dict(
  block="transformer.resblocks.{i}.",
  norm1="ln_1",
  norm2="ln_2",
  query=Packed("attn.", (0, 3), _ENDS),
  key=Packed("attn.", (1, 3), _ENDS),
  value=Packed("attn.", (2, 3), _ENDS),
  out="attn.out_proj",
  fc1="mlp.c_fc",
  fc2="mlp.c_proj",
  ls1="ls_1.gamma",
  ls2="ls_2.gamma",
  pos_embedding="positional_embedding",
)
IMAGE = _BLOCK | dict(
  embedding="conv1",
  cls="class_embedding",
  pre_norm="ln_pre",
  norm="ln_post",
  pool_norm="ln_post",
  head=Matrix("proj"),
  flat=True,
)
TEXT = _BLOCK | dict(
  embed="token_embedding.weight",
  norm="ln_final",
  head=Matrix("text_projection"),
)
_DEFAULTS = dict(init_logit_scale=float(np.log(1 / 0.07)))
_IMAGE_DEFAULTS = dict(
  layers=12, width=768, head_width=64, mlp_ratio=4.0, patch_size=16,
  image_size=224, pool_type="tok", pos_embed_type="learnable",
  timm_pool="avg", timm_proj="linear",
)  # fmt: skip
_TEXT_DEFAULTS = dict(
  layers=12, width=512, heads=8, mlp_ratio=4.0, context_length=77,
  vocab_size=49408, pool_type="argmax", proj_type="linear", eos_id=2,
)  # fmt: skip
# What changes the models, and is not here.
_REFUSED = (
  "attentional_pool", "qk_norm", "scaled_cosine_attn", "scale_heads",
  "scale_attn_inner", "scale_attn", "scale_fc", "embed_cls", "hf_model_name",
)  # fmt: skip
_POOLS = dict(tok="tok", avg="gap")
_TEXT_POOLS = dict(argmax="eot", eos="eot", last="last", first="first")


def _read(config, shapes):
  where = "open_clip_config.json: model_cfg"
  c = settings.Settings(config["model_cfg"], _DEFAULTS, where)
  image, text = (c.section(f"{kind}_cfg") for kind in ("vision", "text"))
  s = settings.Settings(image, _IMAGE_DEFAULTS, f"{where}.vision_cfg")
  t = settings.Settings(text, _TEXT_DEFAULTS, f"{where}.text_cfg")
  for part in (s, t):
    for key in _REFUSED:
      part.one_of(key, [None, False])
  dim = c.integer("embed_dim")
  act = "quick_gelu" if c.get("quick_gelu") else "gelu_erf"
  name = s.get("timm_model_name")
  image_dim, has_text = dim, t.one_of("proj_type", ["linear", "none"])
  if name:
    found = _read_trunk(s, name, shapes)
    image_model, size = found.model, found.image_size
    image_dim = found.num_classes
  else:
    image_model, size = _read_image(s, act), s.pair("image_size")
  model = dict(
    image=image_model,
    text=_read_text(t, act),
    text_model=TEXT_MODEL,
    out_dim=(image_dim, None if has_text == "none" else dim),
    temperature_init=float(np.exp(c.number("init_logit_scale"))),
  )
  if c.get("init_logit_bias") is not None:
    model["bias_init"] = c.number("init_logit_bias")
  length = t.integer("context_length")
  return Found(
    TWO_TOWERS, model, None, size, text_length=length, architecture=name
  )


def _transformer(s, act):
  width, scale = s.integer("width"), s.get("ls_init_value")
  norm = settings.Settings(s.section("norm_kwargs"), dict(eps=1e-5))
  if s.section("act_kwargs").get("approximate") == "tanh":
    act = "gelu"
  return dict(
    width=width,
    depth=s.integer("layers"),
    mlp_dim=int(width * s.number("mlp_ratio")),
    act=act,
    norm_eps=norm.number("eps"),
    layerscale=scale if scale is None else s.number("ls_init_value"),
  )


def _read_image(s, act):
  model = _transformer(s, act)
  return model | dict(
    num_heads=model["width"] // s.integer("head_width"),
    patch_size=s.pair("patch_size"),
    patch_bias=False,
    pool_type=_POOLS[s.one_of("pool_type", _POOLS)],
    class_token=True,
    pre_norm=not s.get("no_ln_pre"),
    pool_norm=bool(s.get("final_ln_after_pool")),
    head_bias=False,
  )


def _read_trunk(s, name, shapes):
  """Reads a tower of timm."""
  proj = s.one_of("timm_proj", ["linear", "none", ""])
  pool = s.get("timm_pool")
  within = {
    k.removeprefix("visual.trunk."): v
    for k, v in shapes.items()
    if k.startswith("visual.trunk.")
  }
  size = list(s.pair("image_size"))
  args = dict(img_size=size, **({"global_pool": pool} if pool else {}))
  trunk = dict(architecture=name, model_args=args)
  if not re.match(timm_vit.FAMILY.kinds, str(name)):
    s.one_of("timm_model_name", ["a ViT of timm"])
  found = timm_vit.FAMILY.read(trunk, within)
  head = shapes.get("visual.head.proj.weight")
  if proj == "linear" and head:
    bias = "visual.head.proj.bias" in shapes
    model = found.model | dict(head_bias=bias)
    return Found("vit", model, head[0], found.image_size)
  return found


def _read_text(t, act):
  pool = t.one_of("pool_type", _TEXT_POOLS)
  return _transformer(t, act) | dict(
    num_heads=t.integer("heads"),
    vocab_size=t.integer("vocab_size"),
    pool_type=_TEXT_POOLS[pool],
    eot_token=t.get("eos_id") if pool == "eos" else None,
    causal=not t.get("no_causal_mask"),
    head_bias=bool(t.get("proj_bias")),
  )


def _is_trunk(model, found):
  """Tells whether the image tower is one of timm."""
  return found.architecture is not None or model.patch_bias


def layout(model: Any, found: Found) -> vit_layout.Layout:
  """Returns the names of the image tower, without prefix.

  Args:
    model: `vit.Model(...)`.
    found: both towers.

  Returns:
    The layout.
  """
  if _is_trunk(model, found):
    return timm_vit.layout(model, found)
  return IMAGE


def text_layout(model: Any, found: Found) -> vit_layout.Layout:
  """Returns the names of the text tower, without prefix.

  Args:
    model: `text_transformer.Model(...)`.
    found: not used.

  Returns:
    The layout.
  """
  del found
  return TEXT | (dict(head="text_projection") if model.head_bias else {})


def plain(name: str, found: Found) -> str:
  """Turns the name of a tensor into that of a table.

  Args:
    name: of the tensor.
    found: both towers, or one of them.

  Returns:
    The plain name, see `vit_family`.
  """
  if name.startswith("logit_"):
    return name
  both = found.model_name == TWO_TOWERS  # Else it is one of them.
  if name.startswith("visual."):
    name = name.removeprefix("visual.").removeprefix("trunk.")
    return "img/" * both + name.replace("head.proj.", "head.")
  return "txt/" * both + name.removeprefix("text.")


def named(name: str, found: Found) -> str:
  """Turns the name of a table into that of a tensor.

  Args:
    name: plain name, see `vit_family`.
    found: both towers.

  Returns:
    The name of the tensor.
  """
  part, _, rest = name.rpartition("/")
  if not part:
    return name
  image = vit.Model(**found.model["image"])
  trunk = _is_trunk(image, found)
  if part == "txt":
    return f"text.{rest}" if trunk else rest
  if trunk and rest.startswith("head."):
    return f"visual.head.proj.{rest.removeprefix('head.')}"
  return f"visual.trunk.{rest}" if trunk else f"visual.{rest}"


def _settings(found):
  m = found.model
  image_dim, text_dim = vit_family.out_dims(found)
  image = vit.Model(image_dim, **m["image"])
  text = text_transformer.Model(text_dim, **m["text"])
  trunk = _is_trunk(image, found)
  one = lambda size: size[0] if size[0] == size[1] else list(size)
  if trunk:
    vision = dict(
      timm_model_name=found.architecture or _siglip(image, found),
      timm_model_pretrained=False,
      timm_pool=timm_vit.POOLS.get(image.pool_type, ""),
      timm_proj="linear" if image_dim else "none",
      timm_proj_bias=bool(image_dim) and image.head_bias,
    )
  else:
    pools = {there_to: there for there, there_to in _POOLS.items()}
    vision = _written(image) | dict(
      head_width=image.width // image.num_heads,
      patch_size=one(image.patch_size),
      no_ln_pre=not image.pre_norm,
      final_ln_after_pool=image.pool_norm,
      pool_type=settings.known(
        "config.model.image.pool_type", image.pool_type, pools, _TITLE
      ),
    )
  pools = dict(last="last", first="first")
  pools["eot"] = "argmax" if text.eot_token is None else "eos"
  words = _written(text) | dict(
    heads=text.num_heads,
    context_length=found.text_length,
    vocab_size=text.vocab_size,
    no_causal_mask=not text.causal,
    pool_type=settings.known(
      "config.model.text.pool_type", text.pool_type, pools, _TITLE
    ),
    proj_type="linear" if text_dim else "none",
    proj_bias=bool(text_dim) and text.head_bias,
  )
  if text.eot_token is not None:
    words["eos_id"] = text.eot_token
  config = dict(
    embed_dim=text_dim or image_dim or text.width,
    init_logit_scale=float(np.log(m.get("temperature_init", 1.0))),
    quick_gelu=text.act == "quick_gelu",
    custom_text=trunk,
    vision_cfg=vision | dict(image_size=one(found.image_size)),
    text_cfg=words,
  )
  if m.get("bias_init") is not None:
    config["init_logit_bias"] = m["bias_init"]
  return dict(model_cfg=config)


_TITLE = "open_clip's CLIP"


def _written(model):
  """Writes what both towers have."""
  out = dict(
    layers=model.depth,
    width=model.width,
    mlp_ratio=settings.ratio(model.mlp_dim or 4 * model.width, model.width),
    norm_kwargs=dict(eps=model.norm_eps),
  )
  if model.act == "gelu":
    out["act_kwargs"] = dict(approximate="tanh")
  if model.layerscale is not None:
    out["ls_init_value"] = model.layerscale
  return out


# Width, depth, hidden width -> size in the names of timm.
_SIZES = {
  (768, 12, 3072): "base",
  (1024, 24, 4096): "large",
  (1152, 27, 4304): "so400m",
  (1536, 40, 6144): "giantopt",
}


def _siglip(model, found):
  """Returns the name in timm of a SigLIP's image tower."""
  sizes = model.width, model.depth, model.mlp_dim or 4 * model.width
  size = settings.known(
    "config.model.image.(width, depth, mlp_dim)", sizes, _SIZES, "timm's SigLIP"
  )
  patch, pixels = model.patch_size[0], found.image_size[0]
  return f"vit_{size}_patch{patch}_siglip_{pixels}"


PREFIXES = dict(
  img=("visual.",),
  txt=(
    "text.",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
  ),
)
FAMILY = vit_family.make(
  "CLIP, SigLIP",
  "open_clip",
  "",
  read=_read,
  settings=_settings,
  layout=layout,
  text_layout=text_layout,
  plain=plain,
  named=named,
  tokens=lambda model: ["cls"],
  models=(TWO_TOWERS,),
  prefixes=PREFIXES,
)
