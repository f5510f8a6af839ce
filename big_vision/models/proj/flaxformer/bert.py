"""BERT, the text tower of LiT models with published language models.

The modules have the names of flaxformer, where the published models were
trained; flaxformer itself is not needed.

References:
  Devlin et al. 2018, BERT, https://arxiv.org/abs/1810.04805
  Zhai et al. 2021, LiT, https://arxiv.org/abs/2111.07991

Shapes: `B` batch, `L` length in tokens, `D` width, `H` heads, `K` width of a
head, `C` classes.
"""

import dataclasses
import re
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from big_vision import checkpoints, fs, lookup, trees
from big_vision.models import (
  activations,
  attention,
  common,
  fields,
  load_errors,
)
from big_vision.types import Array, ConfigLike, Params


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of a BERT.

  Attributes:
    width: int, D.
    depth: int, number of layers.
    mlp_dim: int, hidden width of the MLPs.
    num_heads: int, H.
    vocab_size: int, number of word pieces.
    max_len: int, number of positions.
    num_segments: int, kinds of sentences; the model uses only the first.
    dropout: float, rate of all dropout layers.
    dtype_mm: str, dtype of the dense layers; None is that of their inputs.
  """

  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  vocab_size: int = 30_522
  max_len: int = 512
  num_segments: int = 2
  dropout: float = 0.1
  dtype_mm: str | None = None


# "tiny" is the one of Turc et al. 2019, https://arxiv.org/abs/1908.08962.
CONFIGS = {
  "tiny": Config(width=128, depth=2, mlp_dim=512, num_heads=2),
  "base": Config(width=768, depth=12, mlp_dim=3072, num_heads=12),
  "large": Config(width=1024, depth=24, mlp_dim=4096, num_heads=16),
}

# Cut off at two standard deviations, not rescaled.
_INIT = nn.initializers.truncated_normal(stddev=0.02)


def _dense(config, features, name):
  return nn.Dense(features, dtype=config.dtype_mm, kernel_init=_INIT, name=name)


def _layer_norm():
  return nn.LayerNorm(epsilon=1e-12, name="layer_norm")


class Embedder(nn.Module):
  """Sum of the embeddings of tokens, positions and segments."""

  config: Config

  @nn.compact
  def __call__(self, text: Array) -> Array:
    """Embeds tokens.

    Args:
      text: [B, L] int, tokens.

    Returns:
      [B, L, D].
    """
    c = self.config
    embed = lambda num, name: nn.Embed(
      num, c.width, embedding_init=_INIT, name=f"embedders_{name}_ids"
    )
    positions = embed(c.max_len, "position")(jnp.arange(text.shape[1])[None])
    segments = embed(c.num_segments, "segment")(jnp.zeros_like(text))
    tokens = embed(c.vocab_size, "token")(text)
    return positions + segments + tokens


class Attention(nn.Module):
  """Self-attention without the projection of its result."""

  config: Config

  @nn.compact
  def __call__(
    self, x: Array, mask: Array, deterministic: bool = True
  ) -> Array:
    """Applies self-attention.

    Args:
      x: [B, L, D].
      mask: [B, 1, L, L] bool, which keys (last) a query attends to.
      deterministic: bool, turns dropout off.

    Returns:
      [B, L, D].
    """
    c = self.config
    query, key, value = (
      _dense(c, c.width, name)(x).reshape(*x.shape[:2], c.num_heads, -1)
      for name in ("query", "key", "value")
    )  # [B, L, H, K]
    query = activations.heads(query)
    key, value = (activations.heads(x, "act_keys") for x in (key, value))
    use_dropout = c.dropout > 0 and not deterministic
    x = attention.dot_product_attention(
      query,
      key,
      value,
      mask,
      dropout_rng=self.make_rng("dropout") if use_dropout else None,
      dropout_rate=c.dropout,
    )
    return x.reshape(*x.shape[:2], c.width)


class AttentionBlock(nn.Module):
  """Self-attention with residual, then normalization."""

  config: Config

  @nn.compact
  def __call__(
    self, x: Array, mask: Array, deterministic: bool = True
  ) -> Array:
    """Applies the block.

    Args:
      x: [B, L, D].
      mask: [B, 1, L, L] bool, which keys (last) a query attends to.
      deterministic: bool, turns dropout off.

    Returns:
      [B, L, D].
    """
    c = self.config
    y = Attention(c, name="attention_layer")(x, mask, deterministic)
    y = _dense(c, c.width, "dense_layer")(y)
    y = nn.Dropout(c.dropout)(y, deterministic)
    return _layer_norm()(x + y)


class Mlp(nn.Module):
  """First half of an MLP."""

  config: Config

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Applies the layer and its activation.

    Args:
      x: [B, L, D].

    Returns:
      [B, L, mlp_dim].
    """
    return nn.gelu(_dense(self.config, self.config.mlp_dim, "dense_layer")(x))


