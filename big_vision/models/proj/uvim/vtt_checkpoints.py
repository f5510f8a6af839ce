"""Loads `vtt`: the whole model, or a ViT into its encoder, on a grid of patches."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from big_vision import lookup, trees
from big_vision.models import common, load_errors, positions, vit
from big_vision.types import ConfigLike, Params


class Patches(NamedTuple):
  """Holds `config.model.patches`.

  Attributes:
    size: (height, width) in pixels.
  """

  size: tuple[int, int]


def patches_of(value: Any) -> Patches:
  """Reads the size of patches.

  Args:
    value: `config.model.patches`, a mapping or an object with `size`.

  Returns:
    The Patches.

  Raises:
    ConfigError: it does not say the size.
  """
  size = getattr(value, "size", None)
  if size is None and isinstance(value, Mapping):
    size = value.get("size")
  if size is None:
    raise lookup.ConfigError(
      f"config.model.patches={value!r} should be dict(size=(height, width)) in "
      "pixels, for example dict(size=(16, 16))."
    )
  return Patches(tuple(size))


def image_grid(
  model_cfg: ConfigLike, size: Sequence[int], key: str = "model"
) -> positions.ImageGrid:
  """Tells how the encoder cuts images into patches.

  Args:
    model_cfg: mapping, `config.model`.
    size: (height, width) of the images in pixels.
    key: config key of the model, for error messages.

  Returns:
    The ImageGrid.

  Raises:
    ConfigError: the patch is larger than the image.
  """
  patches = patches_of((model_cfg or {}).get("patches"))
  return positions.image_grid(size, patches.size, key)


# A ViT has these for its own task; one that does not, fits as well.
NOT_OF_ENCODER = ("head/kernel", "head/bias", "cls")

# Name in a ViT -> name here.
_OF_ENCODER = {
  "pos_embedding": "pos_embedding_encoder",
  "Transformer": "encoder",
  "embedding": "EmbedPatches",
}


def load(
  init_params: Params | None,
  init_files: Any,
  model_params: ConfigLike | None = None,
  dont_load: str | Sequence[str] = NOT_OF_ENCODER,
  encoder_load_kw: Mapping[str, Any] | None = None,
) -> Params:
  """Loads the whole model, or a ViT into its encoder.

  Args:
    init_params: parameters of the model, arrays or shapes; None returns all that
      a checkpoint of the whole model has.
    init_files: str, the path of a checkpoint of the whole model (or a Loaded);
      or a mapping `{"encoder": x}`, where x is what `vit.load` or a published
      ViT, see `models/weights/sources.py`. The decoder keeps its initial values.
    model_params: mapping, `config.model`, or None.
    dont_load: regexes of parameters that keep their initial values or are left
      out; with `encoder` they are names of the ViT.
    encoder_load_kw: mapping, further arguments of `vit.load`.

  Returns:
    Nested dict of parameters; leaves that are not loaded are those of
    `init_params`.

  Raises:
    ValueError: the mapping does not have `encoder` alone, positions are not
      learned, or parameters do not match, see `common.merge_params`.
  """
  if isinstance(init_files, str | os.PathLike | common.Loaded):
    source: Any = init_files
    unused = () if dont_load == NOT_OF_ENCODER else dont_load
    return common.load(init_params, source, unused, common.convert_pre_linen)
  return _load_encoder(
    init_params, init_files, model_params, dont_load, encoder_load_kw
  )


def _load_encoder(
  init_params, init_files, model_params, dont_load, encoder_load_kw
):
  """Loads a ViT into the encoder; see `load`."""
  check_init_files(init_files)
  if "pos_embedding_encoder" not in init_params:
    raise lookup.ConfigError(
      "config.model_init.encoder has learned positions, which the model lacks: "
      "it needs config.model.posemb_type='learn'."
    )
  args = model_params or {}
  if args.get("patches") and args.get("input_size"):
    grid = image_grid(args, args["input_size"]).stored
    encoder_load_kw = {"grid": grid, **(encoder_load_kw or {})}
  init = {vit_name: init_params[name] for vit_name, name in _OF_ENCODER.items()}
  kw = {"dont_load": dont_load, **(encoder_load_kw or {})}
  loaded = load_vit(init, init_files["encoder"], {}, **kw)
  renamed = {name: loaded[old] for old, name in _OF_ENCODER.items()}
  return {**init_params, **renamed}


def check_init_files(init_files: Any) -> None:
  """Refuses what is neither a path nor `{"encoder": ...}`.

  Args:
    init_files: `config.model_init`, not the path of the whole model.

  Raises:
    ConfigError: it does not have the key `encoder`, and no other.
  """
  if not isinstance(init_files, Mapping) and not hasattr(init_files, "items"):
    raise lookup.ConfigError(
      f"config.model_init={init_files!r} should be the path of a checkpoint of "
      "the whole model, or {'encoder': the path of a ViT}."
    )
  if set(init_files) != {"encoder"}:
    raise lookup.ConfigError(
      f"config.model_init={dict(init_files)} should have one key, encoder: the "
      "path of a ViT. For a checkpoint of the whole model give its path alone."
    )


def load_vit(
  init: Params, init_file: Any, model_cfg: ConfigLike, **kw: Any
) -> Params:
  """Loads a ViT that is to be the encoder of another model.

  Args:
    init: parameters of the encoder, by the names of a ViT.
    init_file: what `vit.load` takes; or a published ViT, see
      `models/weights/sources.py`.
    model_cfg: as for `vit.load`.
    **kw: further arguments of `vit.load`. What `dont_load` names may be missing
      on either side.

  Returns:
    Nested dict with the names of `init`.

  Raises:
    ValueError: see `vit.load`.
  """
  more = {}
  if kw.get("dont_load"):  # All of it has to match something.
    unused = {name: jnp.zeros(()) for name in NOT_OF_ENCODER}
    more = trees.recover_tree(list(unused), list(unused.values()))
  with load_errors.within("encoder_load_kw"):
    loaded = vit.load(init | more, _published(init_file), model_cfg, **kw)
  return {name: loaded[name] for name in init}


def _published(init_file):
  """Reads a published checkpoint in place of its name."""
  from big_vision.models.weights import sources

  if not sources.is_source(init_file):
    return init_file
  path, part = sources.split(init_file)
  checkpoint = sources.Checkpoint(path, "vit")
  has_towers = checkpoint.found.model_name != "vit"
  return checkpoint.loaded(part or ("img" if has_towers else None))
