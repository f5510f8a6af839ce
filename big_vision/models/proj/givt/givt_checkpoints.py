"""Loads `givt`: the whole model, or a ViT into its encoder."""

import os
from collections.abc import Sequence
from typing import Any

from big_vision.models import common
from big_vision.models.proj.uvim import vtt_checkpoints
from big_vision.models.vit_checkpoints import fit_posemb
from big_vision.types import ConfigLike, Params

_OF_ENCODER = "pos_embedding_encoder"


def load(
  init_params: Params | None,
  init_files: Any,
  model_params: ConfigLike | None = None,
  dont_load: str | Sequence[str] = (),
  resample_encoder_posemb: bool = False,
  trim_decoder_posemb: bool = False,
) -> Params:
  """Loads the whole model, or a ViT into its encoder.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all that
      a checkpoint of the whole model has.
    init_files: str, the path of a checkpoint of the whole model (or a Loaded);
      or a mapping `{"encoder": x}`, where x is what `vit.load` takes, or a
      published ViT. The decoder keeps its initial values.
    model_params: mapping, `config.model`, or None.
    dont_load: regexes of parameters that keep their initial values or are left
      out; with `encoder` they are names of the ViT, and none leaves its head out.
    resample_encoder_posemb: whether the positions of the encoder in a checkpoint
      of the whole model may be of images of another size.
    trim_decoder_posemb: whether the decoder in it may be of longer sequences, of
      whose positions the first are taken.

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of
    `init_params`.

  Raises:
    ConfigError: the mapping does not have `encoder` alone.
    ValueError: parameters do not match, see `common.merge_params`.
  """
  if not isinstance(init_files, str | os.PathLike | common.Loaded):
    args = dict(model_params or {})
    if args.get("patches"):
      args["patches"] = {"size": args["patches"]}
    return vtt_checkpoints.load(
      init_params,
      init_files,
      args,
      dont_load or vtt_checkpoints.NOT_OF_ENCODER,
    )
  source: Any = init_files
  params = common.load(init_params, source, dont_load)
  if init_params is None:
    return params
  if resample_encoder_posemb and _OF_ENCODER in init_params:
    new = fit_posemb(params[_OF_ENCODER], init_params[_OF_ENCODER], source)
    params[_OF_ENCODER] = new
  if trim_decoder_posemb:
    length = init_params["decoder"]["pos_emb"].shape[1]
    decoder = params["decoder"]
    trimmed = decoder["pos_emb"][:, :length]
    params["decoder"] = {**decoder, "pos_emb": trimmed}
  return params
