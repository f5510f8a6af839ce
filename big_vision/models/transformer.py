"""Blocks of transformers, with the options in which published models differ.

`models/vit.py` offers the blocks under its own name.

Shapes: `B` batch, `T` tokens, `D` width, `H` heads, `K` size of a head. The
names of the modules are the names in checkpoints, and random keys derive from
them and from the order of calls.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision import lookup
from big_vision.models import activations, attention, fields, rope
from big_vision.types import Array

ACTIVATIONS = {
  "gelu": nn.gelu,  # The approximation with tanh.
  "gelu_erf": functools.partial(nn.gelu, approximate=False),
  "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
  "silu": nn.silu,
  "relu": nn.relu,
}
NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


class Options(nn.Module, kw_only=True):
  """Holds what published transformers do differently; defaults are the ViT's.

  Attributes:
    norm: str, "layer" or "rms" normalization.
    norm_eps: float, is added to variances.
    act: str, activation of MLPs: "gelu" is the approximation with tanh,
      "gelu_erf" exact, "quick_gelu" is x * sigmoid(1.702 x); "silu", "relu".
    glu: bool, gated MLPs: the activation is multiplied with another dense
      layer `up` (https://arxiv.org/abs/2002.05202).
    mlp_bias: bool, whether the dense layers of MLPs have biases.
    attn_bias: str, which layers of attention have biases, letters of "qkvo":
      query, key, value, out.
    qk_norm: str, normalization of each query and key, "layer" or "rms"; None
      leaves it out (https://arxiv.org/abs/2302.05442).
    layerscale: float, initial factors of what blocks add to their input, one
      per feature; None leaves them out (https://arxiv.org/abs/2103.17239).
    drop_path: float, probability to leave out a part of the last block for an
      example; it grows linearly from 0 at the first
      (https://arxiv.org/abs/1603.09382).
  """

  norm: str = "layer"
  norm_eps: float = 1e-6
  act: str = "gelu"
  glu: bool = False
  mlp_bias: bool = True
  attn_bias: str = "qkvo"
  qk_norm: str | None = None
  layerscale: float | None = None
  drop_path: float = 0.0

  def options(self) -> dict[str, Any]:
    """Returns the options, for a part of this module.

    Returns:
      Dict of keywords.
    """
    return {name: getattr(self, name) for name in _OPTIONS}

  def normalize(self, name: str | None = None) -> nn.Module:
    """Makes a normalization layer.

    Args:
      name: of its parameters; None numbers them.

    Returns:
      The linen module.

    Raises:
      ConfigError: unknown `norm`.
    """
    cls = _one_of(self, "norm", NORMS)
    return cls(epsilon=self.norm_eps, name=name)


_OPTIONS = tuple(
  name for name in Options.__annotations__ if name not in ("parent", "name")
)


def _one_of(module, key, table):
  """Looks up an option by its name."""
  name = getattr(module, key)
  if name not in table:
    raise lookup.unknown(
      key, name, table, f"{fields.key(module)}.{key}", lookup.ConfigError
    )
  return table[name]


class MlpBlock(Options):
  """Two dense layers with an activation between them.

  Attributes:
    mlp_dim: int, hidden width; None means 4 times the input width.
    dropout: float, rate after the activation.
    dtype_mm: str, dtype of the computation; parameters are float32.
  """

  mlp_dim: int | None = None
  dropout: float = 0.0
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(self, x: Array, deterministic: bool = True) -> Array:
    """Applies the block.

    Args:
      x: [B, T, D].
      deterministic: bool, turns dropout off.

    Returns:
      [B, T, D].

    Raises:
      ConfigError: unknown activation.
    """
    dense = functools.partial(
      nn.Dense,
      dtype=self.dtype_mm,
      use_bias=self.mlp_bias,
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.normal(stddev=1e-6),
    )
    act = _one_of(self, "act", ACTIVATIONS)
    d = x.shape[-1]
    mlp_dim = self.mlp_dim or 4 * d
    y = activations.hidden(dense(mlp_dim)(x))
    y = act(y)
    if self.glu:
      y = y * activations.hidden(dense(mlp_dim, name="up")(x))
    y = nn.Dropout(rate=self.dropout)(y, deterministic)
    return dense(d)(y)


class Attention(Options):
  """Multi-head attention, `nn.MultiHeadDotProductAttention` with more options.

  Its parameters have the names of that module.

  Attributes:
    num_heads: int.
    dtype_mm: str, dtype of matrix products; None is that of the inputs.
  """

  num_heads: int = 12
  dtype_mm: str | None = None

  @nn.compact
  def __call__(
    self,
    queries: Array,
    keys: Array,
    mask: Array | None = None,
    rotations: rope.Rope | None = None,
  ) -> Array:
    """Applies attention.

    Args:
      queries: [B, T, D].
      keys: [B, S, D], keys and values.
      mask: bool, broadcast to [B, H, T, S]: which keys a query attends to;
        None means all.
      rotations: rotary positions of T = S tokens.

    Returns:
      [B, T, D].

    Raises:
      ConfigError: unknown `qk_norm`, or `attn_bias` has other letters.
    """
    if set(self.attn_bias) - set("qkvo"):
      raise lookup.ConfigError(
        f"config.{fields.key(self)}.attn_bias={self.attn_bias!r} should be letters "
        "of 'qkvo': query, key, value and out."
      )
    d = queries.shape[-1]
    layer = functools.partial(
      nn.DenseGeneral,
      dtype=self.dtype_mm,
      kernel_init=nn.initializers.xavier_uniform(),
    )
    q, k, v = (
      layer(
        (self.num_heads, d // self.num_heads),
        use_bias=name[0] in self.attn_bias,
        name=name,
      )(x)
      for name, x in (("query", queries), ("key", keys), ("value", keys))
    )
    if self.qk_norm is not None:
      norm = _one_of(self, "qk_norm", NORMS)
      q = norm(epsilon=self.norm_eps, name="query_norm")(q)
      k = norm(epsilon=self.norm_eps, name="key_norm")(k)
    if rotations is not None:
      q, k = rope.rotate(q, rotations), rope.rotate(k, rotations)
    q = activations.heads(q)
    k, v = (activations.heads(x, "act_keys") for x in (k, v))
    x = attention.dot_product_attention(q, k, v, mask, dtype=self.dtype_mm)
    return layer(d, axis=(-2, -1), use_bias="o" in self.attn_bias, name="out")(
      x
    )


# In checkpoints, and for random keys.
_ATTENTION = "MultiHeadDotProductAttention_0"


class Encoder1DBlock(Options):
  """Pre-norm block of self-attention and MLP.

  Attributes:
    mlp_dim: int, hidden width of the MLP; None means 4 times the width.
    num_heads: int.
    dropout: float, rate after attention, after the MLP, and inside the MLP.
    dtype_mm: str, dtype of matrix products.
  """

  mlp_dim: int | None = None
  num_heads: int = 12
  dropout: float = 0.0
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(
    self,
    x: Array,
    deterministic: bool = True,
    mask: Array | None = None,
    rotations: rope.Rope | None = None,
    drop_rate: Array | float | None = None,
  ) -> tuple[Array, dict[str, Array]]:
    """Applies the block.

    Args:
      x: [B, T, D].
      deterministic: bool, turns dropout off.
      mask: [B, T, T] bool, which keys (last) a query attends to; None means
        all.
      rotations: rotary positions of the tokens.
      drop_rate: probability to leave out each of the two parts; None is 0.

    Returns:
      ([B, T, D], dict of intermediates).
    """
    out = {}
    more = self.options()
    x = activations.tokens(x)
    y = self.normalize()(x)
    y = out["sa"] = Attention(
      num_heads=self.num_heads,
      dtype_mm=self.dtype_mm,
      name=_ATTENTION,
      **more,
    )(y, y, None if mask is None else mask[:, None], rotations)
    y = activations.tokens(y)
    y = nn.Dropout(rate=self.dropout)(y, deterministic)
    x = out["+sa"] = x + self._scaled(y, "ls1", deterministic, drop_rate)

    y = self.normalize()(x)
    y = out["mlp"] = MlpBlock(
      mlp_dim=self.mlp_dim,
      dropout=self.dropout,
      dtype_mm=self.dtype_mm,
      **more,
    )(y, deterministic)
    y = activations.tokens(y)
    y = nn.Dropout(rate=self.dropout)(y, deterministic)
    x = out["+mlp"] = x + self._scaled(y, "ls2", deterministic, drop_rate)
    return activations.tokens(x), out

  def _scaled(self, y, name, deterministic, drop_rate):
    """Scales what a part of the block adds, or leaves it out."""
    if self.layerscale is not None:
      init = nn.initializers.constant(self.layerscale)
      scale = self.param(name, init, y.shape[-1:]).astype(y.dtype)
      y = y * scale[None, None]
    if drop_rate is None or deterministic:
      return y
    keep = 1 - drop_rate
    kept = jax.random.bernoulli(
      self.make_rng("dropout"), keep, (y.shape[0], 1, 1)
    )
    return jnp.where(kept, y / jnp.asarray(keep, y.dtype), 0)


class Encoder(Options):
  """Stack of blocks and a final normalization.

  Attributes:
    depth: int, number of blocks.
    mlp_dim: int, hidden width of the MLPs; None means 4 times the width.
    num_heads: int.
    dropout: float, rate.
    scan: bool, compiles one block, stacks the parameters [depth, ...], and
      recomputes activations in the backward pass.
    remat_policy: str, which activations are kept with `scan`: an attribute of
      `jax.checkpoint_policies`; None and "none" mean "nothing_saveable".
    dtype_mm: str, dtype of matrix products.
    final_norm: bool, whether the result is normalized.
  """

  depth: int
  mlp_dim: int | None = None
  num_heads: int = 12
  dropout: float = 0.0
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  dtype_mm: str = "float32"
  final_norm: bool = True

  @nn.compact
  def __call__(
    self,
    x: Array,
    deterministic: bool = True,
    mask: Array | None = None,
    rotations: rope.Rope | None = None,
  ) -> tuple[Array, dict[str, Any]]:
    """Applies all blocks and the normalization.

    Args:
      x: [B, T, D].
      deterministic: bool, turns dropout off.
      mask: [B, T, T] bool, which keys (last) a query attends to; None means
        all.
      rotations: rotary positions of the tokens.

    Returns:
      ([B, T, D], dict of intermediates, for example `block00/sa`).

    Raises:
      ValueError: unknown `remat_policy` or dtype, or the number of heads does
        not divide D.
    """
    out = {}
    fields.check_dtype(self.dtype_mm, f"{fields.key(self)}.dtype_mm")
    fields.check_heads(self.num_heads, x.shape[-1], fields.key(self))
    block = dict(
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout=self.dropout,
      dtype_mm=self.dtype_mm,
      **self.options(),
    )
    rates = self._drop_rates()
    if self.scan:
      rematted = nn.remat(
        Encoder1DBlock,
        prevent_cse=False,  # Scan itself prevents it.
        static_argnums=(2,),  # `deterministic`; 0 is self.
        policy=checkpoint_policy(self.remat_policy),
      )
      x, stacked = nn.scan(
        rematted,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0),
        length=self.depth,
      )(name="encoderblock", **block)(x, deterministic, mask, rotations, rates)
      for i in range(self.depth):
        out[f"block{i:02d}"] = jax.tree.map(lambda o, i=i: o[i], stacked)
    else:
      for i in range(self.depth):
        layer = Encoder1DBlock(name=f"encoderblock_{i}", **block)
        rate = None if rates is None else rates[i]
        x, out[f"block{i:02d}"] = layer(x, deterministic, mask, rotations, rate)
    out["pre_ln"] = x
    return (self.normalize("encoder_norm")(x) if self.final_norm else x), out

  def _drop_rates(self):
    """Returns the rates [depth] of stochastic depth, or None."""
    if not self.drop_path:
      return None
    if not 0 <= self.drop_path < 1:
      raise lookup.ConfigError(
        f"config.{fields.key(self)}.drop_path={self.drop_path} should be in [0, 1)."
      )
    return np.linspace(0, self.drop_path, self.depth, dtype=np.float32)


# Others of `jax.checkpoint_policies` only make policies, from arguments.
_REMAT_POLICIES = (
  "nothing_saveable",
  "everything_saveable",
  "dots_saveable",
  "checkpoint_dots",
  "dots_with_no_batch_dims_saveable",
  "checkpoint_dots_with_no_batch_dims",
)


def checkpoint_policy(name: str | None) -> Any:
  """Finds a policy of `nn.remat`.

  Args:
    name: `remat_policy` of a model.

  Returns:
    The function of `jax.checkpoint_policies`; None, which saves nothing, for None
    and "none".

  Raises:
    ConfigError: unknown name.
  """
  if name in (None, "none"):
    return None
  if name not in _REMAT_POLICIES:
    raise lookup.unknown("policy", name, _REMAT_POLICIES, "model.remat_policy")
  return getattr(jax.checkpoint_policies, name)


class MAPHead(Options):
  """Pools with multi-head attention: one learned query attends to all tokens.

  Attributes:
    mlp_dim: int, hidden width of the MLP; None means 4 times the width.
    num_heads: int.
  """

  mlp_dim: int | None = None
  num_heads: int = 12

  @nn.compact
  def __call__(self, x: Array, mask: Array | None = None) -> Array:
    """Pools tokens.

    Args:
      x: [B, T, D].
      mask: [B, T] bool, which tokens to attend to; None means all.

    Returns:
      [B, D].
    """
    n, _, d = x.shape
    fields.check_heads(self.num_heads, d, fields.key(self))
    init = nn.initializers.xavier_uniform()
    probe = self.param("probe", init, (1, 1, d), x.dtype)
    probe = jnp.tile(probe, [n, 1, 1])
    more = self.options()
    x = Attention(num_heads=self.num_heads, name=_ATTENTION, **more)(
      probe, x, None if mask is None else mask[:, None, None]
    )
    # The residual starts here: the probe itself is not added.
    y = self.normalize()(x)
    x = x + MlpBlock(mlp_dim=self.mlp_dim, **more)(y)
    return x[:, 0]
