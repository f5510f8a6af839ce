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
from big_vision.models.weights import settings, tables, vit_layout
from big_vision.models.weights.family import Family, Found

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
_LAYOUT = dict(
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

_MODEL = "transformers' ViT"


def _read(config, shapes):
  s = settings.Settings(config, _DEFAULTS)
  s.one_of("num_channels", [3])
  kind = config["model_type"]
  names = {_plain(name) for name in shapes}
  distilled = kind == "deit"
  teacher = "distillation_classifier.weight" in names
  pooler = "pooler.dense.weight" in names
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
  head = names & {"classifier.weight", "cls_classifier.weight"}
  num_classes = settings.num_classes(config) if head else None
  return Found("vit", model, num_classes, s.pair("image_size"))


def _plain(name):
  """Strips the name of the part, which a model without a head lacks."""
  for prefix in _PREFIXES:
    name = name.removeprefix(prefix)
  return name


def _table(found):
  model = vit.Model(found.num_classes, **found.model)
  rows, columns = (
    s // p for s, p in zip(found.image_size, model.patch_size, strict=True)
  )
  layout = dict(_LAYOUT)
  if model.dist_token:
    layout |= dict(head="cls_classifier", head_dist="distillation_classifier")
  return vit_layout.table(layout, model, rows * columns)


def _tokens(found):
  """Returns the names of the tokens that have positions."""
  second = found.model.get("dist_token") or found.model.get("registers")
  return (_LAYOUT["cls"], *([_LAYOUT["dist"]] if second else []))


def _to_params(tensors, found):
  tensors = {
    _plain(name): x
    for name, x in tensors.items()
    if not name.startswith("decoder.") and _plain(name) != _MASK
  }
  tensors = vit_layout.fold(tensors, _LAYOUT["pos_embedding"], _tokens(found))
  return tables.to_params(_table(found), tensors, "the checkpoint", _MODEL)


_MASK = "embeddings.mask_token"  # Of SimMIM.


def _to_tensors(params, found):
  tensors = tables.to_tensors(_table(found), params, _MODEL)
  tokens = _tokens(found)
  tensors = vit_layout.unfold(tensors, _LAYOUT["pos_embedding"], tokens)
  kind = "deit" if len(tokens) > 1 else "vit"
  if found.num_classes:
    heads = ("classifier.", "cls_classifier.", "distillation_classifier.")
    tensors = {
      name if name.startswith(heads) else f"{kind}.{name}": x
      for name, x in tensors.items()
    }
  return tensors, _config(found, kind)


def _config(found, kind):
  model = vit.Model(found.num_classes, **found.model)
  name = {"vit": "ViT", "deit": "DeiT"}[kind]
  teacher = "WithTeacher" if model.dist_token else ""
  end = f"ForImageClassification{teacher}" if found.num_classes else "Model"
  return {
    "architectures": [name + end],
    "model_type": kind,
    **settings.written(model),
    "hidden_act": settings.ACTIVATION_NAMES[model.act],
    "layer_norm_eps": model.norm_eps,
    **settings.pixels(found.image_size, model.patch_size),
    "num_channels": 3,
    **settings.classes(found.num_classes),
    "qkv_bias": "q" in model.attn_bias,
  }


FAMILY = Family(
  "ViT, DeiT, MAE",
  "transformers",
  "vit|deit|vit_mae",
  _read,
  _to_params,
  _to_tensors,
)
