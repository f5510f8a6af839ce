"""Transformer encoder for text, the text tower of LiT and SigLIP.

Attention is bidirectional, and includes padding unless `pad_token` is given:
public models are trained with texts of one fixed length.

References:
  Zhai et al. 2021, LiT, https://arxiv.org/abs/2111.07991
  Zhai et al. 2023, SigLIP, https://arxiv.org/abs/2303.15343

Shapes: `B` batch, `L` length in tokens, `D` width, `C` classes, `V` vocabulary.
The names of the modules are the names in checkpoints.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from big_vision import checkpoints, lookup
from big_vision.models import common, fields, load_errors, transformer, vit
from big_vision.types import Array, ConfigLike, Params

_POOL_TYPES = ("last", "first", "mean", "gap", "max", "gmp", "map", "eot")


class _Model(transformer.Options):
  """Text transformer; `Model` lists the fields."""

  num_classes: int | None
  width: int = 512
  depth: int = 12
  mlp_dim: int = 2048
  num_heads: int = 8
  dropout: float = 0.0
  vocab_size: int = 32_000
  pool_type: str = "last"
  scan: bool = False
  remat_policy: str | None = "nothing_saveable"
  pad_token: int | None = None
  causal: bool = False
  eot_token: int | None = None
  head_bias: bool = True
  dtype_mm: str = "float32"

  @nn.compact
  def __call__(
    self, text: Array, *, train: bool = False
  ) -> tuple[Array, dict[str, Any]]:
    """Applies the model.

    Args:
      text: [B, L] int, tokens in [0, V). L is always that of the
        initialization.
      train: bool, turns dropout on.

    Returns:
      (x, out): x is [B, C], or [B, D] without classes; out is a dict of named
      intermediates.

    Raises:
      NotImplementedError: unknown pool type.
    """
    if self.pool_type not in _POOL_TYPES:
      raise NotImplementedError(
        str(
          lookup.unknown(
            "pool type", self.pool_type, _POOL_TYPES, "model.text.pool_type"
          )
        )
      )
    out = {}
    fields.check_dtype(self.dtype_mm, f"{fields.key(self)}.dtype_mm")
    exists = attend_to = pooled = None
    if self.pad_token is not None:
      exists = _not_padding(text, self.pad_token)  # [B, L]
      attend_to, pooled = exists[:, None], exists[:, :, None]
    if self.causal:
      before = jnp.tri(text.shape[1], dtype=bool)[None]
      attend_to = before if attend_to is None else before & attend_to
    embed = nn.Embed(num_embeddings=self.vocab_size, features=self.width)
    x = out["embedded"] = embed(text)  # [B, L, D]
    x = x + vit.get_posemb(
      self, "learn", x.shape[1], self.width, "pos_embedding"
    )
    x = jnp.asarray(x, self.dtype_mm)
    x, encoder_out = vit.Encoder(
      depth=self.depth,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout=self.dropout,
      scan=self.scan,
      remat_policy=self.remat_policy,
      dtype_mm=self.dtype_mm,
      **self.options(),
    )(x, deterministic=not train, mask=attend_to)
    out.update({"transformed": x, **encoder_out})

    # Compiled code that does not use these does not compute them.
    out["vocab_logits"] = embed.attend(x)  # [B, L, V]

    if self.pool_type == "eot":
      end = text if self.eot_token is None else text == self.eot_token
      at = jnp.argmax(end, axis=1)[:, None, None]
      x = jnp.take_along_axis(x, at, axis=1)[:, 0]
    elif self.pool_type == "last":
      x = x[:, -1]
    elif self.pool_type == "first":
      x = x[:, 0]
    elif self.pool_type in ("mean", "gap"):
      x = jnp.mean(x, axis=1, where=pooled)
    elif self.pool_type in ("max", "gmp"):
      lowest = None if pooled is None else jnp.finfo(x.dtype).min
      x = jnp.max(x, axis=1, where=pooled, initial=lowest)
    else:
      x = vit.MAPHead(
        num_heads=self.num_heads, mlp_dim=self.mlp_dim, **self.options()
      )(x, exists)
    out["pre_logits"] = x  # [B, D]

    if self.num_classes:
      head = nn.Dense(self.num_classes, use_bias=self.head_bias, name="head")
      x = out["logits"] = head(x)
    return x, out


def _not_padding(text, pad_token):
  """Marks [B, L] tokens other than padding; all, if a text is only padding."""
  exists = text != pad_token
  return exists | ~jnp.any(exists, axis=1, keepdims=True)


def Model(
  num_classes: int | None, *, variant: str | None = None, **kw: Any
) -> _Model:
  """Makes a text transformer of a named size.

  Args:
    num_classes: int, outputs of the head; None or 0 leaves out the head.
    variant: str, a size of `vit.decode_variant`, for example "B".
    **kw: overrides of the variant, and
      width, depth, mlp_dim, num_heads: default 512, 12, 2048, 8.
      dropout: rate inside the blocks.
      vocab_size: number of tokens, default 32000.
      pool_type: "last" or "first" token, "mean" (or "gap"), "max" (or "gmp"),
        "map" attention, "eot" the first `eot_token`.
      causal: bool, whether tokens attend only to those before them.
      eot_token: id of the end of texts; None takes the highest id of each text.
      head_bias: bool, whether the head has a bias.
      scan, remat_policy, dtype_mm: see `vit.Encoder`; and the keywords of
        `transformer.Options`.
      pad_token: id of the padding, which attention and pooling then leave out;
        the default None treats it as any other token. The pool types "last" and
        "first" take these positions even if they are padding; padding attends
        to the text.

  Returns:
    The linen module.

  Raises:
    KeyError: unknown variant.
    ValueError: the variant has a patch size.
    TypeError: unknown keyword.
  """
  size = vit.decode_size(variant, "model.text.variant", "which text does not")
  return _Model(num_classes, **{**size, **kw})


def load(
  init_params: Params | None,
  init_file: str | Params,
  model_cfg: ConfigLike,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads a checkpoint of any age and stacking of the blocks.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoint has. They also tell whether the blocks are stacked.
    init_file: str, a path `<path>[:<sub/tree>]`.
    model_cfg: not used.
    dont_load: regexes of parameters that keep their initial values, for example
      ["head/.*"].

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of
    `init_params`.

  Raises:
    ValueError: parameters do not match, see `common.merge_params`, or the
      checkpoint belongs to another length of text.
  """
  del model_cfg
  params = common.convert_pre_linen(checkpoints.load_params(init_file))

  # Some models added positions twice: before the encoder, and in it.
  extra = params.get("Encoder_0", {}).pop("pos_embedding", None)
  if extra is not None:
    params["pos_embedding"] = params["pos_embedding"] + extra

  if init_params:
    params = _stack_like(params, init_params)
  params = common.merge_params(params, init_params, dont_load)
  if init_params:
    _check_length(params, init_params, init_file)
  return params


def _stack_like(params, init_params):
  """Stacks or unstacks the blocks of the encoder, as the model has them."""
  scan = "encoderblock" in init_params.get("Encoder_0", {})
  # `restack` knows the encoder by its name in image models.
  renamed = {"Transformer": params.get("Encoder_0", {})}
  return {**params, "Encoder_0": vit.restack(renamed, scan)["Transformer"]}


def _check_length(params, init_params, init_file):
  """Raises ValueError if the checkpoint has another number of positions."""
  got, want = (p.get("pos_embedding") for p in (params, init_params))
  if want is not None and tuple(got.shape) != tuple(want.shape):
    raise ValueError(
      f"pos_embedding of {init_file!r} is {tuple(got.shape)}, but that of the "
      f"model {tuple(want.shape)}: tokenize to the length of the checkpoint, "
      f"{got.shape[1]}, in config.input.pp, or list pos_embedding in "
      f"{load_errors.load_key()}.dont_load."
    )
