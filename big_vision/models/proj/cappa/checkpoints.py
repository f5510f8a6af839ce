"""Loads `cappa`: the whole model, or a ViT into its encoder."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision.models import common, vit
from big_vision.models.proj.uvim.vtt_checkpoints import (
  NOT_OF_ENCODER,
  check_init_files,
  load_vit,
)
from big_vision.models.vit_checkpoints import fit_posemb
from big_vision.types import ConfigLike, Params

_BLOCK = "EncDecBlock"
_PARAMS_AXIS = 1  # Along which blocks of the decoder are stacked.


def load(
  init_params: Params | None,
  init_files: Any,
  model_params: ConfigLike | None = None,
  dont_load: str | Sequence[str] = NOT_OF_ENCODER,
) -> Params:
  """Loads the whole model, or a ViT into its encoder, at any resolution.

  Blocks that are stacked in the checkpoint but not in the model, or the other way
  round, are restacked, in the decoder too.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all that
      a checkpoint of the whole model has.
    init_files: str, the path of a checkpoint of the whole model (or a Loaded);
      or a mapping `{"encoder": x}`, where x is what `vit.load` takes, or a
      published ViT. The decoder keeps its initial values.
    model_params: mapping, `config.model`, or None.
    dont_load: regexes of parameters that keep their initial values or are left
      out; with `encoder` they are names of the ViT.

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of
    `init_params`.

  Raises:
    ConfigError: the mapping does not have `encoder` alone.
    ValueError: parameters do not match, see `common.merge_params`.
  """
  scan = _is_stacked(init_params, model_params)
  if isinstance(init_files, str | os.PathLike | common.Loaded):
    source: Any = init_files
    unused = () if dont_load == NOT_OF_ENCODER else dont_load
    convert = lambda p: _restack(common.convert_pre_linen(p), scan)
    params = common.load(init_params, source, unused, convert)
    if init_params is None:
      return params
    encoder = params["encoder"]
    positions = init_params["encoder"].get("pos_embedding")
    if positions is not None and encoder["pos_embedding"] is not positions:
      new = fit_posemb(encoder["pos_embedding"], positions, source)
      params["encoder"] = {**encoder, "pos_embedding": new}
    return params
  check_init_files(init_files)
  if init_params is None:
    raise ValueError("Initial parameters are needed to load an encoder alone.")
  encoder = load_vit(
    init_params["encoder"],
    init_files["encoder"],
    {"scan": scan},
    dont_load=dont_load,
  )
  return {**init_params, "encoder": encoder}


def _is_stacked(init_params, model_params):
  """Tells whether the model has `scan`; None if that is not known."""
  if init_params is not None:
    return "encoderblock" in init_params["encoder"]["Transformer"]
  return None if model_params is None else bool(model_params.get("scan"))


def _restack(params: Mapping[str, Any], scan: bool | None) -> Params:
  """Stacks or unstacks all blocks where the model needs the other layout."""
  if scan is None or "encoder" not in params:
    return dict(params)
  params = {**params, "encoder": vit.restack(params["encoder"], scan)}
  decoder = dict(params.get("decoder", {}))
  stacked = _BLOCK in decoder
  if scan and not stacked:
    names = [k for k in decoder if k.startswith(_BLOCK)]
    blocks = [decoder.pop(f"{_BLOCK}{i}") for i in range(len(names))]
    if blocks:
      stack = lambda *xs: np.stack([np.asarray(x) for x in xs], _PARAMS_AXIS)
      decoder[_BLOCK] = jax.tree.map(stack, *blocks)
  elif stacked and not scan:
    block = decoder.pop(_BLOCK)
    for i in range(jax.tree.leaves(block)[0].shape[_PARAMS_AXIS]):
      decoder[f"{_BLOCK}{i}"] = jax.tree.map(
        lambda x, i=i: np.take(np.asarray(x), i, _PARAMS_AXIS), block
      )
  if "decoder" in params:
    params["decoder"] = decoder
  return params
