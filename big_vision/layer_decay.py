"""Layer-wise decay of the learning rate: early layers change less.

Of a model with L blocks, layer 0 is what comes before them (embeddings, positions,
class tokens), layer i the i-th block (from 1), layer L + 1 all that comes after
them. The learning rate of layer i has the factor decay**(L + 1 - i). Each tower of
a model counts its own blocks; what belongs to no tower has the factor 1.

References:
  Bao et al. 2021 (BEiT), https://arxiv.org/abs/2106.08254
  He et al. 2021 (MAE), table 9, https://arxiv.org/abs/2111.06377
"""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
import optax
from absl import logging

from big_vision import lookup, trees
from big_vision.types import AnyArray, ConfigLike, PyTree

# Tower, then perhaps the module that has the blocks, then the block.
_BLOCK = re.compile(
  r"(?P<tower>([\w-]+/)*?)"
  r"((Transformer|Encoder_0)/|BertEncoder_0/encoder_block/layer_sequence/)?"
  r"(?P<block>encoderblock(_\d+)?|MixerBlock_\d+|layers_\d+|block_\d+"
  r"|block\d+/unit\d+|stage\d+/block\d+)/.*"
)
# What comes before the blocks, below the tower.
_STEM = re.compile(
  r"(embedding|pos_embedding|cls|dist|registers|pre_norm|stem|Embed_0"
  r"|conv_root|gn_root|root_block|BertEncoder_0/embedder)(/.*)?"
)
_STACKED = "encoderblock"  # Of `scan`: the first axis is the block.


@dataclasses.dataclass
class _Tower:
  """Counts the blocks of a tower; a stacked one stands for `depth` of them."""

  blocks: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
  stacked: int = 0

  @property
  def depth(self) -> int:
    return self.stacked or len(self.blocks)

  def number(self, block: str) -> int:
    """Returns the number of a block, from 1."""
    return 1 + sorted(self.blocks, key=self.blocks.__getitem__).index(block)


def factors(decay: float, params: PyTree, model_name: Any = None) -> PyTree:
  """Computes the factor of the learning rate of each parameter.

  Args:
    decay: in (0, 1], the ratio of the factors of neighboring layers.
    params: tree of parameters or of their shapes.
    model_name: `config.model_name`, for the error message.

  Returns:
    Tree of float32 scalars; for the stacked blocks of `scan`, of arrays
    [depth, 1, ...].

  Raises:
    lookup.ConfigError: the model has no blocks that are known here.
  """
  named, treedef = trees.tree_flatten_with_names(params)
  towers: dict[str, _Tower] = {}
  for name, x in named:
    if match := _BLOCK.fullmatch(name):
      tower = towers.setdefault(match["tower"], _Tower())
      tower.blocks[match["block"]] = _numbers(match["block"])
      if match["block"] == _STACKED:
        tower.stacked = x.shape[0]
  if not towers:
    raise lookup.ConfigError(
      f"config.layer_decay: the parameters of config.model_name={model_name!r} "
      "have no blocks that are known, such as Transformer/encoderblock_0: use "
      "config.lr_mults = [(regex, multiplier), …]."
    )
  return treedef.unflatten([_factor(decay, n, x, towers) for n, x in named])


def _numbers(block: str) -> tuple[int, ...]:
  return tuple(map(int, re.findall(r"\d+", block)))


def _factor(
  decay: float, name: str, x: AnyArray, towers: dict[str, _Tower]
) -> np.ndarray:
  """Computes the factor of one parameter."""
  if match := _BLOCK.fullmatch(name):
    tower = towers[match["tower"]]
    layer = np.array(tower.number(match["block"]))
    if match["block"] == _STACKED:
      layer = np.arange(1, tower.depth + 1).reshape(-1, *[1] * (x.ndim - 1))
  else:
    prefix = max((t for t in towers if name.startswith(t)), key=len, default="")
    if prefix not in towers:
      return np.float32(1)
    tower = towers[prefix]
    is_stem = _STEM.fullmatch(name.removeprefix(prefix))
    layer = np.array(0 if is_stem else tower.depth + 1)
  return np.asarray(float(decay) ** (tower.depth + 1 - layer), np.float32)


def check(decay: Any) -> None:
  """Refuses what is not a decay.

  Args:
    decay: `config.layer_decay`; None is off.

  Raises:
    lookup.ConfigError: it is not a number in (0, 1].
  """
  is_number = isinstance(decay, (int, float)) and not isinstance(decay, bool)
  if decay is not None and not (is_number and 0 < decay <= 1):
    raise lookup.ConfigError(
      f"config.layer_decay = {decay!r} must be a number above 0, up to 1, for "
      "example 0.75; None is the same learning rate for all layers."
    )


def scale(config: ConfigLike, params: PyTree) -> optax.GradientTransformation:
  """Makes what scales updates by `config.layer_decay`.

  Args:
    config: reads `layer_decay`, and `model_name` for errors.
    params: tree of parameters or of their shapes.

  Returns:
    The transformation; it has no state.

  Raises:
    lookup.ConfigError: see `factors`.
  """
  of = factors(config["layer_decay"], params, config.get("model_name"))
  groups: dict[str, list[str]] = {}
  for name, factor in trees.tree_flatten_with_names(of)[0]:
    shown = " ".join(f"{f:.3g}" for f in np.ravel(factor))
    groups.setdefault(shown, []).append(name)
  for shown, names in groups.items():
    logging.info("config.layer_decay: %s for %s", shown, ", ".join(names))

  def multiply(updates, params):
    del params
    return jax.tree.map(lambda u, f: u * f.astype(u.dtype), updates, of)

  return optax.stateless(multiply)
