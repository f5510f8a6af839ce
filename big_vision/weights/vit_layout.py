"""The parameters of `models/vit` in files of other libraries.

A layout is a mapping from the parts of a ViT to the names of their tensors:

  embedding, pos_embedding, cls, dist, registers, pre_norm
  block              prefix of a block, with {i} for its number
  norm1, norm2, query, key, value, out, query_norm, key_norm, ls1, ls2
  qkv                in place of query, key and value, packed
  fc1, up, fc2       up: of gated MLPs
  gate_up            in place of fc1 and up, packed
  norm, pool_norm, pre_logits, head, head_dist
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision.weights import tables

Layout = Mapping[str, str]


def table(
  layout: Layout, model: Any, positions: int, channels: int = 3
) -> tables.Table:
  """Makes the table of a ViT.

  Args:
    layout: names of the tensors, see the top of this file.
    model: `vit.Model(...)`; its fields tell what there is.
    positions: number of learned positions of patches; 0 if it has none.
    channels: of images.

  Returns:
    The table. Positions of other tokens than patches, which some layouts have,
    are `fold`ed before.
  """
  d = model.width
  out = tables.conv(
    layout["embedding"], "embedding", model.patch_size, channels, d,
    bias=model.patch_bias,
  )  # fmt: skip
  if positions:
    shape = (1, positions, d)
    out += tables.same(layout["pos_embedding"], "pos_embedding", *shape)
  if has_class_token(model):
    out += tables.same(layout["cls"], "cls", 1, 1, d)
  if model.dist_token:
    out += tables.same(layout["dist"], "dist", 1, 1, d)
  if model.registers:
    shape = (1, model.registers, d)
    out += tables.same(layout["registers"], "registers", *shape)
  if model.pre_norm:
    out += _norm(layout, "pre_norm", "pre_norm", model)
  out += encoder(layout, model, "Transformer/", not model.pool_norm)
  if model.pool_norm:
    out += _norm(layout, "pool_norm", "pool_norm", model)
  size = d * (2 if model.pool_type == "tok+gap" else 1)
  if model.rep_size:
    rep = d if model.rep_size is True else model.rep_size
    out += tables.dense(layout["pre_logits"], "pre_logits", (size,), (rep,))
    size = rep
  if model.num_classes:
    for name in ("head", *(["head_dist"] if model.dist_token else [])):
      out += tables.dense(
        layout[name], name, (size,), (model.num_classes,), bias=model.head_bias
      )
  return out


def has_class_token(model: Any) -> bool:
  """Tells whether a ViT has a class token."""
  if model.class_token is None:
    return model.pool_type in ("tok", "tok+gap")
  return model.class_token


def encoder(
  layout: Layout, model: Any, path: str, final_norm: bool = True
) -> tables.Table:
  """Makes the part of the table for the blocks and the norm after them.

  Args:
    layout: see the top of this file.
    model: module with the fields of `transformer.Encoder`.
    path: of the encoder's parameters, with a slash.
    final_norm: whether it has this norm.

  Returns:
    The table.
  """
  out: tables.Table = []
  for i in range(model.depth):
    out += _block(layout, model, layout["block"].format(i=i), path, i)
  if final_norm:
    out += _norm(layout, "norm", f"{path}encoder_norm", model)
  return out


def _block(layout, model, there, path, i):
  d, h = model.width, model.num_heads
  m = model.mlp_dim or 4 * d
  heads, bias = (h, d // h), model.attn_bias
  here = f"{path}encoderblock_{i}/"
  attention = f"{here}MultiHeadDotProductAttention_0/"
  norm = {"layer": "LayerNorm", "rms": "RMSNorm"}[model.norm]
  name = lambda part: there + layout[part]
  out = _norm(layout, "norm1", f"{here}{norm}_0", model, there)
  for j, part in enumerate(("query", "key", "value")):
    packed = "qkv" in layout
    out += tables.dense(
      name("qkv" if packed else part), f"{attention}{part}", (d,), heads,
      bias=part[0] in bias, part=(j, 3) if packed else (0, 1),
    )  # fmt: skip
  if model.qk_norm:
    for part in ("query_norm", "key_norm"):
      out += tables.norm(
        name(part), attention + part, d // h, bias=model.qk_norm == "layer"
      )
  out += tables.dense(
    name("out"), f"{attention}out", heads, (d,), bias="o" in bias
  )
  out += _norm(layout, "norm2", f"{here}{norm}_1", model, there)
  mlp, bias = f"{here}MlpBlock_0/", model.mlp_bias
  if not model.glu:
    out += tables.dense(name("fc1"), f"{mlp}Dense_0", (d,), (m,), bias=bias)
  else:
    for j, (part, layer) in enumerate((("fc1", "Dense_0"), ("up", "up"))):
      packed = "gate_up" in layout
      out += tables.dense(
        name("gate_up" if packed else part), mlp + layer, (d,), (m,),
        bias=bias, part=(j, 2) if packed else (0, 1),
      )  # fmt: skip
  out += tables.dense(name("fc2"), f"{mlp}Dense_1", (m,), (d,), bias=bias)
  if model.layerscale is not None:
    out += tables.same(name("ls1"), f"{here}ls1", d)
    out += tables.same(name("ls2"), f"{here}ls2", d)
  return out


def _norm(layout, part, path, model, there=""):
  bias = model.norm == "layer"
  return tables.norm(there + layout[part], path, model.width, bias=bias)


def fold(
  tensors: Mapping[str, np.ndarray], positions: str, tokens: tuple[str, ...]
) -> dict[str, np.ndarray]:
  """Adds the positions of class and other tokens to these tokens.

  Args:
    tensors: name -> array.
    positions: name of the positions [1, P + N, D]; their first P belong to
    tokens: P names of tensors [1, 1, D].

  Returns:
    The tensors, with positions [1, N, D].
  """
  out, pos = dict(tensors), tensors[positions]
  for i, name in enumerate(tokens):
    out[name] = tensors[name] + pos[:, i : i + 1]
  return out | {positions: pos[:, len(tokens) :]}


def unfold(
  tensors: Mapping[str, np.ndarray], positions: str, num: int
) -> dict[str, np.ndarray]:
  """Gives P tokens positions of zeros, for layouts in which they have some.

  Args:
    tensors: name -> array.
    positions: name of the positions [1, N, D].
    num: P.

  Returns:
    The tensors, with positions [1, P + N, D].
  """
  pos = tensors[positions]
  return {**tensors, positions: np.pad(pos, [(0, 0), (num, 0), (0, 0)])}
