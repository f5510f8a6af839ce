"""Stage I of UViM: a ViT that encodes labels as a short sequence of codes.

An encoder turns the labels of each patch into `code_len` vectors, which are
quantized; a decoder, which may see the image, turns them into labels again.

References:
  Kolesnikov et al. 2022, UViM, https://arxiv.org/abs/2205.10337

Shapes: `B` batch, `N` patches, `n` = code_len, `D` width, `c` size of a codeword,
`K` size of the dictionary. The names of the modules are the names in checkpoints,
and random keys derive from them and from the order of calls.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision import checkpoints, lookup
from big_vision.models import activations, common, fields, vit
from big_vision.models.proj.uvim import bottleneck, quantizers
from big_vision.models.proj.uvim.quantizers import (
  PERTURB,
  quantize,
  split_the_most_frequent_embedding,
)
from big_vision.types import Array, ConfigLike, Params

__all__ = [
  "Model",
  "PERTURB",
  "load",
  "quantize",
  "split_the_most_frequent_embedding",
]

_QUANTIZERS = ("vq", "fsq")
# Collection with the sums over a batch, for those who update the dictionary
# themselves.
STATISTICS = "statistics"


class Model(nn.Module):
  """Encodes labels as codes, and decodes them.

  Attributes:
    inputs, outputs: name -> shape of the labels of one patch.
    input_size: (height, width) of labels and images, pixels.
    patch_size: (height, width), pixels.
    code_len: int, n.
    width: int, D.
    enc_depth, dec_depth: ints, numbers of blocks.
    mlp_dim: int, hidden width of MLPs; None means 4 D.
    num_heads: int.
    posemb: str, "learn" or "sincos2d".
    rep_size: not used.
    dropout: float, rate in the encoder.
    reinit: not used.
    head_zeroinit: bool, whether kernels of the heads start as zeros.
    dict_size: int, K.
    codeword_dim: int, c; None means D.
    dict_momentum: float, decay of the averages that are the codewords.
    quantize: bool, whether there are codewords at all.
    statistics_axis_name: str, axis of `jax.pmap` or `jax.shard_map` over which
      counts are summed, where there is such an axis. Arrays of a whole batch, as
      under `jax.jit`, need none.
    min_count: float, codes that are rarer are replaced.
    with_encoder_ctx, with_decoder_ctx: bools, whether these see the image.
    code_dropout: str, how the decoder's codes are left out in training: "none",
      "seq" the last ones, "random" any.
    bottleneck_resize: bool, whether codes are a square grid that is resized,
      instead of learned combinations of the patches.
    zero_decoder_seq: bool, hides the codes from the decoder.
    quantizer: str, "vq" a dictionary that follows the vectors, or "fsq" rounding
      to `fsq_levels`, which has no state.
    fsq_levels: ints, whose product is `dict_size`; their number is c.
    dtype_mm: str, dtype of the layers but those that make codes and the heads;
      parameters are float32.
  """

  inputs: Mapping[str, Sequence[int]]
  outputs: Mapping[str, Sequence[int]]
  input_size: Sequence[int] = (256, 256)
  patch_size: Sequence[int] = (8, 8)
  code_len: int = 256
  width: int = 768
  enc_depth: int = 6
  dec_depth: int = 6
  mlp_dim: int | None = None
  num_heads: int = 12
  posemb: str = "learn"
  rep_size: int | bool = False
  dropout: float = 0.0
  reinit: Any = None
  head_zeroinit: bool = True
  dict_size: int = 512
  codeword_dim: int | None = None
  dict_momentum: float = 0.995
  quantize: bool = True
  statistics_axis_name: str | None = "batch"
  min_count: float = 0.1
  with_encoder_ctx: bool = False
  with_decoder_ctx: bool = False
  code_dropout: str = "none"
  bottleneck_resize: bool = False
  zero_decoder_seq: bool = False
  quantizer: str = "vq"
  fsq_levels: Sequence[int] = (8, 8, 8)
  dtype_mm: str = "float32"

  @property
  def grid(self) -> tuple[int, int]:
    """Numbers of (rows, columns) of patches."""
    (h, w), (p, q) = self.input_size, self.patch_size
    return h // p, w // q

  def setup(self):
    fields.check_dtype(self.dtype_mm, "model.dtype_mm")
    self._check()
    grid, num = self.grid, math.prod(self.grid)
    self.pos_embedding_encoder = vit.get_posemb(
      self, self.posemb, grid, self.width, "pos_embedding_encoder"
    )
    xavier = nn.initializers.xavier_uniform()
    if not self.bottleneck_resize:
      self.bottleneck_downsample = self.param(
        "bottleneck_downsample", xavier, (num, self.code_len)
      )
    if self.quantizer == "vq":
      size = (self.dict_size, self.codeword_dim or self.width)
      self.dictionary = self.variable(
        "state", "dictionary", lambda: self._random_dictionary(size)
      )
      self.counts = self.variable("state", "counts", jnp.ones, size[:1])
    if not self.bottleneck_resize:
      self.bottleneck_upsample = self.param(
        "bottleneck_upsample", xavier, (self.code_len, num)
      )
    self.pos_embedding_decoder = vit.get_posemb(
      self, self.posemb, grid, self.width, "pos_embedding_decoder"
    )

    kernel = (
      {"kernel_init": nn.initializers.zeros} if self.head_zeroinit else {}
    )
    for name, shape in self.inputs.items():
      axes = tuple(range(-len(shape), 0))
      layer = nn.DenseGeneral(
        self.width, axis=axes, dtype=self.dtype_mm, name=f"embedding_{name}"
      )
      setattr(self, f"embedding_{name}", layer)
    for name, shape in self.outputs.items():
      layer = nn.DenseGeneral(tuple(shape), name=f"head_{name}", **kernel)
      setattr(self, f"head_{name}", layer)

    def of_image(name):
      patch = tuple(self.patch_size)
      return nn.Conv(
        self.width,
        patch,
        strides=patch,
        padding="VALID",
        dtype=self.dtype_mm,
        name=name,
      )

    if self.with_encoder_ctx:
      self.ctx_enc_embedding = of_image("ctx_enc_embedding")
    if self.with_decoder_ctx:
      self.ctx_dec_embedding = of_image("ctx_dec_embedding")
    blocks = dict(
      mlp_dim=self.mlp_dim, num_heads=self.num_heads, dtype_mm=self.dtype_mm
    )
    self.encoder = vit.Encoder(
      depth=self.enc_depth, dropout=self.dropout, name="encoder", **blocks
    )
    self.decoder = vit.Encoder(
      depth=self.dec_depth, dropout=self.dropout, name="decoder", **blocks
    )
    is_fsq = self.quantizer == "fsq"
    dim = len(self.fsq_levels) if is_fsq else self.codeword_dim or self.width
    self.encoder_head = nn.Dense(dim)
    self.decoder_stem = nn.Dense(self.width, dtype=self.dtype_mm)

  def _random_dictionary(self, size):
    """Draws the initial dictionary [K, c]."""
    init = nn.initializers.normal(stddev=1 / np.sqrt(size[0]))
    return init(self.make_rng("state"), size, jnp.float32)

  def _check(self):
    """Refuses settings that do not fit each other."""
    bottleneck.check_dropout(self.code_dropout)
    bottleneck.check_sizes(
      self.input_size, self.patch_size, self.code_len, self.bottleneck_resize
    )
    if self.quantizer not in _QUANTIZERS:
      raise lookup.unknown(
        "quantizer",
        self.quantizer,
        _QUANTIZERS,
        "model.quantizer",
        lookup.ConfigError,
      )
    size = math.prod(self.fsq_levels)
    if self.quantizer == "fsq" and size != self.dict_size:
      raise lookup.ConfigError(
        f"config.model.fsq_levels={tuple(self.fsq_levels)} make {size} codes; "
        f"config.model.dict_size={self.dict_size} must be that number."
      )

  def get_codewords(self) -> Array:
    """Computes the codewords.

    Returns:
      [K, c], of length 1, or the grid of "fsq".
    """
    if self.quantizer == "fsq":
      return jnp.asarray(quantizers.fsq_codewords(self.fsq_levels))
    return quantizers.codewords(self.dictionary.value, self.counts.value)

  def encode(
    self,
    x: Mapping[str, Array],
    *,
    ctx: Array | None = None,
    train: bool = False,
    update_dict: bool = True,
  ) -> tuple[Array, dict[str, Any]]:
    """Encodes labels.

    Args:
      x: name -> [B, N, ...], labels of each patch, see `inputs`.
      ctx: [B, H, W, 3], the image, if the encoder sees it.
      train: turns dropout on, and measures the use of codes. The collection
        `statistics`, where it is mutable, then gets `counts` [K] and, for "vq",
        `dictionary` [K, c], sums over the batch.
      update_dict: whether to update the collection `state`, which must be
        mutable, when training.

    Returns:
      (codewords [B, n, c], out): `out["code"]` is int32 [B, n], and there are
      `stem`, `bottleneck`, `bottleneck_q`.
    """
    out: dict[str, Any] = {}
    out["stem"] = {
      name: getattr(self, f"embedding_{name}")(x[name]) for name in self.inputs
    }
    tokens = sum(out["stem"].values())
    if self.with_encoder_ctx:
      tokens = tokens + self._patches(self.ctx_enc_embedding, ctx)
    tokens = self._with_positions(tokens, self.pos_embedding_encoder)
    tokens, _ = self.encoder(tokens, not train)

    if self.bottleneck_resize:
      side = math.isqrt(self.code_len)
      tokens = bottleneck.resize(tokens, self.grid, (side, side))
    else:
      weights = self.bottleneck_downsample
      tokens = bottleneck.combine("btc,tn->bnc", tokens, weights, self.dtype_mm)
    # Rounding would change which code is nearest.
    z = self.encoder_head(jnp.asarray(tokens, jnp.float32))
    if self.quantizer == "fsq":
      z, quantized, code = quantizers.fsq(z, self.fsq_levels)
    else:
      z = jax.nn.standardize(z, axis=-1)
      quantized, code = quantize(z, self.get_codewords())
    out |= {"bottleneck": z, "bottleneck_q": quantized, "code": code}

    if train:
      out |= self._count(z, code, update_dict)
    if not self.quantize:
      out["bottleneck_q"] = quantized = z
    return quantized, out

  def _count(self, z, code, update_dict):
    """Measures the use of codes, and updates the dictionary."""
    total = lambda v: _sum_over(v, self.statistics_axis_name)
    sums = {"counts": total(quantizers.count(code, self.dict_size))}
    if self.quantizer == "vq":
      vectors = quantizers.sums(jax.lax.stop_gradient(z), code, self.dict_size)
      sums["dictionary"] = total(vectors)
    if not self.is_initializing():
      if self.is_mutable_collection(STATISTICS):
        for name, value in sums.items():
          self.put_variable(STATISTICS, name, value)
      if update_dict and self.quantizer == "vq":
        old = {
          "dictionary": self.dictionary.value,
          "counts": self.counts.value,
        }
        new = self.updated(old, sums, self.make_rng("vqvae"))
        self.dictionary.value = new["dictionary"]
        self.counts.value = new["counts"]
    return quantizers.usage(sums["counts"])

  def updated(
    self,
    state: Mapping[str, Array],
    statistics: Mapping[str, Array],
    rng: Array,
  ) -> dict[str, Array]:
    """Computes the dictionary after a batch.

    Args:
      state: `dictionary` [K, c] and `counts` [K] before.
      statistics: the same of the batch, from the collection `statistics`.
      rng: random key.

    Returns:
      The new `dictionary` and `counts`.
    """
    return quantizers.update(
      state,
      statistics["counts"],
      statistics["dictionary"],
      rng,
      momentum=self.dict_momentum,
      min_count=self.min_count,
    )

  def decode(
    self,
    x: Array,
    ctx: Array | None = None,
    discrete_input: bool = False,
    train: bool = False,
  ) -> tuple[dict[str, Array], dict[str, Any]]:
    """Decodes labels.

    Args:
      x: [B, n, c] codewords, or int [B, n] codes.
      ctx: [B, H, W, 3], the image, if the decoder sees it.
      discrete_input: whether `x` has codes.
      train: turns the dropout of codes on.

    Returns:
      (logits, {"logits": logits}): name -> [B, N, ...], see `outputs`.
    """
    if discrete_input:
      x = self.get_codewords()[x]
    if self.zero_decoder_seq:
      x = jnp.zeros_like(x)
    if train and self.code_dropout != "none":
      x = x * self._kept_codes(len(x))[..., None]
    tokens = self.decoder_stem(x)
    if self.bottleneck_resize:
      side = math.isqrt(self.code_len)
      tokens = bottleneck.resize(tokens, (side, side), self.grid)
    else:
      weights = self.bottleneck_upsample
      tokens = bottleneck.combine("bnc,nt->btc", tokens, weights, self.dtype_mm)
    if self.with_decoder_ctx:
      tokens = tokens + self._patches(self.ctx_dec_embedding, ctx)
    tokens = self._with_positions(tokens, self.pos_embedding_decoder)
    tokens, _ = self.decoder(tokens, True)
    logits = {
      name: getattr(self, f"head_{name}")(tokens) for name in self.outputs
    }
    return logits, {"logits": logits}

  def _kept_codes(self, num):
    """Draws which codes the decoder sees, [B, n]."""
    return bottleneck.kept_codes(
      lambda: self.make_rng("dropout"), self.code_dropout, num, self.code_len
    )

  def __call__(
    self,
    x: Mapping[str, Array],
    *,
    ctx: Array | None = None,
    train: bool = False,
    update_dict: bool = True,
  ) -> tuple[dict[str, Array], dict[str, Any]]:
    """Encodes and decodes labels.

    Args:
      x, ctx, train, update_dict: as for `encode`.

    Returns:
      (logits, out): those of `decode`, and what `encode` and `decode` return.
    """
    codes, encoded = self.encode(
      x, ctx=ctx, train=train, update_dict=update_dict
    )
    logits, decoded = self.decode(codes, ctx=ctx, train=train)
    return logits, {**encoded, **decoded}

  def _image(self, ctx):
    """Checks the image that the model is to see."""
    if ctx is None:
      raise lookup.ConfigError(
        "config.model.with_encoder_ctx and with_decoder_ctx need the image: keep "
        '"image" in config.input.pp.'
      )
    if ctx.shape[1:3] != tuple(self.input_size):
      raise lookup.ConfigError(
        f"The image has shape {list(ctx.shape)}, but config.model.input_size is "
        f"{tuple(self.input_size)}."
      )
    return ctx

  def _patches(self, embedding, ctx):
    """Embeds the patches of an image, [B, N, D]."""
    x = activations.patches(embedding(self._image(ctx)))
    return x.reshape(x.shape[0], -1, x.shape[-1])

  def _with_positions(self, x, positions):
    """Adds positions to tokens."""
    return x + positions.astype(x.dtype)


def _sum_over(x, axis_name):
  """Sums over an axis of `pmap` or `shard_map`, where there is one."""
  if not axis_name:
    return x
  try:
    return jax.lax.psum(x, axis_name)
  except NameError:  # Under jit: the batch is whole.
    return x


def load(
  init_params: Mapping[str, Any] | None,
  init_file: str | os.PathLike | Mapping[str, Any],
  model_params: ConfigLike = None,
  dont_load: str | Sequence[str] = (),
) -> tuple[Params, Params]:
  """Loads parameters and dictionary from a checkpoint.

  Args:
    init_params: `{"params": ..., "state": ...}` of the model, arrays or shapes;
      None returns all that the checkpoint has.
    init_file: an npz file, the folder of a checkpoint or the prefix of those of
      a run (`<workdir>/checkpoint.bv`), or their content.
    model_params: not used.
    dont_load: regexes of names, which begin with `params/` or `state/`, that keep
      their initial values.

  Returns:
    (params, state).

  Raises:
    ConfigError: the checkpoint has no parameters.
    ValueError: names differ, see `common.merge_params`.
  """
  del model_params
  loaded = _read(init_file)
  loaded["params"] = {
    {"Encoder": "encoder", "Decoder": "decoder"}.get(name, name): value
    for name, value in common.convert_pre_linen(loaded["params"]).items()
  }
  # Rounding has no state, of which a checkpoint stores nothing.
  loaded.setdefault("state", {})
  merged = common.merge_params(loaded, init_params, dont_load)
  return merged["params"], merged.get("state", {})


def _read(source):
  """Reads `params` and `state` of a checkpoint."""
  if isinstance(source, Mapping):
    tree = dict(source)
  elif ".npz" in (path := os.fspath(source)):
    tree = checkpoints.load_checkpoint_np(path)
  else:
    tree = checkpoints.load_checkpoint_ts(
      path, regex="(params|state)/", shardings="host"
    )
  found = {k: tree[k] for k in ("params", "state") if k in tree}
  if not isinstance(found.get("params"), Mapping):
    name = "The checkpoint" if isinstance(source, Mapping) else source
    raise lookup.ConfigError(
      f"{name} is not a checkpoint of stage I: it has "
      f"{', '.join(sorted(tree)[:5]) or 'nothing'}, but not params/... and "
      "state/...: give the workdir of a run of trainers/proj/uvim/vqvae.py."
    )
  return found
