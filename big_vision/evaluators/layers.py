"""Names the features of a model that probes are fitted to.

  cls4        class tokens of the last 4 blocks, one after the other
  cls4+mean   these, and the mean of the last block's patches
  mean4       means of the patches of the last 4 blocks
  pre_logits  any other name: an array [B, D] among the model's intermediates

Tokens are normalized by the norm at the end of the encoder, those of earlier
blocks, too, as in DINOv2's linear evaluation.

Shapes: B batch, T tokens, D features, h, w grid of patches.

References: Oquab et al. 2023, section B.3, https://arxiv.org/abs/2304.07193.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from big_vision import trees
from big_vision.lookup import ConfigError
from big_vision.types import Array, Params, TrainState

_TOKENS = re.compile(r"(cls|mean)([1-9]\d*)(\+mean)?")
# What DINOv2 chooses from.
_NUM_BLOCKS = (1, 4)


def parts_of(layer: str) -> list[str]:
  """Lists what a layer consists of.

  Args:
    layer: see the top of this file.

  Returns:
    For example ["cls2", "cls1", "mean1"], numbers of blocks from the end, whose
    arrays one after the other are the layer "cls2+mean".
  """
  match = _TOKENS.fullmatch(layer)
  if match is None:
    return [layer]
  kind, num, mean = match.groups()
  parts = [f"{kind}{i}" for i in range(int(num), 0, -1)]
  return parts + ["mean1"] * (mean is not None and kind == "cls")


def default_layers(train_state: TrainState, tower: str = "") -> list[str]:
  """Chooses the layers that a sweep tries.

  Args:
    train_state: with `params`, arrays or shapes.
    tower: name of the parameters of the image tower, "" if that is the model.

  Returns:
    Those of DINOv2 for a ViT with a class token; means of patches and
    `pre_logits` for others; else `pre_logits`.
  """
  params = _params(train_state, tower)
  pooled = _path(tower, "pre_logits")
  depth = _depth(params)
  if not depth or "embedding" not in params:
    return [pooled]
  nums = sorted({min(n, depth) for n in _NUM_BLOCKS})
  if "cls" in params:
    return [f"cls{n}{mean}" for n in nums for mean in ("", "+mean")]
  return [*(f"mean{n}" for n in nums), pooled]


def compute(
  layers: Sequence[str],
  zimg: Array,
  out: Mapping[str, Any],
  train_state: TrainState,
  tower: str = "",
  norm_eps: float = 1e-6,
) -> dict[str, Array]:
  """Computes all parts of some layers.

  Args:
    layers: see the top of this file; "zimg" is the first output.
    zimg: first output of the predict function.
    out: its intermediates.
    train_state: with the parameters of the norm.
    tower: name of the image tower among parameters and intermediates, "" if it
      is the model.
    norm_eps: of the norm, `config.model.norm_eps`.

  Returns:
    Part -> [B, D].

  Raises:
    ConfigError: the model does not have a layer.
  """
  parts, encoded = {}, {}
  for layer in layers:
    is_token = _TOKENS.fullmatch(layer)
    for part in parts_of(layer):
      if part in parts:
        continue
      if not is_token:
        parts[part] = _named(part, zimg, out)
        continue
      kind = part.rstrip("0123456789")
      number = int(part.removeprefix(kind))
      if number not in encoded:
        encoded[number] = tokens(
          number, out, train_state, tower, norm_eps, layer
        )
      classes, patches = encoded[number]
      if kind == "mean":
        parts[part] = jnp.mean(patches, axis=(1, 2))
      elif classes is None:
        raise ConfigError(
          f"representation layer {layer!r}: the model has no class token; use "
          "mean1, mean4 or pre_logits."
        )
      else:
        parts[part] = classes
  return parts


def tokens(
  number: int,
  out: Mapping[str, Any],
  train_state: TrainState,
  tower: str,
  norm_eps: float,
  layer: str,
) -> tuple[Array | None, Array]:
  """Finds the normalized tokens after a block of a ViT.

  Args:
    number: of the block from the end, 1 for the last one.
    out: intermediates.
    train_state: see `compute`.
    tower: see `compute`.
    norm_eps: see `compute`.
    layer: that needs it, for error messages.

  Returns:
    (class token [B, D], or None if there is none; patches [B, h, w, D]).

  Raises:
    ConfigError: the model has no such block.
  """
  blocks: Any = out.get(_path(tower, "encoder"))
  stem: Any = out.get(_path(tower, "stem"))
  names = sorted(k for k in blocks or () if re.fullmatch(r"block\d+", k))
  if not names or getattr(stem, "ndim", None) != 4:
    raise ConfigError(
      f"representation layer {layer!r} is for a ViT, whose intermediates have a "
      f"grid of patches and blocks; this model has "
      f"{', '.join(sorted(out))}{'' if tower else ' (tower=img for two towers)'}."
    )
  if number > len(names):
    raise ConfigError(
      f"representation layer {layer!r}: the model has {len(names)} blocks."
    )
  params = _params(train_state, tower)
  x = blocks[names[-number]]["+mlp"]
  x = _normalize(x, params, norm_eps)
  _, h, w, d = stem.shape
  prefix = x.shape[1] - h * w
  patches = x[:, prefix:].reshape(len(x), h, w, d)
  return x[:, 0] if "cls" in params else None, patches


def _normalize(x: Array, params: Params, eps: float) -> Any:
  """Applies the norm of the encoder's end; there may be none."""
  norm = params["Transformer"].get("encoder_norm") or params.get("pool_norm")
  if norm is None:
    return x
  layer = nn.LayerNorm if "bias" in norm else nn.RMSNorm
  return layer(epsilon=eps).apply({"params": norm}, x)


def _named(name, zimg, out):
  """Returns an intermediate by its name."""
  x = zimg if name == "zimg" else trees.tree_get(out, name)
  if getattr(x, "ndim", None) != 2:
    raise ConfigError(
      f"representation layer {name!r} should be an array [batch, features], "
      f"got {getattr(x, 'shape', x)}."
    )
  return x


def _path(tower: str, name: str) -> str:
  return f"{tower}/{name}" if tower else name


def _params(train_state: TrainState, tower: str) -> Params:
  params = train_state.get("params", {})
  if tower and tower not in params:
    raise ConfigError(
      f"tower={tower!r}: the model has {', '.join(sorted(params))}."
    )
  return params[tower] if tower else params


def _depth(params: Any) -> int:
  """Counts the blocks of a ViT; 0 for other models."""
  encoder = params.get("Transformer") or {}
  if "encoderblock" in encoder:  # Stacked, for `scan`.
    norms = trees.tree_flatten_with_names(encoder["encoderblock"])[0]
    return int(norms[0][1].shape[0])
  return sum(re.fullmatch(r"encoderblock_\d+", k) is not None for k in encoder)
