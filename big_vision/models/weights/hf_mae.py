"""MAE's pre-training model of transformers: ViTMAEForPreTraining.

`hf_vit` reads its encoder alone, which is what is fine-tuned.

Reference: He et al. 2021, https://arxiv.org/abs/2111.06377
"""

import types
from typing import Any

import numpy as np

from big_vision.models import vit
from big_vision.models.proj.mae import mae
from big_vision.models.weights import hf_vit, settings, tables, vit_layout
from big_vision.models.weights.family import Family, Found

_DECODER: dict[str, Any] = hf_vit.LAYOUT | dict(
  block="decoder.decoder_layers.{i}.", norm="decoder.decoder_norm"
)
_DEFAULTS = dict(
  decoder_hidden_size=512,
  decoder_num_hidden_layers=8,
  decoder_num_attention_heads=16,
  decoder_intermediate_size=2048,
  mask_ratio=0.75,
)
_TITLE = "transformers' MAE"
_POS, _CLS = (hf_vit.LAYOUT[key] for key in ("pos_embedding", "cls"))


def _read(config, shapes):
  found = hf_vit.FAMILY.read(config, shapes)
  s = settings.Settings(config, _DEFAULTS)
  keep = ("width", "depth", "num_heads", "mlp_dim", "act", "norm_eps")
  model = {k: found.model[k] for k in (*keep, "patch_size", "attn_bias")}
  model |= dict(
    decoder_width=s.integer("decoder_hidden_size"),
    decoder_depth=s.integer("decoder_num_hidden_layers"),
    decoder_num_heads=s.integer("decoder_num_attention_heads"),
    decoder_mlp_dim=s.integer("decoder_intermediate_size"),
    mask_ratio=float(s.get("mask_ratio")),
  )
  return Found("proj.mae.mae", model, None, found.image_size)


def _encoder(m):
  return vit.Model(
    width=m.width, depth=m.depth, num_heads=m.num_heads, mlp_dim=m.mlp_dim,
    patch_size=m.patch_size, pool_type="tok", **m.options(),
  )  # fmt: skip


def _table(found):
  m = mae.Model(**found.model)
  rows, columns = (
    s // p for s, p in zip(found.image_size, m.patch_size, strict=True)
  )
  # What `vit_layout.encoder` asks of a model.
  decoder = types.SimpleNamespace(
    width=m.decoder_width, depth=m.decoder_depth, mlp_dim=m.decoder_mlp_dim,
    num_heads=m.decoder_num_heads, **m.options(),
  )  # fmt: skip
  d, size = m.decoder_width, m.patch_size[0] * m.patch_size[1] * 3
  names = hf_vit.LAYOUT | {"title": _TITLE}
  return [
    *vit_layout.table(names, _encoder(m), rows * columns),
    *tables.dense("decoder.decoder_embed", "decoder_embed", (m.width,), (d,)),
    *tables.same("decoder.mask_token", "mask_token", 1, 1, d),
    *tables.same(
      "decoder.decoder_pos_embed",
      "decoder_pos_embedding",
      *(1, rows * columns + 1, d),
    ),
    *vit_layout.encoder({**_DECODER, "title": _TITLE}, decoder, "Decoder/"),
    *tables.dense("decoder.decoder_pred", "decoder_pred", (d,), (size,)),
  ]


def _to_params(tensors, found):
  plain = {
    # transformers 5 writes other names than the files on the hub have.
    name.removeprefix("vit.").replace(
      "decoder.decoder_encoder.layer.", "decoder.decoder_layers."
    ): x
    for name, x in tensors.items()
  }
  m = mae.Model(**found.model)
  rows, columns = (
    s // p for s, p in zip(found.image_size, m.patch_size, strict=True)
  )
  plain = vit_layout.fold(plain, _POS, [_CLS], rows * columns)
  return tables.to_params(_table(found), plain, "the checkpoint", _TITLE)


def _to_tensors(params, found):
  tensors = tables.to_tensors(_table(found), params, _TITLE)
  tensors = vit_layout.unfold(tensors, _POS, [_CLS])
  tensors = {
    name if name.startswith("decoder.") else f"vit.{name}": np.asarray(x)
    for name, x in tensors.items()
  }
  m = mae.Model(**found.model)
  sizes = settings.of_vit(_encoder(m), found.image_size)
  return tensors, sizes | {
    "architectures": ["ViTMAEForPreTraining"],
    "model_type": "vit_mae",
    "qkv_bias": "q" in m.attn_bias,
    "decoder_hidden_size": m.decoder_width,
    "decoder_num_hidden_layers": m.decoder_depth,
    "decoder_num_attention_heads": m.decoder_num_heads,
    "decoder_intermediate_size": m.decoder_mlp_dim or 4 * m.decoder_width,
    "mask_ratio": m.mask_ratio,
  }


FAMILY = Family(
  "MAE with its decoder",
  "transformers",
  "vit_mae",
  _read,
  _to_params,
  _to_tensors,
  models=("proj.mae.mae",),
)