class MlpBlock(nn.Module):
  """MLP with residual, then normalization."""

  config: Config

  @nn.compact
  def __call__(self, x: Array, deterministic: bool = True) -> Array:
    """Applies the block.

    Args:
      x: [B, L, D].
      deterministic: bool, turns dropout off.

    Returns:
      [B, L, D].
    """
    c = self.config
    y = Mlp(c, name="mlp")(x)
    y = _dense(c, c.width, "dense_layer")(y)
    # All tokens of a text lose the same features.
    y = nn.Dropout(c.dropout, broadcast_dims=(-2,))(y, deterministic)
    return _layer_norm()(x + y)


class Layer(nn.Module):
  """Attention and MLP, each with the normalization after the residual."""

  config: Config

  @nn.compact
  def __call__(
    self, x: Array, mask: Array, deterministic: bool = True
  ) -> Array:
    """Applies the layer.

    Args:
      x: [B, L, D].
      mask: [B, 1, L, L] bool, which keys (last) a query attends to.
      deterministic: bool, turns dropout off.

    Returns:
      [B, L, D].
    """
    block = AttentionBlock(self.config, name="attention_block")
    x = block(x, mask, deterministic)
    return MlpBlock(self.config, name="mlp_block")(x, deterministic)


class LayerSequence(nn.Module):
  """All layers."""

  config: Config

  @nn.compact
  def __call__(
    self, x: Array, mask: Array, deterministic: bool = True
  ) -> Array:
    """Applies all layers.

    Args:
      x: [B, L, D].
      mask: [B, 1, L, L] bool, which keys (last) a query attends to.
      deterministic: bool, turns dropout off.

    Returns:
      [B, L, D].
    """
    for i in range(self.config.depth):
      x = Layer(self.config, name=f"layers_{i}")(x, mask, deterministic)
    return x


class EncoderBlock(nn.Module):
  """All layers; this module only adds its name to the names in checkpoints."""

  config: Config

  @nn.compact
  def __call__(
    self, x: Array, mask: Array, deterministic: bool = True
  ) -> Array:
    """Applies all layers.

    Args:
      x: [B, L, D].
      mask: [B, 1, L, L] bool, which keys (last) a query attends to.
      deterministic: bool, turns dropout off.

    Returns:
      [B, L, D].
    """
    layers = LayerSequence(self.config, name="layer_sequence")
    return layers(x, mask, deterministic)


class BertEncoder(nn.Module):
  """BERT without its heads.

  Attributes:
    config: `Config`.
  """

  config: Config

  @nn.compact
  def __call__(self, text: Array, deterministic: bool = True) -> Array:
    """Encodes tokens.

    Args:
      text: [B, L] int, tokens; 0 is padding.
      deterministic: bool, turns dropout off.

    Returns:
      [B, L, D].

    Raises:
      ValueError: the text is longer than the table of positions.
    """
    c = self.config
    if text.shape[1] > c.max_len:
      raise ValueError(
        f"BERT has {c.max_len} positions, but texts have {text.shape[1]} tokens"
        ": lower max_len of bert_tokenize in config.input.pp."
      )
    x = Embedder(c, name="embedder")(text)
    x = _layer_norm()(x)
    x = nn.Dropout(c.dropout)(x, deterministic)
    mask = nn.make_attention_mask(text != 0, text != 0, dtype=bool)
    return EncoderBlock(c, name="encoder_block")(x, mask, deterministic)


class Model(nn.Module):
  """BERT, and a linear head on its first token.

  Attributes:
    config: str, one of `CONFIGS`: "tiny", "base" or "large".
    num_classes: int, outputs of the head; None or 0 leaves out the head.
    head_zeroinit: bool, initializes the kernel of the head with zeros.
    dtype_mm: str, dtype of the layers before the head; None is that of their
      inputs. Parameters are float32.
  """

  config: str
  num_classes: int | None = None
  head_zeroinit: bool = True
  dtype_mm: str | None = None

  @nn.compact
  def __call__(
    self, text: Array, *, train: bool = False
  ) -> tuple[Array, dict[str, Array]]:
    """Applies the model.

    Args:
      text: [B, L] int, tokens, the first of which is [CLS]; 0 is padding.
      train: bool, turns dropout on.

    Returns:
      (x, out): x is [B, C], or [B, D] without classes; out is a dict of named
      intermediates. The values of `transformed` at padding have no meaning.

    Raises:
      ValueError: unknown config, or the text is too long.
    """
    if self.config not in CONFIGS:
      raise lookup.unknown("BERT", self.config, CONFIGS, "model.text.config")
    out = {}
    fields.check_dtype(self.dtype_mm, f"{fields.key(self)}.dtype_mm")
    config = dataclasses.replace(CONFIGS[self.config], dtype_mm=self.dtype_mm)
    encoder = BertEncoder(config)
    x = out["transformed"] = encoder(text, deterministic=not train)
    x = out["pre_logits"] = x[:, 0]
    if self.num_classes:
      kw = {"kernel_init": nn.initializers.zeros} if self.head_zeroinit else {}
      x = out["logits"] = nn.Dense(self.num_classes, name="head", **kw)(x)
    return x, out


