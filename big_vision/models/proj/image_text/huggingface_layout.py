"""The tensors of Hugging Face's SigLIP and the matching parameters.

One table for both directions, made from the fields of `huggingface_config`.

Shapes: `D` width, `M` hidden width of the MLP, `H` heads, `K` head dim, `P`
side of a patch, `n` side of the grid of positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from big_vision.models.weights import tables

PREFIXES = {
  "img": "vision_model.",
  "txt": "text_model.",
  "t": "logit_scale",
  "b": "logit_bias",
}


def entries(fields: Mapping[str, Any], parts: Sequence[str]) -> tables.Table:
  """Makes the whole table.

  Args:
    fields: mapping with those of "img", "txt" that are in `parts`.
    parts: some of "img", "txt", "t", "b".

  Returns:
    The table.
  """
  make = dict(
    img=lambda: _image(fields["img"]),
    txt=lambda: _text(fields["txt"]),
    t=lambda: tables.same("logit_scale", "t", 1),
    b=lambda: tables.same("logit_bias", "b", 1),
  )
  return [entry for part in parts for entry in make[part]()]


def _image(f):
  there, here = PREFIXES["img"], "img/"
  d, p, n = f["width"], f["patch_size"], f["side"]
  name, path = f"{there}embeddings.patch_embedding", f"{here}embedding"
  if f["naflex"]:
    # Patches are flattened alike: rows, columns, then channels.
    embedding = tables.dense(name, path, (p * p * 3,), (d,))
    positions = (n, n, d)
  else:
    embedding = tables.conv(name, path, (p, p), 3, d)
    positions = (1, n * n, d)
  out = [
    *embedding,
    *tables.same(
      f"{there}embeddings.position_embedding.weight",
      f"{here}pos_embedding",
      *positions,
      there=(n * n, d),
    ),
    *_encoder(there, f"{here}Transformer/", f),
    *tables.norm(
      f"{there}post_layernorm", f"{here}Transformer/encoder_norm", d
    ),
  ]
  if f["use_head"]:
    out += _map_head(f"{there}head.", f"{here}MAPHead_0/", f)
  return out


def _map_head(there, here, f):
  d = f["width"]
  attention = f"{here}MultiHeadDotProductAttention_0"
  heads = (f["num_heads"], d // f["num_heads"])
  packed = []
  for i, ours in enumerate(("query", "key", "value")):
    packed += tables.dense(
      f"{there}attention.in_proj_",
      f"{attention}/{ours}",
      (d,),
      heads,
      part=(i, 3),
      names=("weight", "bias"),
    )
  return [
    *tables.same(f"{there}probe", f"{here}probe", 1, 1, d),
    *packed,
    *tables.dense(
      f"{there}attention.out_proj", f"{attention}/out", heads, (d,)
    ),
    *tables.norm(f"{there}layernorm", f"{here}LayerNorm_0", d),
    *_mlp(f"{there}mlp.", f"{here}MlpBlock_0/", f),
  ]


def _text(f):
  there, here = PREFIXES["txt"], "txt/"
  d, v, length = f["width"], f["vocab_size"], f["length"]
  return [
    *tables.same(
      f"{there}embeddings.token_embedding.weight",
      f"{here}Embed_0/embedding",
      *(v, d),
    ),
    *tables.same(
      f"{there}embeddings.position_embedding.weight",
      f"{here}pos_embedding",
      *(1, length, d),
      there=(length, d),
    ),
    *_encoder(there, f"{here}Encoder_0/", f),
    *tables.norm(
      f"{there}final_layer_norm", f"{here}Encoder_0/encoder_norm", d
    ),
    *tables.dense(f"{there}head", f"{here}head", (d,), (f["out_dim"],)),
  ]


def _encoder(there, here, f):
  out = []
  for i in range(f["depth"]):
    name, path = f"{there}encoder.layers.{i}.", f"{here}encoderblock_{i}/"
    out += [
      *tables.norm(f"{name}layer_norm1", f"{path}LayerNorm_0", f["width"]),
      *_attention(
        f"{name}self_attn.", f"{path}MultiHeadDotProductAttention_0/", f
      ),
      *tables.norm(f"{name}layer_norm2", f"{path}LayerNorm_1", f["width"]),
      *_mlp(f"{name}mlp.", f"{path}MlpBlock_0/", f),
    ]
  return out


def _attention(there, here, f):
  d = f["width"]
  heads = (f["num_heads"], d // f["num_heads"])
  out = []
  for ours in ("query", "key", "value"):
    out += tables.dense(f"{there}{ours[0]}_proj", f"{here}{ours}", (d,), heads)
  return out + tables.dense(f"{there}out_proj", f"{here}out", heads, (d,))


def _mlp(there, here, f):
  d, m = (f["width"],), (f["mlp_dim"],)
  return [
    *tables.dense(f"{there}fc1", f"{here}Dense_0", d, m),
    *tables.dense(f"{there}fc2", f"{here}Dense_1", m, d),
  ]
