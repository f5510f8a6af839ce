"""The parameters of `models/vit` in files of other libraries.

A layout is a mapping from the parts of a ViT to the names of their tensors:

  embedding, pos_embedding, cls, dist, registers, pre_norm
  block              prefix of a block, with {i} for its number
  norm1, norm2, query, key, value, out, query_norm, key_norm, ls1, ls2
  fc1, up, fc2       up: of gated MLPs
  norm, pool_norm, pre_logits, head, head_dist
  map_probe, map_query, map_key, map_value, map_out, map_norm, map_fc1, map_fc2

The name of a dense layer may be `Packed`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision.models.weights import tables


class Packed(NamedTuple):
  """Names a dense layer that is stored in one tensor with others.

  Attributes:
    name: of the layer's tensors, without `ends`.
    part: (index, number) of the layer among them.
    ends: of the names of kernel and bias.
  """

  name: str
  part: tuple[int, int] = (0, 1)
  ends: tuple[str, str] = (".weight", ".bias")


Layout = Mapping[str, Any]  # Values are str, or `Packed`.


def _dense(layout, part, path, inputs, outputs, bias=True, there=""):
  name = layout[part]
  name = Packed(name) if isinstance(name, str) else name
  return tables.dense(
    there + name.name, path, inputs, outputs,
    bias=bias, part=name.part, names=name.ends,
  )  # fmt: skip


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
  if model.pool_type == "map":
    out += map_head(layout, model, "MAPHead_0/")
  if model.pool_norm:
    out += _norm(layout, "pool_norm", "pool_norm", model)
  size = d * (2 if model.pool_type == "tok+gap" else 1)
  if model.rep_size:
    rep = d if model.rep_size is True else model.rep_size
    out += _dense(layout, "pre_logits", "pre_logits", (size,), (rep,))
    size = rep
  if model.num_classes:
    for name in ("head", *(["head_dist"] if model.dist_token else [])):
      out += _dense(
        layout, name, name, (size,), (model.num_classes,), model.head_bias
      )
  return out


def text_table(layout: Layout, model: Any, length: int) -> tables.Table:
  """Makes the table of a text transformer.

  Args:
    layout: names of the tensors, see the top of this file; `embed` is that of the
      tokens' embeddings.
    model: `text_transformer.Model(...)`.
    length: number of tokens of texts.

  Returns:
    The table.
  """
  d, v = model.width, model.vocab_size
  out = tables.same(layout["embed"], "Embed_0/embedding", v, d)
  out += tables.same(
    layout["pos_embedding"], "pos_embedding", 1, length, d, there=(length, d)
  )
  out += encoder(layout, model, "Encoder_0/")
  if model.num_classes:
    out += _dense(
      layout, "head", "head", (d,), (model.num_classes,), model.head_bias
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
  for part in ("query", "key", "value"):
    out += _dense(
      layout, part, attention + part, (d,), heads, part[0] in bias, there
    )
  if model.qk_norm:
    for part in ("query_norm", "key_norm"):
      out += tables.norm(
        name(part), attention + part, d // h, bias=model.qk_norm == "layer"
      )
  out += _dense(
    layout, "out", f"{attention}out", heads, (d,), "o" in bias, there
  )
  out += _norm(layout, "norm2", f"{here}{norm}_1", model, there)
  mlp, bias = f"{here}MlpBlock_0/", model.mlp_bias
  out += _dense(layout, "fc1", f"{mlp}Dense_0", (d,), (m,), bias, there)
  if model.glu:
    out += _dense(layout, "up", f"{mlp}up", (d,), (m,), bias, there)
  out += _dense(layout, "fc2", f"{mlp}Dense_1", (m,), (d,), bias, there)
  if model.layerscale is not None:
    out += tables.same(name("ls1"), f"{here}ls1", d)
    out += tables.same(name("ls2"), f"{here}ls2", d)
  return out


def map_head(layout: Layout, model: Any, path: str) -> tables.Table:
  """Makes the part of the table for the pooling by attention.

  Args:
    layout: see the top of this file.
    model: module with the fields of `transformer.MAPHead`.
    path: of its parameters, with a slash.

  Returns:
    The table.
  """
  d, m = model.width, model.mlp_dim or 4 * model.width
  heads, bias = (model.num_heads, d // model.num_heads), model.attn_bias
  attention = f"{path}MultiHeadDotProductAttention_0/"
  out = tables.same(layout["map_probe"], f"{path}probe", 1, 1, d)
  for part in ("query", "key", "value"):
    out += _dense(
      layout, f"map_{part}", attention + part, (d,), heads, part[0] in bias
    )
  out += _dense(layout, "map_out", f"{attention}out", heads, (d,), "o" in bias)
  norm = {"layer": "LayerNorm", "rms": "RMSNorm"}[model.norm]
  out += _norm(layout, "map_norm", f"{path}{norm}_0", model)
  mlp, bias = f"{path}MlpBlock_0/", model.mlp_bias
  out += _dense(layout, "map_fc1", f"{mlp}Dense_0", (d,), (m,), bias)
  return out + _dense(layout, "map_fc2", f"{mlp}Dense_1", (m,), (d,), bias)


def _norm(layout, part, path, model, there=""):
  bias = model.norm == "layer"
  return tables.norm(there + layout[part], path, model.width, bias=bias)


def fold(
  tensors: Mapping[str, np.ndarray], positions: str, tokens: Sequence[str]
) -> dict[str, np.ndarray]:
  """Adds the positions of class and other tokens to these tokens.

  Args:
    tensors: name -> array.
    positions: name of the positions [1, P + N, D]; their first P belong to
    tokens: names of tensors [1, n, D], which have P tokens in all.

  Returns:
    The tensors, with positions [1, N, D].
  """
  out, pos = dict(tensors), tensors[positions]
  for name in tokens:
    num = tensors[name].shape[1]
    out[name] = tensors[name] + pos[:, :num]
    pos = pos[:, num:]
  return out | {positions: pos}


def unfold(
  tensors: Mapping[str, np.ndarray], positions: str, tokens: Sequence[str]
) -> dict[str, np.ndarray]:
  """Gives tokens positions of zeros, for layouts in which they have some.

  Args:
    tensors: name -> array.
    positions: name of the positions [1, N, D].
    tokens: names of tensors [1, n, D], which have P tokens in all.

  Returns:
    The tensors, with positions [1, P + N, D].
  """
  num = sum(tensors[name].shape[1] for name in tokens)
  pos = np.pad(tensors[positions], [(0, 0), (num, 0), (0, 0)])
  return {**tensors, positions: pos}