def load(
  params: Params | None,
  path: str,
  model_cfg: ConfigLike = None,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads a published BERT, or a checkpoint of this model.

  Args:
    params: parameters of the model, arrays or shapes; None returns all that the
      checkpoint has.
    path: str, folder of an original BERT with files `bert_model.ckpt.*`, whose
      heads are left out (needs TensorFlow); or a path `<path>[:<sub/tree>]`.
    model_cfg: not used.
    dont_load: regexes of parameters that keep their initial values; for an
      original BERT this must include "head/.*" if the model has a head.

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of `params`.

  Raises:
    ValueError: parameters do not match, see `common.merge_params`, or the
      checkpoint belongs to a BERT of another size.
  """
  del model_cfg
  if fs.exists(fs.join(path, "bert_model.ckpt.index")):
    loaded = {"BertEncoder_0": _read_original(path)}
    if params:
      _cut_positions(loaded, params)
  else:
    loaded = checkpoints.load_params(path)
  merged = common.merge_params(loaded, params, dont_load)
  if params:
    _check_shapes(merged, params, path)
  return merged


_POSITIONS = "BertEncoder_0/embedder/embedders_position_ids/embedding"


def _cut_positions(loaded, params):
  """Shortens the table of positions in `loaded` to that in `params`."""
  num = trees.tree_get(params, _POSITIONS).shape[0]
  table = loaded["BertEncoder_0"]["embedder"]["embedders_position_ids"]
  table["embedding"] = table["embedding"][:num]


def _check_shapes(got, want, path):
  """Raises ValueError for the first parameter with another shape."""
  want = dict(trees.tree_flatten_with_names(want)[0])
  for name, x in trees.tree_flatten_with_names(got)[0]:
    if tuple(x.shape) != tuple(want[name].shape):
      raise ValueError(
        f"{name} of {path!r} is {tuple(x.shape)}, but that of the model "
        f"{tuple(want[name].shape)}: set config.model.text.config to the size of"
        " the checkpoint, which must have the vocabulary of uncased English BERT"
        f"; or list it in {load_errors.load_key()}.dont_load."
      )


# How parameters of an original BERT are called there and here.
_LAYER_NAMES = {
  "attention/self/query": "attention_block/attention_layer/query",
  "attention/self/key": "attention_block/attention_layer/key",
  "attention/self/value": "attention_block/attention_layer/value",
  "attention/output/dense": "attention_block/dense_layer",
  "attention/output/LayerNorm": "attention_block/layer_norm",
  "intermediate/dense": "mlp_block/mlp/dense_layer",
  "output/dense": "mlp_block/dense_layer",
  "output/LayerNorm": "mlp_block/layer_norm",
}
_LEAF_NAMES = {
  "kernel": "kernel",
  "bias": "bias",
  "gamma": "scale",
  "beta": "bias",
}
_EMBEDDING_NAMES = {
  "bert/embeddings/word_embeddings": "embedder/embedders_token_ids/embedding",
  "bert/embeddings/position_embeddings": (
    "embedder/embedders_position_ids/embedding"
  ),
  "bert/embeddings/token_type_embeddings": (
    "embedder/embedders_segment_ids/embedding"
  ),
  "bert/embeddings/LayerNorm/gamma": "layer_norm/scale",
  "bert/embeddings/LayerNorm/beta": "layer_norm/bias",
}


def convert_name(name: str) -> str | None:
  """Translates the name of a variable of an original BERT.

  Args:
    name: str, of the variable.

  Returns:
    str, name of the parameter of `BertEncoder`; None for what the model does
    not
    have: pooler, heads of the pre-training, state of the optimizer.
  """
  if name in _EMBEDDING_NAMES:
    return _EMBEDDING_NAMES[name]
  match = re.fullmatch(r"bert/encoder/layer_(\d+)/(.+)/(\w+)", name)
  if not match or match[2] not in _LAYER_NAMES or match[3] not in _LEAF_NAMES:
    return None
  layer = f"encoder_block/layer_sequence/layers_{match[1]}"
  return f"{layer}/{_LAYER_NAMES[match[2]]}/{_LEAF_NAMES[match[3]]}"


def _read_original(folder):
  """Reads the parameters of `BertEncoder` from an original BERT."""
  from big_vision.tf import tf

  path = fs.join(folder, "bert_model.ckpt")
  try:
    reader = tf.train.load_checkpoint(path)
    names = {n: convert_name(n) for n in reader.get_variable_to_shape_map()}
    names = {theirs: ours for theirs, ours in names.items() if ours}
    arrays = [reader.get_tensor(theirs) for theirs in names]
  except Exception as e:  # Of many classes, some of which name no file.
    reason = " ".join(str(e).split()).rstrip(".")
    raise lookup.ConfigError(
      f"{path}.* cannot be read ({reason}): download or copy these files again."
    ) from e
  return trees.recover_tree(list(names.values()), arrays)
