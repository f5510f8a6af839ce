"""DINOv3's ViTs of timm, which are of its class Eva.

Reference: Siméoni et al. 2025, https://arxiv.org/abs/2508.10104
"""

from big_vision.models import vit
from big_vision.models.weights import (
  settings,
  timm_settings,
  timm_vit,
  vit_family,
)
from big_vision.models.weights.family import Found
from big_vision.models.weights.vit_layout import Packed

LAYOUT = {k: x for k, x in timm_vit.LAYOUT.items() if k != "pos_embedding"}
LAYOUT |= dict(
  query=Packed("attn.qkv", (0, 3), bias="attn.q_bias"),
  key=Packed("attn.qkv", (1, 3)),
  value=Packed("attn.qkv", (2, 3), bias="attn.v_bias"),
  ls1="gamma_1",
  ls2="gamma_2",
)
GATED = dict(fc1="mlp.fc1_g", up="mlp.fc1_x")


def _read(config, shapes):
  name = config["architecture"]
  args = settings.Settings(config, {}).section("model_args")
  s = settings.Settings(args, {}, "config.json: model_args")
  for key, known in (
    ("rope_type", (None, "dinov3")),
    ("rope_rotate_half", (None, True)),
    ("rope_grid_indexing", (None, "ij")),
    ("rope_grid_offset", (None, 0)),
    ("norm_layer", (None,)),
  ):
    s.one_of(key, known)
  has = lambda part: any(n.startswith(part) for n in shapes)
  glu = has("blocks.0.mlp.fc1_g.")
  first = "blocks.0.mlp.fc1_g" if glu else "blocks.0.mlp.fc1"
  width, _, *patch = timm_settings.shape(
    shapes, "patch_embed.proj.weight", "timm's DINOv3"
  )
  default = "tok" if "lingbot" in name else "gap"
  model = dict(
    width=width,
    depth=len({n.split(".")[1] for n in shapes if n.startswith("blocks.")}),
    mlp_dim=timm_settings.shape(shapes, f"{first}.weight", "timm's DINOv3")[0],
    num_heads=args.get("num_heads") or _heads(name, width),
    patch_size=tuple(patch),
    act="silu" if glu else "gelu_erf",
    norm_eps=1e-5,
    glu=glu,
    posemb=None,
    rope="dinov3",
    rope_theta=float(args.get("rope_temperature", 100)),
    attn_bias="qvo" if has("blocks.0.attn.q_bias") else "o",
    pool_type=timm_vit.pool_type(config, args, has, default),
    class_token=True,
    pool_norm=has("fc_norm."),
    layerscale=args.get("init_values", 1e-5),
  )
  if has("reg_token"):
    model["registers"] = shapes["reg_token"][1]
  head = shapes.get("head.weight")
  num_classes = head[0] if head else None
  size = timm_settings.image_size(config)
  return Found("vit", model, num_classes, size, architecture=name)


def _heads(name, width):
  """Returns the number of heads: they have 64 features but for the largest."""
  return 32 if "_7b_" in name else max(width // 64, 1)


def _settings(found):
  model = vit.Model(found.num_classes, **found.model)
  biased = "q" in model.attn_bias
  name = "vit_base_patch16_dinov3" + "_qkvb" * biased
  pool = timm_vit.POOLS.get(model.pool_type, "")
  sizes = timm_vit.sizes(model, found)
  if model.glu:
    dim = model.mlp_dim or 4 * model.width
    sizes["mlp_ratio"] = settings.ratio(dim, model.width)
    # 1 is not 0, which stands for another layout.
    sizes |= dict(swiglu_mlp=True, swiglu_align_to=1)
  args = sizes | dict(
    qkv_bias=biased,
    init_values=model.layerscale,
    rope_temperature=model.rope_theta,
    num_reg_tokens=model.registers,
    use_fc_norm=model.pool_norm,
    global_pool=pool,
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


FAMILY = vit_family.make(
  "DINOv3",
  "timm",
  r"vit_\w*(dinov3|lingbot)",
  read=_read,
  settings=_settings,
  layout=lambda model, found: LAYOUT | (GATED if model.glu else {}),
)
