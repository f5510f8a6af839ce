"""The tensors of Hugging Face's SigLIP and the matching parameters.

One table for both directions, made from the fields of `huggingface_config`.

Shapes: `D` width, `M` hidden width of the MLP, `H` heads, `K` head dim, `P`
side of a patch, `n` side of the grid of positions.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PREFIXES = {
  "img": "vision_model.",
  "txt": "text_model.",
  "t": "logit_scale",
  "b": "logit_bias",
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """A tensor of Hugging Face and a parameter of this package.

  Attributes:
    name: str, of the tensor.
    path: str, of the parameter.
    tensor: shape of the tensor.
    order: order of the tensor's dimensions in the parameter.
    shape: shape of the parameter, after dimensions are split or merged.
    third: int, which third of the tensor it is; None means all of it.
  """

  name: str
  path: str
  tensor: tuple[int, ...]
  order: tuple[int, ...]
  shape: tuple[int, ...]
  third: int | None = None

  def to_param(self, x: np.ndarray) -> np.ndarray:
    """Converts a tensor to the parameter.

    Args:
      x: [*tensor].

    Returns:
      [*shape].
    """
    if self.third is not None:
      x = np.split(x, 3)[self.third]
    return x.transpose(self.order).reshape(self.shape)

  def to_tensor(self, x: np.ndarray) -> np.ndarray:
    """Converts the parameter to the tensor, or to its third of it.

    Args:
      x: [*shape].

    Returns:
      [*tensor], or a third of that along the first axis.
    """
    first, *rest = self.tensor
    there = self.tensor if self.third is None else (first // 3, *rest)
    x = x.reshape([there[i] for i in self.order])
    return x.transpose(np.argsort(self.order))


def entries(fields: Mapping[str, Any], parts: Sequence[str]) -> list[Entry]:
  """Makes the whole table.

  Args:
    fields: mapping with those of "img", "txt" that are in `parts`.
    parts: some of "img", "txt", "t", "b".

  Returns:
    List of `Entry`; the thirds of one tensor come in their order.
  """
  make = dict(
    img=lambda: _image(fields["img"]),
    txt=lambda: _text(fields["txt"]),
    t=lambda: [_same("logit_scale", "t", 1)],
    b=lambda: [_same("logit_bias", "b", 1)],
  )
  return [entry for part in parts for entry in make[part]()]


def _image(f):
  there, here = PREFIXES["img"], "img/"
  d, p, n = f["width"], f["patch_size"], f["side"]
  name, path = f"{there}embeddings.patch_embedding", f"{here}embedding"
  if f["naflex"]:
    # Patches are flattened alike: rows, columns, then channels.
    embedding = _dense(name, path, (p * p * 3,), (d,))
    positions = (n, n, d)
  else:
    kernel = ((d, 3, p, p), (2, 3, 1, 0), (p, p, 3, d))
    embedding = [
      Entry(f"{name}.weight", f"{path}/kernel", *kernel),
      _same(f"{name}.bias", f"{path}/bias", d),
    ]
    positions = (1, n * n, d)
  out = [
    *embedding,
    Entry(
      f"{there}embeddings.position_embedding.weight",
      f"{here}pos_embedding",
      (n * n, d),
      (0, 1),
      positions,
    ),
    *_encoder(there, f"{here}Transformer/", f),
    *_norm(f"{there}post_layernorm", f"{here}Transformer/encoder_norm", d),
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
    packed += [
      Entry(
        f"{there}attention.in_proj_weight",
        f"{attention}/{ours}/kernel",
        (3 * d, d),
        (1, 0),
        (d, *heads),
        third=i,
      ),
      Entry(
        f"{there}attention.in_proj_bias",
        f"{attention}/{ours}/bias",
        (3 * d,),
        (0,),
        heads,
        third=i,
      ),
    ]
  return [
    Entry(f"{there}probe", f"{here}probe", (1, 1, d), (0, 1, 2), (1, 1, d)),
    *packed,
    *_dense(f"{there}attention.out_proj", f"{attention}/out", heads, (d,)),
    *_norm(f"{there}layernorm", f"{here}LayerNorm_0", d),
    *_mlp(f"{there}mlp.", f"{here}MlpBlock_0/", f),
  ]


def _text(f):
  there, here = PREFIXES["txt"], "txt/"
  d, v, length = f["width"], f["vocab_size"], f["length"]
  return [
    Entry(
      f"{there}embeddings.token_embedding.weight",
      f"{here}Embed_0/embedding",
      (v, d),
      (0, 1),
      (v, d),
    ),
    Entry(
      f"{there}embeddings.position_embedding.weight",
      f"{here}pos_embedding",
      (length, d),
      (0, 1),
      (1, length, d),
    ),
    *_encoder(there, f"{here}Encoder_0/", f),
    *_norm(f"{there}final_layer_norm", f"{here}Encoder_0/encoder_norm", d),
    *_dense(f"{there}head", f"{here}head", (d,), (f["out_dim"],)),
  ]


def _encoder(there, here, f):
  out = []
  for i in range(f["depth"]):
    name, path = f"{there}encoder.layers.{i}.", f"{here}encoderblock_{i}/"
    out += [
      *_norm(f"{name}layer_norm1", f"{path}LayerNorm_0", f["width"]),
      *_attention(
        f"{name}self_attn.", f"{path}MultiHeadDotProductAttention_0/", f
      ),
      *_norm(f"{name}layer_norm2", f"{path}LayerNorm_1", f["width"]),
      *_mlp(f"{name}mlp.", f"{path}MlpBlock_0/", f),
    ]
  return out


def _attention(there, here, f):
  d = f["width"]
  heads = (f["num_heads"], d // f["num_heads"])
  out = []
  for ours in ("query", "key", "value"):
    out += _dense(f"{there}{ours[0]}_proj", f"{here}{ours}", (d,), heads)
  return out + _dense(f"{there}out_proj", f"{here}out", heads, (d,))


def _mlp(there, here, f):
  d, m = (f["width"],), (f["mlp_dim"],)
  return [
    *_dense(f"{there}fc1", f"{here}Dense_0", d, m),
    *_dense(f"{there}fc2", f"{here}Dense_1", m, d),
  ]


def _dense(there, here, inputs, outputs):
  """Lists a dense layer; its inputs or outputs may be [H, K] in parameters."""
  num_in, num_out = math.prod(inputs), math.prod(outputs)
  return [
    Entry(
      f"{there}.weight",
      f"{here}/kernel",
      (num_out, num_in),
      (1, 0),
      (*inputs, *outputs),
    ),
    Entry(f"{there}.bias", f"{here}/bias", (num_out,), (0,), outputs),
  ]


def _norm(there, here, d):
  return [
    _same(f"{there}.weight", f"{here}/scale", d),
    _same(f"{there}.bias", f"{here}/bias", d),
  ]


def _same(name, path, size):
  return Entry(name, path, (size,), (0,), (size,))
