"""ViT and DeiT of transformers, and the encoder of MAE.

  ViTModel, DeiTModel, ViTMAEModel        tokens; the pooler is `pre_logits`
  ViTForImageClassification, DeiTForImageClassification[WithTeacher]
  ViTMAEForPreTraining                    only its encoder is read

References:
  Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929
  Touvron et al. 2020, DeiT, https://arxiv.org/abs/2012.12877
  He et al. 2021, MAE, https://arxiv.org/abs/2111.06377
"""

from big_vision.models import vit
from big_vision.models.weights import settings, vit_family
from big_vision.models.weights.family import Found

_DEFAULTS = dict(
  hidden_size=768,
  num_hidden_layers=12,
  num_attention_heads=12,
  intermediate_size=3072,
  hidden_act="gelu",
  layer_norm_eps=1e-12,
  image_size=224,
  patch_size=16,
  num_channels=3,
  qkv_bias=True,
  pooler_act="tanh",
)
LAYOUT = dict(
  embedding="embeddings.patch_embeddings.projection",
  pos_embedding="embeddings.position_embeddings",
  cls="embeddings.cls_token",
  dist="embeddings.distillation_token",
  registers="embeddings.distillation_token",
  block="encoder.layer.{i}.",
  norm1="layernorm_before",
  norm2="layernorm_after",
  query="attention.attention.query",
  key="attention.attention.key",
  value="attention.attention.value",
  out="attention.output.dense",
  fc1="intermediate.dense",
  fc2="output.dense",
  norm="layernorm",
  pre_logits="pooler.dense",
  head="classifier",
)
_PREFIXES = ("vit.", "deit.")
_MASK = "embeddings.mask_token"  # Of SimMIM.


def _read(config, shapes):
  s = settings.Settings(config, _DEFAULTS)
  s.one_of("num_channels", [3])
  kind = config["model_type"]
  names = {_plain(name) for name in shapes}
  distilled = kind == "deit"
  teacher = "distillation_classifier.weight" in names
  head = names & {"classifier.weight", "cls_classifier.weight"}
  pooler = "pooler.dense.weight" in names and not head
  if pooler:
    s.one_of("pooler_act", ["tanh"])
  model = s.sizes() | dict(
    patch_size=s.pair("patch_size"),
    pool_type="tok",
    attn_bias="qkvo" if s.get("qkv_bias") else "o",
    rep_size=pooler,
  )
  if teacher:
    model["dist_token"] = True
  elif distilled:  # Its token has no head: no more than a register.
    model["registers"] = 1
  num_classes = settings.num_classes(config) if head else None
  more = {"rep_size": False} if pooler else {}  # Their head has no pooler.
  return Found("vit", model, num_classes, s.pair("image_size"), head=more)


def _plain(name):
  """Strips the name of the part, which a model without a head lacks."""
  for prefix in _PREFIXES:
    name = name.removeprefix(prefix)
  return name


def _used(name, found):
  name = _plain(name)
  if name.startswith("decoder.") or name == _MASK:
    return None
  if name.startswith("pooler.") and not found.model.get("rep_size"):
    return None  # transformers does not use it, either, where there is a head.
  return name


def _named(name, found):
  heads = ("classifier.", "cls_classifier.", "distillation_classifier.")
  if not found.num_classes or name.startswith(heads):
    return name
  return f"{_kind(vit.Model(**found.model))}.{name}"


def _layout(model, found):
  del found
  if not model.dist_token:
    return LAYOUT
  heads = dict(head="cls_classifier", head_dist="distillation_classifier")
  return LAYOUT | heads


def _kind(model):
  return "deit" if model.dist_token or model.registers else "vit"


def _settings(found):
  model = vit.Model(found.num_classes, **found.model)
  kind = _kind(model)
  name = {"vit": "ViT", "deit": "DeiT"}[kind]
  teacher = "WithTeacher" if model.dist_token else ""
  end = f"ForImageClassification{teacher}" if found.num_classes else "Model"
  return settings.of_vit(model, found.image_size) | {
    "architectures": [name + end],
    "model_type": kind,
    "qkv_bias": "q" in model.attn_bias,
  }


FAMILY = vit_family.make(
  "ViT, DeiT, MAE",
  "transformers",
  "vit|deit|vit_mae",
  read=_read,
  settings=_settings,
  layout=_layout,
  plain=_used,
  named=_named,
)
