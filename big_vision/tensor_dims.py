"""Which dimensions of transformers tensor parallelism splits, by names.

Heads of attention and hidden units of MLPs do not need each other. Of the two
layers around them the first is split by its outputs and the second by its
inputs, so that only the results of the second are summed over devices.

References:
  Shoeybi et al. 2019, Megatron-LM, section 3, https://arxiv.org/abs/1909.08053
"""

import re

# Of parameters of `models/`, the first match counts. The rows with more of the
# path are those of BERT, where heads do not have a dimension of their own.
_DIMS = [
  # Blocks of CapPa with `scan` are stacked along the second axis.
  (r"(.*/)?EncDecBlock/MLP/Dense_0/bias", -2),
  (r"(.*/)?EncDecBlock/MLP/Dense_1/kernel", -3),
  (r"(.*/)?EncDecBlock/\w+/out/kernel", -4),
  (r"(.*/)?(MlpBlock_\d+|MLP|mlp)/(Dense_0|up)/(kernel|bias)", -1),
  (r"(.*/)?(MlpBlock_\d+|MLP|mlp)/Dense_1/kernel", -2),
  (r"(.*/)?attention_layer/(query|key|value)/(kernel|bias)", -1),
  (r"(.*/)?(query|key|value)/(kernel|bias)", -2),
  (r"(.*/)?out/kernel", -3),
  (r"(.*/)?(q|kv|qkv|attn_vec)_einsum/w", -3),  # Of Gemma.
  (r"(.*/)?mlp/gating_einsum", -1),
  (r"(.*/)?mlp/linear", -2),
  (r"(.*/)?mlp_block/mlp/dense_layer/(kernel|bias)", -1),
  (r"(.*/)?(attention|mlp)_block/dense_layer/kernel", -2),
]


def find(name: str) -> int | None:
  """Finds the dimension of heads or of hidden units.

  Args:
    name: full name of a parameter, or of its statistics in an optimizer.

  Returns:
    The dimension, counted from the end: there may be one of blocks in front.
    None if the parameter has none of them.
  """
  return next((dim for rx, dim in _DIMS if re.fullmatch(rx, name)), None)
