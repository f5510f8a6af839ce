"""Loads `jetformer`."""

import os
from collections.abc import Sequence
from typing import Any

from big_vision import lookup
from big_vision.models import common
from big_vision.models.ppp import gemma_checkpoints
from big_vision.types import ConfigLike, Params


def load(
  init_params: Params | None,
  init_files: Any,
  model_params: ConfigLike | None = None,
  dont_load: str | Sequence[str] = (),
) -> Params:
  """Loads a checkpoint of the model, with layers stacked or not.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all
      that the checkpoint has.
    init_files: str, a path `<path>[:<sub/tree>]`.
    model_params: mapping, `config.model`, or None; not used.
    dont_load: regexes of parameters that keep their initial values or are left
      out.

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of
    `init_params`.

  Raises:
    ConfigError: it is not a path.
    ValueError: parameters do not match, see `common.merge_params`.
  """
  del model_params
  if not isinstance(init_files, str | os.PathLike | common.Loaded):
    raise lookup.ConfigError(
      f"config.model_init={init_files!r} is not the path of a checkpoint."
    )

  def restack(params):
    decoder = params.get("decoder", {})
    if init_params is None or "layers" not in decoder:
      return params
    scan = "0" not in init_params["decoder"]["layers"]
    layers = gemma_checkpoints.restack(decoder["layers"], scan)
    return {**params, "decoder": {**decoder, "layers": layers}}

  source: Any = init_files
  return common.load(init_params, source, dont_load, restack)
