"""Writes original BERT checkpoints for tests of loading. Needs TensorFlow."""

import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision.models.proj.flaxformer import bert
from big_vision.types import Shape


def variable_shapes(config: bert.Config) -> dict[str, Shape]:
  """Lists all variables of an original BERT and of its pre-training heads.

  Args:
    config: `bert.Config`.

  Returns:
    Dict from name to shape.
  """
  d, m = config.width, config.mlp_dim
  dense = lambda d_in, d_out: {"kernel": (d_in, d_out), "bias": (d_out,)}
  norm = {"beta": (d,), "gamma": (d,)}
  modules = {
    "bert/embeddings": {
      "word_embeddings": (config.vocab_size, d),
      "position_embeddings": (config.max_len, d),
      "token_type_embeddings": (config.num_segments, d),
    },
    "bert/embeddings/LayerNorm": norm,
    "bert/pooler/dense": dense(d, d),
    "cls/predictions": {"output_bias": (config.vocab_size,)},
    "cls/predictions/transform/dense": dense(d, d),
    "cls/predictions/transform/LayerNorm": norm,
    "cls/seq_relationship": {"output_weights": (2, d), "output_bias": (2,)},
  }
  for i in range(config.depth):
    layer = f"bert/encoder/layer_{i}"
    modules |= {
      **{f"{layer}/attention/self/{n}": dense(d, d)
         for n in ("query", "key", "value")},
      f"{layer}/attention/output/dense": dense(d, d),
      f"{layer}/attention/output/LayerNorm": norm,
      f"{layer}/intermediate/dense": dense(d, m),
      f"{layer}/output/dense": dense(m, d),
      f"{layer}/output/LayerNorm": norm,
    }  # fmt: skip
  return {
    f"{module}/{name}": shape
    for module, variables in modules.items()
    for name, shape in variables.items()
  }


def save_checkpoint(folder: str, variables: Mapping[str, Any]) -> None:
  """Writes the files `<folder>/bert_model.ckpt.*`.

  Args:
    folder: str, which exists.
    variables: dict from name to array.
  """
  from big_vision.tf import tf

  tf.raw_ops.SaveV2(
    prefix=os.path.join(folder, "bert_model.ckpt"),
    tensor_names=list(variables),
    shape_and_slices=[""] * len(variables),
    tensors=[tf.convert_to_tensor(x) for x in variables.values()],
  )


def create_base_checkpoint() -> str:
  """Writes a BERT-base (440 MB) of zeros.

  Returns:
    str, the new folder, which the caller has to delete.
  """
  folder = tempfile.mkdtemp()
  shapes = variable_shapes(bert.CONFIGS["base"])
  save_checkpoint(
    folder, {name: np.zeros(s, np.float32) for name, s in shapes.items()}
  )
  return folder
