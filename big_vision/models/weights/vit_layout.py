"""The parameters of `models/vit` in files of other libraries.

A layout is a mapping from the parts of a ViT to the names of their tensors:

  embedding, pos_embedding, cls, dist, registers, pre_norm
  block              prefix of a block, with {i} for its number
  norm1, norm2, query, key, value, out, query_norm, key_norm, ls1, ls2
  fc1, up, fc2       up: of gated MLPs
  norm, pool_norm, pre_logits, head, head_dist
  map_probe, map_query, map_key, map_value, map_out, map_norm, map_fc1, map_fc2

The name of a dense layer may be `Packed` or a `Matrix`. With `flat` the class
token is stored as [D] and positions as [N, D]. `title` says whose layout it is.
"""

import math
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
    bias: name of its bias, if that is stored alone.
  """

  name: str
  part: tuple[int, int] = (0, 1)
  ends: tuple[str, str] = (".weight", ".bias")
  bias: str | None = None


class Matrix(NamedTuple):
  """Names a dense layer that is stored as [inputs, outputs], without a bias.

  Attributes:
    name: of the tensor.
  """

  name: str


Layout = Mapping[str, Any]  # Values are str, `Packed`, `Matrix`, bool.
TOKENS = ("cls", "dist", "registers")  # In the order of the positions.

# The option of a model that adds a part.
_OPTIONS: dict[str, str] = dict(
  pos_embedding="posemb",
  cls="class_token",
  dist="dist_token",
  ls1="layerscale",
  query_norm="qk_norm",
  up="glu",
  pre_logits="rep_size",
  head="num_classes",
  head_dist="dist_token",
)


def _name(layout, part, model) -> Any:
  """Looks up a name; ValueError names the option if the layout has no such."""
  if part not in layout:
    is_map = part.startswith("map_")
    option = "pool_type" if is_map else _OPTIONS.get(part) or str(part)
    raise ValueError(
      f"config.model.{option}={getattr(model, option)!r}: "
      f"{layout.get('title', 'the library')} lacks it."
    )
  return layout[part]


def _dense(layout, model, part, path, inputs, outputs, bias=True, there=""):
  name = _name(layout, part, model)
  if isinstance(name, Matrix):
    return tables.same(name.name, f"{path}/kernel", *inputs, *outputs)
  name = Packed(name) if isinstance(name, str) else name
  alone = []
  if bias and name.bias:
    there_to = (math.prod(outputs),)
    alone = tables.same(
      there + name.bias, f"{path}/bias", *outputs, there=there_to
    )
  return alone + tables.dense(
    there + name.name, path, inputs, outputs,
    bias=bias and not alone, part=name.part, names=name.ends,
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
    name = _name(layout, "pos_embedding", model)
    there = shape[1:] if layout.get("flat") else shape
    out += tables.same(name, "pos_embedding", *shape, there=there)
  if has_class_token(model):
    there = (d,) if layout.get("flat") else (1, 1, d)
    name = _name(layout, "cls", model)
    out += tables.same(name, "cls", 1, 1, d, there=there)
  if model.dist_token:
    out += tables.same(_name(layout, "dist", model), "dist", 1, 1, d)
  if model.registers:
    shape = (1, model.registers, d)
    out += tables.same(_name(layout, "registers", model), "registers", *shape)
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
    out += _dense(layout, model, "pre_logits", "pre_logits", (size,), (rep,))
    size = rep
  if model.num_classes:
    for name in ("head", *(["head_dist"] if model.dist_token else [])):
      num = (model.num_classes,)
      out += _dense(layout, model, name, name, (size,), num, model.head_bias)
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
    num = (model.num_classes,)
    out += _dense(layout, model, "head", "head", (d,), num, model.head_bias)
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
  _check_heads(model)
  out: tables.Table = []
  for i in range(model.depth):
    out += _block(layout, model, layout["block"].format(i=i), path, i)
  if final_norm:
    out += _norm(layout, "norm", f"{path}encoder_norm", model)
  return out


def _check_heads(model):
  heads, width = model.num_heads, model.width
  whole = isinstance(heads, int) and not isinstance(heads, bool)
  if not whole or heads < 1 or width % heads:
    raise ValueError(
      f"The number of heads, {heads!r}, should divide the width, {width}."
    )


def _block(layout, model, there, path, i):
  d, h = model.width, model.num_heads
  m = model.mlp_dim or 4 * d
  heads, bias = (h, d // h), model.attn_bias
  here = f"{path}encoderblock_{i}/"
  attention = f"{here}MultiHeadDotProductAttention_0/"
  norm = {"layer": "LayerNorm", "rms": "RMSNorm"}[model.norm]
  name = lambda part: there + _name(layout, part, model)
  out = _norm(layout, "norm1", f"{here}{norm}_0", model, there)
  for part in ("query", "key", "value"):
    at, has = attention + part, part[0] in bias
    out += _dense(layout, model, part, at, (d,), heads, has, there)
  if model.qk_norm:
    for part in ("query_norm", "key_norm"):
      out += tables.norm(
        name(part), attention + part, d // h, bias=model.qk_norm == "layer"
      )
  at = f"{attention}out"
  out += _dense(layout, model, "out", at, heads, (d,), "o" in bias, there)
  out += _norm(layout, "norm2", f"{here}{norm}_1", model, there)
  mlp, bias = f"{here}MlpBlock_0/", model.mlp_bias
  out += _dense(layout, model, "fc1", f"{mlp}Dense_0", (d,), (m,), bias, there)
  if model.glu:
    out += _dense(layout, model, "up", f"{mlp}up", (d,), (m,), bias, there)
  out += _dense(layout, model, "fc2", f"{mlp}Dense_1", (m,), (d,), bias, there)
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
  out = tables.same(_name(layout, "map_probe", model), f"{path}probe", 1, 1, d)
  for part in ("query", "key", "value"):
    at, has = attention + part, part[0] in bias
    out += _dense(layout, model, f"map_{part}", at, (d,), heads, has)
  out += _dense(
    layout, model, "map_out", f"{attention}out", heads, (d,), "o" in bias
  )
  norm = {"layer": "LayerNorm", "rms": "RMSNorm"}[model.norm]
  out += _norm(layout, "map_norm", f"{path}{norm}_0", model)
  mlp, bias = f"{path}MlpBlock_0/", model.mlp_bias
  out += _dense(layout, model, "map_fc1", f"{mlp}Dense_0", (d,), (m,), bias)
  return out + _dense(
    layout, model, "map_fc2", f"{mlp}Dense_1", (m,), (d,), bias
  )


def _norm(layout, part, path, model, there=""):
  bias = model.norm == "layer"
  name = there + _name(layout, part, model)
  return tables.norm(name, path, model.width, bias=bias)


def fold(
  tensors: Mapping[str, np.ndarray],
  positions: str,
  tokens: Sequence[str],
  num: int,
) -> dict[str, np.ndarray]:
  """Adds the positions of class and other tokens to these tokens.

  Args:
    tensors: name -> array.
    positions: name of the positions [..., P + N, D].
    tokens: names of tensors [..., n, D]. The first of those that there are have
      the first P positions.
    num: N, the number of patches.

  Returns:
    The tensors, with positions [..., N, D]; tensors whose shapes do not fit are
    as before.
  """
  out = dict(tensors)
  pos = out.get(positions)
  if pos is None or pos.ndim < 2:
    return out
  for name in tokens:
    x, extra = out.get(name), pos.shape[-2] - num
    if x is None or x.shape[-1:] != pos.shape[-1:]:
      continue
    if not {x.dtype.name, pos.dtype.name} <= set(tables.FLOATS):
      continue
    n = x.size // x.shape[-1]
    if not 0 < n <= extra:
      continue
    first = pos[..., :n, :].astype(np.float32)
    out[name] = x.astype(np.float32) + first.reshape(x.shape)
    pos = pos[..., n:, :]
  return out | {positions: pos}


def unfold(
  tensors: Mapping[str, np.ndarray], positions: str, tokens: Sequence[str]
) -> dict[str, np.ndarray]:
  """Gives tokens positions of zeros, for layouts in which they have some.

  Args:
    tensors: name -> array.
    positions: name of the positions [..., N, D].
    tokens: names of tensors [..., n, D], which have P tokens in all.

  Returns:
    The tensors, with positions [..., P + N, D].
  """
  pos = tensors[positions]
  num = sum(tensors[name].size for name in tokens) // pos.shape[-1]
  lead = [(0, 0)] * (pos.ndim - 2)
  return {**tensors, positions: np.pad(pos, [*lead, (num, 0), (0, 0)])}
