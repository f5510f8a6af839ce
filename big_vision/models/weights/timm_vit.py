"""ViTs of timm: AugReg, DeiT and DeiT-III, MAE, DINO, DINOv2, CLIP, SigLIP, …

timm builds a model from the name of its architecture. Most of what the name
stands for shows in the tensors; the rest is in this file. GELU is exact there,
also where the original models have the approximation with tanh.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from big_vision.models import vit
from big_vision.models.weights import (
  settings,
  timm_settings,
  vit_family,
  vit_layout,
)
from big_vision.models.weights.family import Found
from big_vision.models.weights.vit_layout import Packed

LAYOUT: dict[str, Any] = dict(
  embedding="patch_embed.proj",
  pos_embedding="pos_embed",
  cls="cls_token",
  dist="dist_token",
  registers="reg_token",
  pre_norm="norm_pre",
  block="blocks.{i}.",
  norm1="norm1",
  norm2="norm2",
  query=Packed("attn.qkv", (0, 3)),
  key=Packed("attn.qkv", (1, 3)),
  value=Packed("attn.qkv", (2, 3)),
  query_norm="attn.q_norm",
  key_norm="attn.k_norm",
  out="attn.proj",
  fc1="mlp.fc1",
  fc2="mlp.fc2",
  ls1="ls1.gamma",
  ls2="ls2.gamma",
  norm="norm",
  map_probe="attn_pool.latent",
  map_query="attn_pool.q",
  map_key=Packed("attn_pool.kv", (0, 2)),
  map_value=Packed("attn_pool.kv", (1, 2)),
  map_out="attn_pool.proj",
  map_norm="attn_pool.norm",
  map_fc1="attn_pool.mlp.fc1",
  map_fc2="attn_pool.mlp.fc2",
  pool_norm="fc_norm",
  head="head",
  head_dist="head_dist",
)
_GLU = dict(fc1=Packed("mlp.fc1", (0, 2)), up=Packed("mlp.fc1", (1, 2)))
# Heads have 64 features but for these architectures.
_SIXTEEN_HEADS = r"so400m|huge|gigantic|giantopt|giant_patch1[46]_(gap|clip|224)|base_patch16_gap"
_TANH = r"so400m_patch16_siglip|giantopt|patch32_siglip|large_patch16_siglip_(gap_)?512"
POOLS = {"gap": "avg", "tok": "token", "0": "token", "map": "map", "none": ""}


def _read(config, shapes):
  name = str(config.get("architecture", ""))
  args = settings.Settings(config, {}).section("model_args")
  _check_kind(name, args)
  width, _, *patch = timm_settings.shape(
    shapes, "patch_embed.proj.weight", "timm's ViT"
  )
  has = lambda part: any(n.startswith(part) for n in shapes)
  depth = len({n.split(".")[1] for n in shapes if n.startswith("blocks.")})
  fc1, fc2 = (
    timm_settings.shape(shapes, f"blocks.0.mlp.fc{i}.weight", "timm's ViT")
    for i in (1, 2)
  )
  glu = fc1[0] == 2 * fc2[1]
  heads = 16 if re.search(_SIXTEEN_HEADS, name) else max(width // 64, 1)
  gap = has("fc_norm.") or "_gap_" in name
  attn_bias = "qkv" * has("blocks.0.attn.qkv.bias")
  model = dict(
    width=width,
    depth=depth,
    mlp_dim=fc2[1],
    num_heads=args.get("num_heads", heads),
    patch_size=tuple(patch),
    patch_bias=has("patch_embed.proj.bias"),
    act=_activation(name, args, glu),
    norm_eps=1e-5 if "_clip_" in name else 1e-6,
    attn_bias=attn_bias + "o" * has("blocks.0.attn.proj.bias"),
    pool_type=pool_type(config, args, has, "gap" if gap else "tok"),
    class_token=has("cls_token"),
    posemb="learn" if has("pos_embed") else None,
    pre_norm=has("norm_pre."),
    pool_norm=has("fc_norm."),
    glu=glu,
  )
  if has("blocks.0.ls1"):
    model["layerscale"] = args.get("init_values", 1e-5)
  if has("blocks.0.attn.q_norm"):
    bias = has("blocks.0.attn.q_norm.bias")
    model["qk_norm"] = "layer" if bias else "rms"
  if has("dist_token"):
    model["dist_token"] = True
  if has("reg_token"):
    model["registers"] = timm_settings.shape(shapes, "reg_token", "timm's ViT")[
      1
    ]
  head = shapes.get("head.weight")
  num_classes = head[0] if head else None
  size = timm_settings.image_size(config)
  return Found(
    "vit",
    model,
    num_classes,
    size,
    "bicubic_antialias",
    architecture=name,
  )


def _check_kind(name, args):
  """Raises ValueError for what does not show in the tensors."""
  for pattern, what in (
    ("_rpn_", "normalizes after its layers"),
    ("_pe_|_rope_|sapiens", "has rotary positions of another kind"),
    ("relpos", "has relative positions"),
    (r"_r\d+_|_r_s16_|resnet", "begins with a ResNet"),
  ):
    if re.search(pattern, name):
      raise ValueError(
        f"config.json: architecture = {name!r} {what}, which models here do not."
      )
  for key in ("norm_layer", "mlp_layer", "block_fn", "attn_layer"):
    if args.get(key) is not None:
      raise ValueError(
        f"config.json: model_args.{key} = {args[key]!r} is not supported."
      )


def _activation(name, args, glu):
  if "act_layer" in args:
    s = settings.Settings(args, {}, "config.json: model_args")
    return settings.ACTIVATIONS[s.one_of("act_layer", settings.ACTIVATIONS)]
  if "quickgelu" in name:
    return "quick_gelu"
  if glu:
    return "silu"
  return "gelu" if re.search(_TANH, name) else "gelu_erf"


def pool_type(
  config: Mapping[str, Any],
  args: Mapping[str, Any],
  has: Callable[[str], bool],
  default: str,
) -> str:
  """Reads how a model pools.

  Args:
    config: content of config.json.
    args: its `model_args`.
    has: beginning of a tensor's name -> whether there is such a tensor.
    default: pool type if neither says one.

  Returns:
    `config.model.pool_type`.

  Raises:
    ValueError: it is unknown.
  """
  if has("attn_pool."):
    return "map"
  pool = args.get("global_pool", config.get("global_pool"))
  known = {"avg": "gap", "token": "tok", "": "none"}
  if pool is not None and pool not in list(known):
    raise ValueError(
      f"config.json: global_pool = {pool!r} is not supported, only "
      f"{', '.join(map(repr, known))}, 'map'."
    )
  return default if pool is None else known[pool]


def layout(model: Any, found: Found) -> vit_layout.Layout:
  """Returns the names of the tensors of a ViT.

  Args:
    model: `vit.Model(...)`.
    found: not used.

  Returns:
    The layout.
  """
  del found
  return LAYOUT | (_GLU if model.glu else {})


def _tokens(model):
  """Returns the tokens with positions, as most of its architectures have it."""
  return [] if model.registers else ["cls", "dist"]


def _settings(found):
  model = vit.Model(found.num_classes, **found.model)
  name = "vit_base_patch16_224"
  if model.norm_eps == 1e-5:
    name = "vit_base_patch16_clip_224"
  if model.glu:
    name = "vit_giant_patch14_dinov2"
  if model.dist_token:
    name = "deit_base_distilled_patch16_224"
  args = sizes(model, found) | dict(
    act_layer=settings.activation(model).replace("_pytorch", ""),
    qkv_bias="q" in model.attn_bias,
    qk_norm=bool(model.qk_norm),
    init_values=model.layerscale,
    class_token=vit_layout.has_class_token(model),
    no_embed_class=bool(model.registers)
    or not vit_layout.has_class_token(model),
    reg_tokens=model.registers,
    pre_norm=model.pre_norm,
    fc_norm=model.pool_norm,
    global_pool=POOLS.get(model.pool_type, ""),
  )
  return timm_settings.written(
    name,
    found,
    args,
    num_features=model.width,
    first_conv="patch_embed.proj",
    classifier="head",
    fixed_input_size=True,
  )


def sizes(model: Any, found: Found) -> dict[str, Any]:
  """Writes the sizes of a ViT.

  Args:
    model: `vit.Model(...)`.
    found: the model.

  Returns:
    Arguments of timm's models.
  """
  mlp_dim = model.mlp_dim or 4 * model.width
  return dict(
    img_size=list(found.image_size),
    patch_size=list(model.patch_size),
    embed_dim=model.width,
    depth=model.depth,
    num_heads=model.num_heads,
    mlp_ratio=settings.ratio(mlp_dim * (1 + model.glu), model.width),
  )


FAMILY = vit_family.make(
  "ViT",
  "timm",
  r"(vit|deit3?|flexivit|eva_large)_",
  read=_read,
  settings=_settings,
  layout=layout,
  tokens=_tokens,
)
